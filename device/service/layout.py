"""Where a board keeps what: the software, the configuration, and the store of bundles.

Standard library alone: the installer imports it on a bare board, and `device.bundle` imports it too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from device.core.state import SERVICE_FOLDER

USER = "ghostwatt"
"""The daemon's user and group."""

MANIFEST_NAME = "manifest.json"
SIGNATURE_NAME = "manifest.json.sig"
ALLOWED_SIGNERS_NAME = "allowed_signers"
REVOKED_KEYS_NAME = "revoked_keys"

Role = Literal["current", "previous"]
"""Which bundle of a profile: the one that runs, or the one to go back to."""


class StoreLayout:
    """The places in a store of bundles; `device.bundle.store` says what happens there.

    ::

        bundles/<sha256 of the manifest>/     a bundle
        profiles/<name>/current               -> ../../bundles/<sha256>
        profiles/<name>/previous              -> ../../bundles/<sha256>
        profiles/<name>/trial.json            while `current` has yet to prove itself

    Args:
        root: the store's folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.bundles = root / "bundles"

    def bundle(self, sha256: str) -> Path:
        """The folder of a bundle."""
        return self.bundles / sha256

    def profile(self, name: str) -> Path:
        """The folder of what is known of a profile's bundles."""
        return self.root / "profiles" / name

    def profile_names(self) -> tuple[str, ...]:
        """Profiles that have such a folder."""
        return tuple(sorted(path.name for path in self.root.glob("profiles/*")))

    def profiles(self) -> tuple[str, ...]:
        """Profiles that have a current bundle."""
        return tuple(name for name in self.profile_names() if self.target(name, "current") is not None)

    def trial(self, profile: str) -> Path:
        """The file about a bundle on trial."""
        return self.profile(profile) / "trial.json"

    def link(self, profile: str, role: Role) -> Path:
        """The link to a profile's bundle."""
        return self.profile(profile) / role

    def link_text(self, sha256: str) -> str:
        """What such a link holds."""
        return f"../../bundles/{sha256}"

    def target(self, profile: str, role: Role) -> str | None:
        """The sha256 that names the bundle which a link points to; None if there is no such link, or no such bundle."""
        link = self.link(profile, role)
        return link.resolve().name if link.is_symlink() and link.exists() else None


class Layout:
    """The places, under the root of a file system.

    Args:
        root: ``/``, or a folder that stands for it.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self.root = root
        self.software = root / "opt/ghostwatt"
        self.configuration = root / "etc/ghostwatt"
        self.state = root / SERVICE_FOLDER
        self.store = StoreLayout(self.state)
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
        """Link to the release before it."""
        return self.software / "previous"

    def drop_ins(self, profile: str) -> Path:
        """The folder of drop-ins for one profile's unit."""
        return self.units / f"ghostwatt@{profile}.service.d"

    def outside(self, path: Path) -> str:
        """A path as it is on the board itself."""
        return "/" + str(path.relative_to(self.root))


def unit_name(profile: str) -> str:
    """The unit that runs a profile."""
    return f"ghostwatt@{profile}.service"
