"""Small wheels, made by hand."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path


def write_wheel(
    folder: Path,
    name: str,
    files: Mapping[str, bytes],
    *,
    version: str = "1.0",
    tags: str = "py3-none-any",
    record: Mapping[str, str] | None = None,
) -> Path:
    """Writes a wheel.

    Args:
        folder: of wheels.
        name: of the package.
        files: path in the wheel -> content.
        version: likewise.
        tags: of its name.
        record: path -> hash to list instead of the right one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"{name}-{version}-{tags}.whl"
    info = f"{name}-{version}.dist-info"
    content = {**files, f"{info}/METADATA": f"Name: {name}\nVersion: {version}\n".encode()}
    lines = []
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, data in content.items():
            archive.writestr(path, data)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            lines.append(f"{path},{(record or {}).get(path, f'sha256={digest}')},{len(data)}\n")
        archive.writestr(f"{info}/RECORD", "".join([*lines, f"{info}/RECORD,,\n"]))
    return wheel
