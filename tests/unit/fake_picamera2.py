"""Stands in for the modules ``picamera2`` and ``libcamera``, and the camera, sensor and ISP below them.

It refuses what the real ones refuse, pads rows as the ISPs do, and gives a buffer back to the camera when its request is
released: whoever looks at it later sees another picture.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import types
import weakref
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

PADDING = 0xA5
OVERWRITTEN = 0xEE


class Colour(NamedTuple):
    """One colour as RGB, and as Y, Cb, Cr by ITU-R BT.601, limited range."""

    rgb: tuple[int, int, int]
    ycc: tuple[int, int, int]


# The primaries of 100 % colour bars, as broadcasting's tables give them.
COLOURS = (
    Colour((255, 0, 0), (81, 90, 240)),
    Colour((0, 255, 0), (145, 54, 34)),
    Colour((0, 0, 255), (41, 240, 110)),
    Colour((255, 255, 0), (210, 16, 146)),
    Colour((255, 255, 255), (235, 128, 128)),
    Colour((0, 0, 0), (16, 128, 128)),
)


def paint(size_px: tuple[int, int]) -> NDArray[np.int64]:
    """A picture as indices into `COLOURS`: red and green above, blue and yellow below; edges between blocks of 2x2 pixels."""
    width, height = size_px
    across = np.arange(width) // 2 * 4 // width
    down = np.arange(height) // 2 * 4 // height
    return down[:, None] * 2 + across[None, :]


class Mode(NamedTuple):
    size_px: tuple[int, int]
    crop_px: tuple[int, int]
    shortest_us: int


# What libcamera tells of the Camera Module 2 (IMX219): the smallest and the third mode see the sensor's middle only.
IMX219 = (
    Mode((640, 480), (1280, 960), 4850),
    Mode((1640, 1232), (3280, 2464), 11999),
    Mode((1920, 1080), (1920, 1080), 21107),
    Mode((3280, 2464), (3280, 2464), 47183),
)


class Hardware:
    """What is plugged in, and how it behaves. A test changes it as it likes."""

    def __init__(self) -> None:
        self.cameras = [
            {"Model": "imx219", "Id": "/base/soc/i2c0mux/i2c@1/imx219@10", "Num": 0, "Location": 2, "Rotation": 180}
        ]
        self.platform = "VC4"
        self.modes: tuple[Mode, ...] = IMX219
        self.properties: dict[str, Any] = {"PixelArraySize": (3280, 2464), "ColorFilterArrangement": 0, "Model": "imx219"}
        self.controls: dict[str, tuple[Any, Any, Any]] = {
            "AeEnable": (False, True, None),
            "AnalogueGain": (1.0, 10.67, None),
            "ExposureTime": (75, 11766829, None),
            "NoiseReductionMode": (0, 4, 0),
        }
        self.held_words = ""
        self.is_delivering = True
        self.delivers_late = False
        self.hangs_in: str | None = None
        self.released_hang = threading.Event()
        self.list_error: BaseException | None = None
        self.start_error: BaseException | None = None
        self.read_error: BaseException | None = None
        self.stamp_offset_ns = 0
        self.can_flip = True
        self.extra_stride_bytes = 0
        self.adjusts_to: tuple[int, int] | None = None
        self.paint = paint
        self.opened: list[FakeCamera] = []
        self.alive: weakref.WeakSet[FakeCamera] = weakref.WeakSet()
        self.held: FakeCamera | None = None
        self.captured = 0

    def hang(self, where: str) -> None:
        if self.hangs_in == where:
            self.released_hang.wait(30.0)


class FakeSync:
    """A control's enumeration: every name is there and stands for itself."""

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def __getattr__(self, name: str) -> str:
        return f"{self._kind}.{name}"


class FakeRequest:
    def __init__(self, camera: FakeCamera, index: int) -> None:
        self.camera = camera
        self.index = index
        self.is_released = False
        self.stamp_ns = time.monotonic_ns() - 3_000_000 + camera.hardware.stamp_offset_ns

    def get_metadata(self) -> dict[str, Any]:
        self._require_held()
        return {"SensorTimestamp": self.stamp_ns, "ExposureTime": 9000, "ScalerCrop": (0, 0, 1, 1)}

    def release(self) -> None:
        self._require_held()
        self.is_released = True
        # The camera writes the next picture.
        self.camera.buffers[self.index][:] = OVERWRITTEN
        self.camera.free.append(self.index)

    def _require_held(self) -> None:
        if self.is_released:
            raise RuntimeError("CompletedRequest: lock now has negative ref_count")


class FakeMappedArray:
    def __init__(self, request: FakeRequest, stream: str, reshape: bool = True, write: bool = True) -> None:
        if stream != "lores":
            raise RuntimeError("only the lores stream is looked at here")
        self._request = request
        self._reshape = reshape
        self._array: Bytes | None = None

    def __enter__(self) -> FakeMappedArray:
        self._request._require_held()
        assert not self._reshape
        self._array = self._request.camera.buffers[self._request.index]
        return self

    def __exit__(self, *_: object) -> None:
        self._array = None

    @property
    def array(self) -> Bytes | None:
        return self._array


