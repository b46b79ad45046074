"""Our own wheel for a board: the package ``device`` with one architecture's native library, and nothing else.

References:
    Python packaging's "Binary distribution format".
"""

from __future__ import annotations

import base64
import hashlib
import zipfile
from pathlib import Path

from device import __version__

DEVICE = Path(__file__).parents[2] / "device"

# The earliest time that a zip can hold, always the same: equal files give equal bytes.
_MOMENT = (1980, 1, 1, 0, 0, 0)
_SUFFIXES = (".py", ".typed", ".html", ".json", ".css", ".js", ".svg")


def write_wheel(folder: Path, arch: str) -> Path:
    """Writes the wheel.

    Args:
        folder: for it.
        arch: machine, as ``uname -m`` prints it; its native library must be built.

    Returns:
        Its file. Equal sources give equal bytes.
    """
    info = f"ghostwatt-{__version__}.dist-info"
    tag = f"py3-none-linux_{arch}"
    files = {f"device/{path.relative_to(DEVICE)}": path.read_bytes() for path in _sources(arch)}
    files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: ghostwatt\nVersion: {__version__}\n".encode()
    files[f"{info}/WHEEL"] = f"Wheel-Version: 1.0\nGenerator: ghostwatt\nRoot-Is-Purelib: false\nTag: {tag}\n".encode()
    record = "".join(f"{name},{_hash(content)},{len(content)}\n" for name, content in files.items())
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    wheel = folder / f"ghostwatt-{__version__}-{tag}.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name, _MOMENT), content, zipfile.ZIP_DEFLATED)
    return wheel


def _sources(arch: str) -> list[Path]:
    library = DEVICE / "runtimes/native/lib" / arch
    return sorted(
        path
        for path in DEVICE.rglob("*")
        if path.is_file()
        and (path.suffix in _SUFFIXES or (path.parent == library and path.suffix == ".so"))
        and "__pycache__" not in path.parts
    )


def _hash(content: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
