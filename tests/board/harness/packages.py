"""The host's packages, for the emulated board and for the camera servers: ``make setup-board`` installs them, and every message
about a missing tool names it.

Run as a script, it installs what is missing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

# Tool -> Debian package that brings it.
TOOLS = {
    "qemu-system-aarch64": "qemu-system-arm",
    "mke2fs": "e2fsprogs",
    "depmod": "kmod",
    "cpio": "cpio",
    "xz": "xz-utils",
    "unshare": "util-linux",
    "systemd-sysusers": "systemd",
    "mount": "mount",
    "timeout": "coreutils",
    "chroot": "coreutils",
    "cc": "gcc",
    "aarch64-linux-gnu-g++": "g++-aarch64-linux-gnu",
    "motion": "motion",
    "promtool": "prometheus",
    "mosquitto": "mosquitto",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "openssl": "openssl",
    "git": "git",
    "make": "make",
}

# Packages without a tool of their own: the keys that sign Debian's archive, the headers of the C library, and GStreamer's
# RTSP server with what encodes for it.
LIBRARIES = (
    "debian-archive-keyring",
    "libc6-dev",
    "gir1.2-gst-rtsp-server-1.0",
    "python3-gi",
    "gstreamer1.0-plugins-base",
    "gstreamer1.0-plugins-good",
    "gstreamer1.0-plugins-ugly",
)


class MissingHostToolError(RuntimeError):
    """The host lacks something that ``make setup-board`` installs."""


def missing(tools: tuple[str, ...]) -> list[str]:
    """Names the tools that the host lacks.

    Args:
        tools: keys of `TOOLS`.
    """
    return [tool for tool in tools if find(tool) is None]


def find(tool: str) -> str | None:
    """Finds a tool, in the administrator's folders too, which are in no ordinary user's path."""
    if tool not in TOOLS:
        raise ValueError(f"{tool} is not in packages.TOOLS: add it with the package that brings it")
    return shutil.which(tool, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")


def require(tool: str) -> str:
    """Gives a tool's path.

    Raises:
        MissingHostToolError: it isn't installed; says what to do.
    """
    path = find(tool)
    if path is None:
        raise MissingHostToolError(f"{tool} is missing (package {TOOLS[tool]}): make setup-board")
    return path


def install() -> None:
    """Installs every package with apt-get, through sudo where the caller isn't root."""
    if shutil.which("apt-get") is None:
        raise MissingHostToolError("apt-get is missing: the emulated board is built on Debian, Ubuntu or a derivative")
    prefix = [] if os.geteuid() == 0 else ["sudo"]
    names = sorted({*TOOLS.values(), *LIBRARIES})
    environment = [*prefix, "env", "DEBIAN_FRONTEND=noninteractive"]
    subprocess.run([*environment, "apt-get", "-qq", "update"], check=True)
    subprocess.run([*environment, "apt-get", "-qq", "install", "-y", "--no-install-recommends", *names], check=True)


if __name__ == "__main__":
    try:
        install()
    except (MissingHostToolError, subprocess.CalledProcessError) as error:
        sys.exit(f"error: {error}")
