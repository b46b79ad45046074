"""Where a board keeps what."""

from __future__ import annotations

from pathlib import Path

USER = "ghostwatt"
"""The daemon's user and group."""


class Layout:
    """The places, under the root of a file system.

    Args:
        root: ``/``, or a folder that plays its part.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self.root = root
        self.software = root / "opt/ghostwatt"
        self.configuration = root / "etc/ghostwatt"
        self.state = root / "var/lib/ghostwatt"
        self.units = root / "etc/systemd/system"
        self.unit = self.units / "ghostwatt@.service"
        self.launcher = root / "usr/local/bin/ghostwatt"

    @property
    def releases(self) -> Path:
        """A folder for each version of the software."""
        return self.software / "releases"

    @property
    def current(self) -> Path:
        """Link to the release that runs."""
        return self.software / "current"

    @property
    def previous(self) -> Path:
        """Link to the one before it."""
        return self.software / "previous"

    def drop_ins(self, profile: str) -> Path:
        """The folder of what one profile's unit has beyond the template."""
        return self.units / f"ghostwatt@{profile}.service.d"

    def outside(self, path: Path) -> str:
        """A path as the board itself will call it."""
        return "/" + str(path.relative_to(self.root))


def unit_name(profile: str) -> str:
    """The unit that runs a profile."""
    return f"ghostwatt@{profile}.service"
