"""Where this machine keeps what a bundle can't bring along, such as the board's own power model.

One folder, the first of:

1. ``$GHOSTWATT_STATE``, if it is set;
2. ``/var/lib/ghostwatt``, if it exists: the service's, so that the service and a person read the same;
3. ``$XDG_STATE_HOME/ghostwatt``, or ``~/.local/state/ghostwatt``.

References:
    XDG Base Directory Specification 0.8: ``XDG_STATE_HOME``. Filesystem Hierarchy Standard 3.0, section 5.8: ``/var/lib``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from device.core.durable import write_durably
from device.core.errors import SinkError

VARIABLE = "GHOSTWATT_STATE"
SERVICE_FOLDER = "var/lib/ghostwatt"


def find_state_folder(root: Path = Path("/"), environment: Mapping[str, str] | None = None) -> Path:
    """Finds the folder; doesn't make it.

    Args:
        root: of the file system; all three lie under it, so that a captured tree never reads the real one.
        environment: variables; this process's if None.
    """
    variables = os.environ if environment is None else environment
    if named := variables.get(VARIABLE):
        return _under(root, Path(named).absolute())
    service = root / SERVICE_FOLDER
    if service.is_dir():
        return service
    home = Path(variables.get("HOME") or "/root")
    return _under(root, Path(variables.get("XDG_STATE_HOME") or home / ".local/state").absolute() / "ghostwatt")


def make_state_folder(folder: Path) -> None:
    """Makes the folder if it isn't there, and checks that it can be written.

    Raises:
        SinkError: ``permission``, or ``full``.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        scratch = folder / f".writable.{os.getpid()}"
        scratch.touch()
        scratch.unlink()
    except OSError as error:
        raise _refuse(folder, error) from error


def replace_file(path: Path, content: bytes) -> None:
    """Replaces a file durably, see `write_durably`. Everybody may read it.

    Raises:
        SinkError: ``permission``, or ``full``; the old file is as it was.
    """
    try:
        write_durably(path, content)
    except OSError as error:
        raise _refuse(path, error) from error


def _under(root: Path, path: Path) -> Path:
    return root / path.relative_to("/")


def _refuse(path: Path, error: OSError) -> SinkError:
    is_refused = isinstance(error, PermissionError)
    return SinkError(
        str(path),
        f"can't be written ({error.strerror or error})",
        remedy=f"run it with sudo, or set {VARIABLE} to a folder of your own" if is_refused else "",
        reason="permission" if is_refused else "full",
    )
