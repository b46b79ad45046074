"""Lazy tables of plug-ins: name -> ``module:Class``.

Nothing is imported until it is asked for by name. Packages from outside add to a table by an entry point in the group
``ghostwatt.<table>`` (``ghostwatt.sources``, ``ghostwatt.runtimes``, ``ghostwatt.meters``, ``ghostwatt.sinks``)::

    [project.entry-points."ghostwatt.meters"]
    mymeter = "my_package.meter:MyMeter"

The name is what a profile says. A name of our own wins over an outsider's of the same name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from device.core.errors import MissingDependencyError, UsageError, UsageReason, nearest

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint


class Registry:
    """One table.

    Args:
        kind: what the table holds, in the singular ("runtime"), for messages and for the entry points' group.
        targets: name -> ``module:Class``.
        base: ``module:Class`` that every class of the table derives from; outsiders' are checked.
    """

    def __init__(self, kind: str, targets: Mapping[str, str], base: str = "device.core.plugin:Plugin") -> None:
        self.kind = kind
        self._targets = dict(targets)
        self._base = base

    def own_names(self) -> tuple[str, ...]:
        """Names of our own; looks at nothing that is installed."""
        return tuple(sorted(self._targets))

    def names(self) -> tuple[str, ...]:
        """Every name that `load` takes, ours and outsiders'."""
        return tuple(sorted({point.name for point in self._outsiders()} | set(self._targets)))

    def load(self, name: str) -> Any:
        """Imports a plug-in's class. What the plug-in wraps is imported only when it opens.

        Raises:
            UsageError: ``unknown_<kind>``: no such name; says which there are. ``malformed_<kind>``: an outsider's entry point
                that names no subclass of ``base``.
            MissingDependencyError: ``not_installed``: an outsider's module that can't be imported.
        """
        found = self._targets.get(name)
        if found is not None:
            return _import_target(found)
        for point in self._outsiders():
            if point.name == name:
                return self._load_outsider(point)
        raise UsageError(
            self.kind,
            f"{name!r} is not known",
            expected=nearest(name, self.names()),
            reason=cast("UsageReason", f"unknown_{self.kind}"),
        )

    def _outsiders(self) -> Iterable[EntryPoint]:
        # Imported here: it costs 4 MB, and a board that runs our own has no use for it.
        from importlib.metadata import entry_points

        return entry_points(group=f"ghostwatt.{self.kind}s")

    def _load_outsider(self, point: EntryPoint) -> Any:
        where = f"{self.kind} {point.name}"
        package = point.dist.name if point.dist else "the package that brings it"
        try:
            found = point.load()
        except (ImportError, AttributeError) as error:
            raise MissingDependencyError(
                where,
                f"{point.value} can't be imported ({error})",
                remedy=f"install {package} anew, with what it needs",
                reason="not_installed",
            ) from error
        if not (isinstance(found, type) and issubclass(found, _import_target(self._base))):
            raise UsageError(
                where,
                f"{point.value} is no {self.kind}",
                expected=f"a subclass of {self._base.replace(':', '.')}",
                remedy=f"update {package}",
                reason=cast("UsageReason", f"malformed_{self.kind}"),
            )
        return found


def _import_target(target: str) -> Any:
    module, _, attribute = target.partition(":")
    return getattr(import_module(module), attribute)