class FakeJob:
    def __init__(self, camera: FakeCamera) -> None:
        self._camera = camera
        self.done = threading.Event()
        self._result: FakeRequest | None = None
        self._error: BaseException | None = None

    @property
    def is_done(self) -> bool:
        return self.done.is_set()

    def get_result(self, timeout: float | None = None) -> FakeRequest:
        hardware = self._camera.hardware
        hardware.hang("capture")
        if not self.is_done and hardware.read_error is not None:
            self.finish(error=hardware.read_error)
        self._camera.serve()
        if not self.done.wait(None if timeout is None else min(timeout, 0.02)):
            raise TimeoutError
        if self._error is not None:
            raise self._error
        assert self._result is not None
        return self._result

    def finish(self, *, result: FakeRequest | None = None, error: BaseException | None = None) -> None:
        self._result, self._error = result, error
        self.done.set()


class FakeCamera:
    """`picamera2.Picamera2`."""

    hardware: Hardware
    platform: Any

    def __init__(self, camera_num: int = 0) -> None:
        notifyme_r, self.notifyme_w = os.pipe()
        self.notifymeread = os.fdopen(notifyme_r, "rb")
        self.is_open = False
        hardware = self.hardware
        hardware.hang("open")
        if hardware.held_words or hardware.held is not None:
            try:
                raise RuntimeError(hardware.held_words or "Failed to acquire camera: Device or resource busy")
            except RuntimeError as error:
                raise RuntimeError("Camera __init__ sequence did not complete.") from error
        hardware.held = self
        hardware.opened.append(self)
        hardware.alive.add(self)
        self.number = camera_num
        self.is_open = True
        self.is_started = False
        self.sensor_resolution = max(mode.size_px for mode in hardware.modes)
        self.camera_properties = hardware.properties
        self.camera = SimpleNamespace(generate_configuration=self._generate)
        self.configurations: list[dict[str, Any]] = []
        self.set: dict[str, Any] = {}
        self.jobs: list[FakeJob] = []
        self.buffers: list[Bytes] = []
        self.free: list[int] = []

    @classmethod
    def global_camera_info(cls) -> list[dict[str, Any]]:
        if cls.hardware.list_error is not None:
            raise cls.hardware.list_error
        return [dict(camera) for camera in cls.hardware.cameras]

    @property
    def camera_controls(self) -> dict[str, tuple[Any, Any, Any]]:
        mode = self._mode()
        durations = (mode.shortest_us, 11767556, None)
        crop = ((0, 0, 64, 64), (0, 0, *mode.crop_px), (0, 0, *mode.crop_px))
        return self.hardware.controls | {"FrameDurationLimits": durations, "ScalerCrop": crop}

    def create_video_configuration(self, **wishes: Any) -> dict[str, Any]:
        known = {"main", "lores", "raw", "transform", "colour_space", "buffer_count", "queue", "display", "encode", "sensor"}
        if set(wishes) - known:
            raise TypeError(f"unexpected arguments {set(wishes) - known}")
        return wishes

    def configure(self, wishes: dict[str, Any]) -> None:
        configuration: dict[str, Any] = {
            name: dict(value) if isinstance(value, dict) else value for name, value in wishes.items()
        }
        main, lores = configuration["main"], configuration["lores"]
        for stream in (main, lores):
            if any(length % 2 for length in stream["size"]):
                raise RuntimeError("width and height should be even")
        if any(small > large for small, large in zip(lores["size"], main["size"], strict=True)):
            raise RuntimeError("lores stream dimensions may not exceed main stream")
        if self.hardware.platform == "VC4" and lores["format"] != "YUV420":
            raise RuntimeError("lores stream must be YUV")
        lores["size"] = self.hardware.adjusts_to or lores["size"]
        width, height = lores["size"]
        alignment = {"VC4": 64, "PISP": 128}[self.hardware.platform]
        row_bytes = width if lores["format"] == "YUV420" else 3 * width
        lores["stride"] = -(-row_bytes // alignment) * alignment + self.hardware.extra_stride_bytes
        rows = height * 3 // 2 if lores["format"] == "YUV420" else height
        self.buffers = [np.full(lores["stride"] * rows + 4096, PADDING, np.uint8) for _ in range(configuration["buffer_count"])]
        self.free = list(range(len(self.buffers)))
        if not self.hardware.can_flip:
            configuration["transform"] = FakeTransform()
        self.configurations.append(configuration)

    def camera_configuration(self) -> dict[str, Any]:
        return self.configurations[-1]

    def set_controls(self, controls: dict[str, Any]) -> None:
        for name in controls:
            if name not in self.camera_controls and name != "AfTrigger":
                raise RuntimeError(f"Control {name} is not advertised by libcamera")
        self.set |= controls

    def start(self) -> None:
        self.hardware.hang("start")
        if self.hardware.start_error is not None:
            raise self.hardware.start_error
        self.is_started = True

    def capture_request(self, wait: bool) -> FakeJob:
        assert wait is False, "waits for ever after the camera's frontend has timed out"
        self.jobs.append(FakeJob(self))
        return self.jobs[-1]

    def serve(self) -> None:
        """Gives frames to whoever waits, in the order in which they came."""
        for job in self.jobs:
            if not job.is_done and self.hardware.is_delivering and self.free:
                job.finish(result=self.fill())

    def cancel_all_and_flush(self) -> None:
        if self.hardware.delivers_late:
            self.hardware.is_delivering = True
            self.serve()
        for job in self.jobs:
            if not job.is_done:
                job.finish(error=CancelledError())

    def close(self) -> None:
        if not self.is_open:
            return
        self.hardware.hang("close")
        self.is_open = self.is_started = False
        self.hardware.held = None
        self.notifymeread.close()
        os.close(self.notifyme_w)

    def fill(self) -> FakeRequest:
        index = self.free.pop(0)
        lores = self.camera_configuration()["lores"]
        picture = self.hardware.paint(lores["size"])
        encode = encode_yuv420 if lores["format"] == "YUV420" else encode_rgb
        pixels = encode(picture, lores["stride"])
        self.buffers[index][: pixels.size] = pixels
        self.hardware.captured += 1
        return FakeRequest(self, index)

    def _mode(self) -> Mode:
        sizes = [mode.size_px for mode in self.hardware.modes]
        wish = self.configurations[-1].get("sensor") if self.configurations else None
        return self.hardware.modes[0 if wish is None else sizes.index(wish["output_size"])]

    def _generate(self, roles: list[str]) -> Any:
        assert roles == ["StreamRole.Raw"]
        sizes = [SimpleNamespace(width=mode.size_px[0], height=mode.size_px[1]) for mode in self.hardware.modes]
        formats = SimpleNamespace(pixel_formats=["SRGGB10_CSI2P", "SRGGB8"], sizes=lambda pixel_format: sizes)
        return SimpleNamespace(at=lambda index: SimpleNamespace(formats=formats))


class FakeTransform:
    def __init__(self, hflip: bool = False, vflip: bool = False) -> None:
        self.hflip, self.vflip = int(hflip), int(vflip)


def encode_rgb(picture: NDArray[np.int64], stride: int) -> Bytes:
    """``BGR888``: in memory R, G, B."""
    rgb = np.array([colour.rgb for colour in COLOURS], np.uint8)[picture]
    return _pad(rgb.reshape(picture.shape[0], -1), stride)


def encode_yuv420(picture: NDArray[np.int64], stride: int) -> Bytes:
    ycc = np.array([colour.ycc for colour in COLOURS], np.uint8)[picture]
    chroma = ycc[::2, ::2]
    planes = (_pad(ycc[..., 0], stride), _pad(chroma[..., 1], stride // 2), _pad(chroma[..., 2], stride // 2))
    return np.concatenate(planes)


def _pad(rows: Bytes, stride: int) -> Bytes:
    padded = np.full((rows.shape[0], stride), PADDING, np.uint8)
    padded[:, : rows.shape[1]] = rows
    return padded.reshape(-1)


def make_modules(hardware: Hardware) -> dict[str, types.ModuleType]:
    """The modules, as they would stand in ``sys.modules``."""
    camera = type("Picamera2", (FakeCamera,), {"hardware": hardware, "platform": _Platform(hardware)})
    picamera2 = types.ModuleType("picamera2")
    vars(picamera2).update(Picamera2=camera, MappedArray=FakeMappedArray)
    libcamera = types.ModuleType("libcamera")
    controls = SimpleNamespace(
        AfModeEnum=FakeSync("AfMode"),
        AfTriggerEnum=FakeSync("AfTrigger"),
        draft=SimpleNamespace(NoiseReductionModeEnum=FakeSync("NoiseReduction")),
    )
    vars(libcamera).update(
        Transform=FakeTransform,
        ColorSpace=SimpleNamespace(Smpte170m=lambda: "SMPTE170M"),
        StreamRole=FakeSync("StreamRole"),
        controls=controls,
    )
    return {"picamera2": picamera2, "libcamera": libcamera}


@contextmanager
def plugged_in(patch: pytest.MonkeyPatch) -> Iterator[Hardware]:
    """A camera that `device.sources.picamera2` finds until the block ends, whatever is installed here."""
    hardware = Hardware()
    for name, module in make_modules(hardware).items():
        patch.setitem(sys.modules, name, module)
    yield hardware
    hardware.released_hang.set()


class _Platform:
    def __init__(self, hardware: Hardware) -> None:
        self._hardware = hardware

    @property
    def name(self) -> str:
        return self._hardware.platform
