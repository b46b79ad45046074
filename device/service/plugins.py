"""What our plug-ins need of a machine, as the installer reads it: ``plugins.json``, since their classes need packages.

The file is made from the classes: ``python -m device.doctor.plugins > device/service/plugins.json``.
"""

from __future__ import annotations

import json
import pkgutil
from typing import Any, NamedTuple

NAME = "plugins.json"


class InstalledPlugin(NamedTuple):
    """One plug-in of ours; see `device.core.plugin.Needs`.

    Attributes:
        kind: its table: ``source``, ``meter``, ``runtime`` or ``sink``.
        name: in this table.
        extra: of ours that brings its packages; empty where the base install is enough.
        system_packages: of the distribution that it needs, and that come no other way.
        devices: that it opens, for ``DeviceAllow=``.
        groups: that own them.
        is_networked: it connects to other machines.
    """

    kind: str
    name: str
    extra: str
    system_packages: tuple[str, ...]
    devices: tuple[str, ...]
    groups: tuple[str, ...]
    is_networked: bool


def read_plugins() -> tuple[InstalledPlugin, ...]:
    """Every plug-in of ours."""
    # On a board that is being set up, the installer runs from inside the wheel: there is no file to open.
    data = pkgutil.get_data(__package__, NAME)
    assert data is not None, f"{NAME} is part of the package"
    rows: list[dict[str, Any]] = json.loads(data)
    return tuple(_read_row(row) for row in rows)


def _read_row(row: dict[str, Any]) -> InstalledPlugin:
    lists = {key: tuple(row[key]) for key in ("system_packages", "devices", "groups")}
    return InstalledPlugin(**{**row, **lists})
