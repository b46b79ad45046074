"""Wraps OpenCV: the only file of the board's side that imports cv2, and itself imported only where it is needed.

All images are ``(H, W, 3)`` uint8, RGB, C-contiguous.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

# Both are read by OpenCV's C++ side when it loads. Errors come back as values or exceptions: nothing is lost by silence.
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

import cv2
import numpy as np
from numpy.typing import NDArray

from device.contract.tensor import Interpolation
from device.errors import SourceError

Image = NDArray[np.uint8]

# OpenCV's own pool would fight the runtime for cores.
cv2.setNumThreads(1)

_INTERPOLATIONS: dict[Interpolation, int] = {
    "area": cv2.INTER_AREA,
    "bilinear": cv2.INTER_LINEAR,
    "bicubic": cv2.INTER_CUBIC,
}


def decode_image(path: Path) -> Image:
    """Reads an image file, turned upright as its EXIF says, without alpha.

    Raises:
        SourceError: ``missing`` where the file can't be read, ``decode`` where it is no image or breaks off.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SourceError(str(path), error.strerror or str(error), expected="a readable image", reason="missing") from error
    return decode_bytes(data, str(path))


def decode_bytes(data: bytes, where: str) -> Image:
    """Decodes an image file's bytes, as `decode_image` does.

    Args:
        data: the file's content.
        where: what to call it in an error.

    Raises:
        SourceError: ``decode``.
    """
    reason = "empty file" if not data else "the JPEG breaks off" if _is_cut_jpeg(data) else ""
    image = None if reason else _decode(np.frombuffer(data, np.uint8))
    if image is None:
        raise SourceError(
            where,
            reason or f"not an image that can be decoded ({len(data)} bytes)",
            expected="JPEG, PNG, WebP, BMP or TIFF",
            remedy="remove or replace the file",
            reason="decode",
        )
    return image


def _decode(data: NDArray[np.uint8]) -> Image | None:
    try:
        image = cv2.imdecode(data, cv2.IMREAD_COLOR)
    except cv2.error:
        # Raised for sizes beyond CV_IO_MAX_IMAGE_PIXELS.
        return None
    # IMREAD_COLOR_RGB came with OpenCV 4.11; converting in place costs the same.
    return None if image is None else np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image), np.uint8)


# A marker: 0xFF and a code, which isn't a stuffed zero, a restart marker, or one more fill byte.
_JPEG_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])", re.DOTALL)
_JPEG_START, _JPEG_END, _JPEG_ALONE = b"\xff\xd8\xff", 0xD9, (0x01, 0xD8)


def _is_cut_jpeg(data: bytes) -> bool:
    """Tells a JPEG whose end-of-image marker is missing: OpenCV fills what isn't there with grey, and says nothing.

    Segments are stepped over by their length, since an EXIF thumbnail has an end marker of its own. Bytes behind the end
    marker are allowed: phones put depth maps and motion pictures there.

    References:
        ITU-T T.81 (1992), annex B.1: markers, and the order of segments.
    """
    if not data.startswith(_JPEG_START):
        return False
    position = 2
    while marker := _JPEG_MARKER.search(data, position):
        code = data[marker.end() - 1]
        if code == _JPEG_END:
            return False
        position = marker.end()
        if code not in _JPEG_ALONE:
            position += int.from_bytes(data[position : position + 2], "big")
    return True


def encode_image(path: Path, image: Image) -> None:
    """Writes an image in the format that the file's ending names."""
    if not cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR)):
        raise SourceError(str(path), "could not be written", expected="a folder that exists and an image's ending")


def resize(image: Image, width_px: int, height_px: int, interpolation: Interpolation) -> Image:
    """Scales an image to ``(height_px, width_px, 3)``; what shrinks is averaged, whatever the interpolation.

    Weights are trained on images that PIL scaled, whose filters widen as they shrink. OpenCV's don't: beside PIL's bicubic,
    shrinking photographs to 224 px, its own bicubic has a PSNR of 31 to 40 dB, its averaging of areas 42 to 50 dB.
    """
    is_shrunk = width_px <= image.shape[1] and height_px <= image.shape[0]
    how = cv2.INTER_AREA if is_shrunk else _INTERPOLATIONS[interpolation]
    return np.asarray(cv2.resize(image, (width_px, height_px), interpolation=how), np.uint8)


