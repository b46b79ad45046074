"""Lets the real picamera2 run on libcamera's virtual camera, which is no Pi's: everything that differs is made up for here.

Python imports this by itself where its folder is on the path. What is tested above it is unchanged: the product, picamera2's
event loop, requests and buffers, and libcamera.

- picamera2 wants modules that only its still pictures and its preview on a screen use.
- The virtual camera has no raw modes, and gives NV12 only: the frames are handed on as the Pi's ISP would give them, YUV 4:2:0
  or RGB, with rows padded as ``GHOSTWATT_PLATFORM`` (``VC4`` or ``PISP``) pads them.
- Its buffers are libcamera's own, of two planes, and say that they hold 0 bytes.
- It never fails: with ``GHOSTWATT_STALL_AFTER=N`` no request completes any more after N frames, as on a board whose camera's
  frontend has timed out. Opened again, it gives N more.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import mmap
import os
import sys
import types
from typing import Any

PLATFORM = os.environ.get("GHOSTWATT_PLATFORM", "VC4")
ALIGNMENT = {"VC4": 64, "PISP": 128}[PLATFORM]
STALL_AFTER = int(os.environ.get("GHOSTWATT_STALL_AFTER", "0"))
POISON = 0xA5


class Anything:
    """Stands in for whatever is taken from a module that is not needed."""

    def __getattr__(self, name: str) -> Any:
        return self

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self


def stub(name: str, **members: Any) -> None:
    module = types.ModuleType(name)
    vars(module).update(members)
    sys.modules[name] = module


for module_name in ("pykms", "pidng", "pidng.core", "pidng.camdefs"):
    stub(module_name, Picamera2Camera=object, PICAM2DNG=object, PixelFormat=Anything())


class Hook(importlib.abc.MetaPathFinder):
    """Patches picamera2 once it has been imported, by whomever."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name != "picamera2":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is None or spec.loader is None:
            return None
        load = spec.loader.exec_module

        def load_and_patch(module: types.ModuleType) -> None:
            load(module)
            patch(module)

        spec.loader.exec_module = load_and_patch  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, Hook())


def patch(picamera2: Any) -> None:
    from picamera2.allocators import allocator as base
    from picamera2.allocators import libcameraallocator

    main: Any = sys.modules["picamera2.picamera2"]
    camera_class = picamera2.Picamera2

    class Sync(base.Sync):  # type: ignore[misc]
        def __init__(self, allocator: Any, buffer: Any, write: bool) -> None:
            self.buffer = buffer

        def __enter__(self) -> mmap.mmap:
            length = sum(plane.length for plane in self.buffer.planes)
            self.memory = mmap.mmap(self.buffer.planes[0].fd, length)
            return self.memory

        def __exit__(self, *_: object) -> None:
            # Whoever still holds the memory fails here, as he would read another frame's pixels on a board.
            self.memory.close()

    class NoAllocator(base.Allocator):  # type: ignore[misc]
        """Of a camera that isn't open: only libcamera's own allocator knows this camera's buffers."""

    def configure(self: Any, configuration: dict[str, Any]) -> None:
        self.allocator = libcameraallocator.LibcameraAllocator(self.camera)
        self.allocator.sync = Sync
        wanted = configuration["lores"]["format"]
        for name in ("main", "lores"):
            configuration[name] |= {"format": "NV12"}
        self.configure_(configuration)
        lores = self.camera_config["lores"]
        width = lores["size"][0]
        if wanted == "BGR888" and PLATFORM != "PISP":
            raise RuntimeError("lores stream must be YUV")
        row_bytes = width * 3 if wanted == "BGR888" else width
        stride = -(-row_bytes // ALIGNMENT) * ALIGNMENT + (ALIGNMENT if os.environ.get("GHOSTWATT_PADDED") else 0)
        self.camera_config["lores"] = lores | {"format": wanted, "stride": stride}

    class MappedArray(picamera2.MappedArray):  # type: ignore[misc]
        """The frame in the format that was asked for."""

        def __init__(self, request: Any, stream: str, reshape: bool = True, write: bool = True) -> None:
            super().__init__(request, stream, reshape=False, write=write)
            self.wanted = request.config[stream]
            if reshape or write:
                raise RuntimeError("a copy is flat and only read here")

        @property
        def array(self) -> Any:
            return convert(super().array, self.wanted)

    process_requests = camera_class.process_requests

    def process_until_stalled(self: Any, display: Any) -> None:
        if not STALL_AFTER or self.frames < STALL_AFTER:
            process_requests(self, display)

    camera_class.process_requests = process_until_stalled
    camera_class.platform = getattr(picamera2.Platform, PLATFORM)
    camera_class._get_raw_modes = lambda self: [{"format": "NV12", "size": (640, 480)}]
    camera_class.configure = configure
    main.DmaAllocator = NoAllocator
    picamera2.MappedArray = MappedArray


def convert(nv12: Any, wanted: dict[str, Any]) -> Any:
    """NV12 without padding -> planes or RGB with padding."""
    import numpy as np

    (width, height), stride = wanted["size"], wanted["stride"]
    picture = nv12[: width * height * 3 // 2].reshape(height * 3 // 2, width)
    if wanted["format"] == "BGR888":
        import cv2

        rows = cv2.cvtColor(picture, cv2.COLOR_YUV2RGB_NV12).reshape(height, width * 3)
        return pad(rows, stride).reshape(-1)
    colours = picture[height:].reshape(height // 2, width // 2, 2)
    planes = [pad(picture[:height], stride), *(pad(colours[..., number], stride // 2) for number in range(2))]
    return np.concatenate([plane.reshape(-1) for plane in planes])


def pad(rows: Any, stride: int) -> Any:
    import numpy as np

    padded = np.full((rows.shape[0], stride), POISON, np.uint8)
    padded[:, : rows.shape[1]] = rows
    return padded
