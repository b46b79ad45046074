"""Cameras: on USB (V4L2), and on the Raspberry Pi's ribbon cable (libcamera, picamera2).

References:
    Raspberry Pi documentation, ``rpicam-hello --list-cameras``; config.txt, ``camera_auto_detect``.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator

from device.core.programs import NOT_THERE
from device.doctor.check import COMMAND_TIMEOUT_S, Check, Patient, Verdict
from device.sources.v4l2.formats import COSTS_NS, CameraListing, FrameSize, list_cameras

LISTERS = ("rpicam-hello", "libcamera-hello")
"""The second is the name until Bookworm."""

_SHOWN_FORMATS = 3
_GROUP_FIX = "join the group video: sudo usermod -aG video $USER, then log in again"
_CAMERA_LINE = re.compile(r"^\s*\d+ : (\S+) \[([^\]]*)\]", re.MULTILINE)


def check_v4l2(patient: Patient) -> Iterator[Check]:
    """Every camera that V4L2 knows, and what it offers."""
    cameras = list_cameras(patient.root)
    if not cameras:
        verdict: Verdict = "fail" if _wants(patient, "v4l2") else "unsupported"
        wanted = ", but the profile's camera is one" if verdict == "fail" else ""
        fix = "plug it in (lsusb lists what is there), or name another source: --source" if wanted else ""
        yield Check("camera v4l2", verdict, f"no /dev/video* gives pictures{wanted}", fix)
    for camera in cameras:
        yield judge_camera(camera, "fail" if _wants(patient, "v4l2") else "warn")


def check_ribbon(patient: Patient) -> Iterator[Check]:
    """The cameras that libcamera lists, and whether this Python can use them."""
    if not patient.is_raspberry_pi:
        yield Check("camera picamera2", "unsupported", "no Raspberry Pi: no ribbon cable")
        return
    verdict: Verdict = "fail" if _wants(patient, "picamera2") else "warn"
    if importlib.util.find_spec("picamera2") is None:
        fix = "sudo apt install python3-picamera2, and make the venv with --system-site-packages"
        yield Check("camera picamera2", verdict, "this Python has no picamera2", fix)
    else:
        yield Check("camera picamera2", "ok", "installed")
    yield _list_ribbon(patient, verdict)


def _list_ribbon(patient: Patient, verdict: Verdict) -> Check:
    for program in LISTERS:
        done = patient.command([program, "--list-cameras"], COMMAND_TIMEOUT_S)
        if done.code == NOT_THERE:
            continue
        cameras = [f"{name} ({modes})" for name, modes in _CAMERA_LINE.findall(done.out + done.err)]
        if cameras:
            return Check("camera libcamera", "ok", ", ".join(cameras))
        fix = "reseat the cable at both ends with the power off; camera_auto_detect=1 in /boot/firmware/config.txt, then reboot"
        return Check("camera libcamera", verdict, "no camera on the ribbon cable", fix)
    return Check(
        "camera libcamera",
        "unsupported",
        f"{LISTERS[0]} isn't installed, so nobody was asked",
        "sudo apt install rpicam-apps-lite",
    )


def judge_camera(camera: CameraListing, verdict: Verdict) -> Check:
    """The row of one camera; ``verdict`` is that of one that can't be read."""
    name = f"camera {camera.path}"
    if camera.problem:
        fix = _GROUP_FIX if "ermission" in camera.problem else "unplug it and plug it in again"
        return Check(name, verdict, f"{camera.name}: {camera.problem}", fix)
    readable = [entry for entry in camera.formats if entry.fourcc in COSTS_NS]
    if readable:
        shown = [f"{entry.fourcc} {_describe(entry.sizes)}".strip() for entry in readable[:_SHOWN_FORMATS]]
        more = f", and {len(readable) - _SHOWN_FORMATS} more formats" if len(readable) > _SHOWN_FORMATS else ""
        return Check(name, "ok", f"{camera.name} ({camera.driver}): {', '.join(shown)}{more}")
    if camera.formats:
        # A sensor on the ribbon cable has such nodes: raw, for libcamera.
        kinds = ", ".join(entry.fourcc for entry in camera.formats[:_SHOWN_FORMATS])
        return Check(name, "ok", f"{camera.name} ({camera.driver}): raw formats only ({kinds}); read it as picamera2:0")
    return Check(name, "warn", f"{camera.name} ({camera.driver}): lists no formats", "v4l2-ctl --list-formats-ext may say more")


def _describe(sizes: tuple[FrameSize, ...]) -> str:
    """The largest size, with its highest rate: ``1920x1080@30``."""
    if not sizes:
        return ""
    largest = max(sizes, key=lambda size: (size.width_px * size.height_px, size.rates_fps[:1]))
    rate = f"@{largest.rates_fps[0]:.4g}" if largest.rates_fps else ""
    return f"{largest.width_px}x{largest.height_px}{rate}"


def _wants(patient: Patient, scheme: str) -> bool:
    return patient.profile is not None and any(uri.startswith(f"{scheme}:") for uri in patient.profile.camera.uris)