class VideoFile:
    """A video file that FFmpeg decodes, on one thread. Used from one thread at a time.

    Raises:
        SourceError: ``missing`` where the file can't be read, ``decode`` where it is no video.
    """

    def __init__(self, path: Path) -> None:
        try:
            path.open("rb").close()
        except OSError as error:
            raise SourceError(
                str(path), error.strerror or str(error), expected="a readable video file", reason="missing"
            ) from error
        # By its absolute path: FFmpeg would take a name with a colon for a protocol.
        self._capture = cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
        if not self._capture.isOpened():
            raise SourceError(
                str(path),
                "not a video that can be decoded",
                expected="MP4, MKV, WebM, AVI or another that FFmpeg knows",
                remedy="a recording that was cut off before it was finalised can't be opened either",
                reason="decode",
            )

    @property
    def frame_count(self) -> int:
        """Frames that the container promises, or that follow from its duration; 0 where it says neither."""
        return max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))

    def read(self) -> Image | None:
        """Decodes the next frame, turned upright as the file's metadata says; None where no more can be decoded."""
        try:
            is_read, frame = self._capture.read()
        except cv2.error:
            return None
        return np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), np.uint8) if is_read else None

    def close(self) -> None:
        """Releases the file; may be called twice."""
        self._capture.release()


class CaptureDevice:
    """A V4L2 camera. Used from one thread; every call may take as long as the driver likes.

    Args:
        path: the device's node (``/dev/video0``).
        width_px: of the frames; None for the driver's choice. Drivers take the nearest size that they have.
        height_px: likewise.
        rate_fps: likewise.
        fourcc: pixel format (``YUYV``, ``MJPG``); None for the driver's choice.

    Attributes:
        rate_fps: that the driver promises; None where it says nothing.

    Raises:
        SourceError: ``missing`` where the node can't be opened for capture, ``format`` where the driver refuses ``fourcc``.
    """

    def __init__(
        self, path: Path, width_px: int | None, height_px: int | None, rate_fps: float | None, fourcc: str | None
    ) -> None:
        self._path = path
        self._capture = cv2.VideoCapture(str(path), cv2.CAP_V4L2)
        if not self._capture.isOpened():
            raise SourceError(
                str(path),
                "can't be opened as a camera",
                expected="a V4L2 capture device that no other program holds",
                remedy="v4l2-ctl --list-devices shows which nodes are cameras",
                reason="missing",
            )
        try:
            self._choose(width_px, height_px, rate_fps, fourcc)
        except SourceError:
            self.close()
            raise
        promised_fps = float(self._capture.get(cv2.CAP_PROP_FPS))
        self.rate_fps = promised_fps if promised_fps > 0 else None

    @property
    def timestamp_ns(self) -> int:
        """When the driver stamped the last frame: nanoseconds of the monotonic clock, where the driver keeps to it."""
        return round(float(self._capture.get(cv2.CAP_PROP_POS_MSEC)) * 1e6)

    def read(self) -> Image | None:
        """Waits for the next frame; None where the driver gave none, or a damaged one."""
        try:
            is_read, frame = self._capture.read()
        except cv2.error:
            return None
        return np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), np.uint8) if is_read else None

    def close(self) -> None:
        """Releases the camera; may be called twice."""
        self._capture.release()

    def _choose(self, width_px: int | None, height_px: int | None, rate_fps: float | None, fourcc: str | None) -> None:
        # The order matters: a size belongs to a format, and a rate to a size.
        if fourcc is not None:
            wanted = cv2.VideoWriter.fourcc(*fourcc)
            self._capture.set(cv2.CAP_PROP_FOURCC, wanted)
            given = int(self._capture.get(cv2.CAP_PROP_FOURCC))
            if given != wanted:
                name = given.to_bytes(4, "little", signed=True).decode("ascii", "replace")
                raise SourceError(
                    str(self._path),
                    f"the driver gives {name}",
                    expected=fourcc,
                    remedy="v4l2-ctl --list-formats shows what it has",
                    reason="format",
                )
        for key, value in (
            (cv2.CAP_PROP_FRAME_WIDTH, width_px),
            (cv2.CAP_PROP_FRAME_HEIGHT, height_px),
            (cv2.CAP_PROP_FPS, rate_fps),
        ):
            if value is not None:
                self._capture.set(key, value)
