"""Wraps OpenCV: the only file of the board's side that imports cv2, and itself imported only where it is needed.

All images are ``(H, W, 3)`` uint8, RGB, C-contiguous.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

# Both are read by OpenCV's C++ side when it loads. Errors come back as values or exceptions: nothing is lost by silence.
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

import cv2
import numpy as np
from numpy.typing import NDArray

from device.contract.tensor import Interpolation
from device.core.errors import SourceError

Image = NDArray[np.uint8]

# OpenCV's own pool would fight the runtime for cores.
cv2.setNumThreads(1)

# Silent: a failed open prints the whole URL, password and all, as a warning, whatever level the environment asks for.
cv2.setLogLevel(0)

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
    outline = _outline_jpeg(data)
    reason = "empty file" if not data else "the JPEG breaks off" if outline and not outline.has_end else ""
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


def _decode(data: NDArray[np.uint8], flags: int = cv2.IMREAD_COLOR) -> Image | None:
    try:
        image = cv2.imdecode(data, flags)
    except cv2.error:
        # Raised for sizes beyond CV_IO_MAX_IMAGE_PIXELS.
        return None
    # IMREAD_COLOR_RGB came with OpenCV 4.11, and goes with no reduction; converting in place costs the same.
    return None if image is None else np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image), np.uint8)


# A marker: 0xFF and a code, which isn't a stuffed zero, a restart marker, or one more fill byte.
_JPEG_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])", re.DOTALL)
_JPEG_START, _JPEG_END, _JPEG_ALONE = b"\xff\xd8\xff", 0xD9, (0x01, 0xD8)

# Start of frame: every code from 0xC0 to 0xCF but those of tables (DHT, JPG, DAC).
_JPEG_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def _jpeg_markers(data: bytes) -> Iterator[tuple[int, int]]:
    """Steps through a JPEG's markers.

    Segments are stepped over by their length, since an EXIF thumbnail has markers of its own.

    Yields:
        A marker's code, and the position behind it.

    References:
        ITU-T T.81 (1992), annex B.1: markers, and the order of segments.
    """
    position = 2
    while marker := _JPEG_MARKER.search(data, position):
        code = data[marker.end() - 1]
        position = marker.end()
        yield code, position
        if code not in _JPEG_ALONE:
            position += int.from_bytes(data[position : position + 2], "big")


class _JpegOutline(NamedTuple):
    """What a JPEG's markers say.

    Attributes:
        size_px: width and height; None where it has no frame header, or leaves the height to a later segment.
        has_end: False where it was cut off: OpenCV fills what isn't there with grey, and says nothing.
    """

    size_px: tuple[int, int] | None
    has_end: bool


def _outline_jpeg(data: bytes) -> _JpegOutline | None:
    """Walks a JPEG's markers once, up to its end; None where it is no JPEG.

    Bytes behind the end marker are allowed: phones put depth maps and motion pictures there, and cameras pad.
    """
    if not data.startswith(_JPEG_START):
        return None
    header: int | None = None
    for code, position in _jpeg_markers(data):
        if code == _JPEG_END:
            return _JpegOutline(_read_size_px(data, header), has_end=True)
        if header is None and code in _JPEG_FRAME:
            header = position
    return _JpegOutline(_read_size_px(data, header), has_end=False)


def _read_size_px(data: bytes, header: int | None) -> tuple[int, int] | None:
    """Reads width and height from a frame header at a position.

    References:
        ITU-T T.81 (1992), annex B.2.2: the frame header is length (2 bytes), precision (1), height (2), width (2); a height
        of 0 follows in a segment of its own (DNL) behind the first scan.
    """
    if header is None:
        return None
    height, width = (int.from_bytes(data[at : at + 2], "big") for at in (header + 3, header + 5))
    return (width, height) if width and height else None


MAX_FRAME_PIXELS = 8192 * 8192
"""Of a camera's picture. A damaged header can promise 4 gigapixels, which would cost all the memory that a board has."""

_REDUCTIONS = ((8, cv2.IMREAD_REDUCED_COLOR_8), (4, cv2.IMREAD_REDUCED_COLOR_4), (2, cv2.IMREAD_REDUCED_COLOR_2))


def decode_jpeg(data: bytes, where: str, *, least_side_px: int | None = None) -> Image:
    """Decodes a picture of a camera that sends JPEGs, at no more pixels than are needed.

    A JPEG can be decoded at a half, a quarter or an eighth of its size, which skips most of the inverse transform, the
    colour conversion and the scaling that follows.

    Args:
        data: one JPEG. Huffman tables may be missing, as they are in AVI's and UVC's motion JPEG: the standard's are taken.
        where: what to call it in an error.
        least_side_px: that the picture's short side must have after a reduction, see `least_side_px`; None for full size.

    Returns:
        ``(H, W, 3)``, RGB: the JPEG's size, or that divided by 2, 4 or 8 and rounded up.

    Raises:
        SourceError: ``decode`` where it is no JPEG, breaks off, has no size in its header, or promises more than
            `MAX_FRAME_PIXELS`.

    References:
        libjpeg-turbo, libjpeg.txt, ``scale_num`` and ``scale_denom``: scaled decoding by smaller inverse transforms.
    """
    size_px = _require_jpeg(data, where)
    image = _decode(np.frombuffer(data, np.uint8), _choose_reduction(min(size_px), least_side_px))
    if image is None:
        raise _jpeg_error(where, f"a JPEG that can't be decoded ({len(data)} bytes)")
    return image


def _require_jpeg(data: bytes, where: str) -> tuple[int, int]:
    """Width and height of a JPEG that is whole and of a bearable size."""
    outline = _outline_jpeg(data)
    if outline is None:
        raise _jpeg_error(where, f"not a JPEG ({len(data)} bytes)" if data else "an empty picture")
    if not outline.has_end:
        raise _jpeg_error(where, f"the JPEG breaks off after {len(data)} bytes")
    if outline.size_px is None:
        raise _jpeg_error(where, f"a JPEG without a size in its header ({len(data)} bytes)")
    width, height = outline.size_px
    if width * height > MAX_FRAME_PIXELS:
        raise _jpeg_error(where, f"a JPEG that promises {width}x{height} pixels")
    return width, height


def _choose_reduction(short_side_px: int, least_side_px: int | None) -> int:
    """The flag that decodes to the smallest short side that is still enough."""
    for divisor, flag in _REDUCTIONS:
        if least_side_px is not None and short_side_px >= divisor * least_side_px:
            return flag
    return cv2.IMREAD_COLOR


def _jpeg_error(where: str, found: str) -> SourceError:
    return SourceError(
        where,
        found,
        expected="whole JPEGs",
        remedy="a weak cable, supply or network damages pictures on their way",
        reason="decode",
    )


class _RawFormat(NamedTuple):
    """How uncompressed pixels lie in memory.

    Attributes:
        conversion: OpenCV's, to RGB; None where nothing is to be done but copy.
        channels: bytes that OpenCV takes for one element of a row.
        has_chroma_rows: half as many rows again follow, with the colours of 2 by 2 pixels each.
        may_pad: lines may be longer than their pixels; not where colour lines are half as long, whose padding is unknown.
    """

    conversion: int | None
    channels: int
    has_chroma_rows: bool = False
    may_pad: bool = True


# By their V4L2 names. YUV is taken as BT.601 in limited range (libcamera's SMPTE170M), as cameras send it that claim nothing
# else.
_RAW_FORMATS = {
    "YUYV": _RawFormat(cv2.COLOR_YUV2RGB_YUY2, 2),
    "UYVY": _RawFormat(cv2.COLOR_YUV2RGB_UYVY, 2),
    "NV12": _RawFormat(cv2.COLOR_YUV2RGB_NV12, 1, has_chroma_rows=True),
    "NV21": _RawFormat(cv2.COLOR_YUV2RGB_NV21, 1, has_chroma_rows=True),
    "YU12": _RawFormat(cv2.COLOR_YUV2RGB_I420, 1, has_chroma_rows=True, may_pad=False),
    "YV12": _RawFormat(cv2.COLOR_YUV2RGB_YV12, 1, has_chroma_rows=True, may_pad=False),
    "RGB3": _RawFormat(None, 3),
    "BGR3": _RawFormat(cv2.COLOR_BGR2RGB, 3),
    "GREY": _RawFormat(cv2.COLOR_GRAY2RGB, 1),
}

RAW_FORMATS = frozenset(_RAW_FORMATS)
"""What `convert_raw` takes."""


def convert_raw(
    data: bytes | memoryview, where: str, *, fourcc: str, width_px: int, height_px: int, line_bytes: int = 0
) -> Image:
    """Converts a camera's uncompressed pixels to RGB, in one pass.

    Args:
        data: the buffer; only read, and not kept.
        where: what to call it in an error.
        fourcc: one of `RAW_FORMATS`.
        width_px: of the picture.
        height_px: likewise.
        line_bytes: from one line to the next; 0 for no padding.

    Returns:
        ``(height_px, width_px, 3)``, RGB, with memory of its own.

    Raises:
        SourceError: ``decode`` where the buffer holds less than the picture, ``format`` where lines are padded in a format
            that leaves open how.

    References:
        Linux kernel, Documentation/userspace-api/media/v4l/: pixfmt-packed-yuv, pixfmt-yuv-planar, pixfmt-rgb.
        ITU-R BT.601-7, section 2.5: the matrix, and black at 16 and white at 235.
    """
    layout = _RAW_FORMATS[fourcc]
    packed_bytes = width_px * layout.channels
    line_bytes = line_bytes or packed_bytes
    if line_bytes < packed_bytes or (line_bytes > packed_bytes and not layout.may_pad):
        raise SourceError(
            where, f"{fourcc} with lines of {line_bytes} bytes", expected=f"{packed_bytes} for {width_px} px", reason="format"
        )
    rows = height_px * 3 // 2 if layout.has_chroma_rows else height_px
    # The last line may come without its padding.
    least_bytes = (rows - 1) * line_bytes + packed_bytes
    if len(data) < least_bytes:
        raise SourceError(
            where,
            f"a {fourcc} picture of {len(data)} bytes",
            expected=f"{least_bytes} for {width_px}x{height_px}",
            remedy="a weak cable or supply loses data on its way",
            reason="decode",
        )
    shape, steps = (rows, width_px, layout.channels), (line_bytes, layout.channels, 1)
    picture = np.ndarray(shape, np.uint8, data, strides=steps)
    if layout.conversion is None:
        return picture.copy()
    return np.asarray(cv2.cvtColor(picture if layout.channels > 1 else picture[..., 0], layout.conversion), np.uint8)


def encode_image(path: Path, image: Image) -> None:
    """Writes an image in the format that the file's ending names."""
    if not cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR)):
        raise SourceError(
            str(path), "could not be written", expected="a folder that exists and an image's ending", reason="failed"
        )


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

    @property
    def rate_fps(self) -> float:
        """Mean rate by the container; 0, NaN, or its time base where it doesn't say."""
        return float(self._capture.get(cv2.CAP_PROP_FPS))

    def skip(self) -> bool:
        """Passes the next frame over, which spares its conversion; False where no more can be decoded."""
        try:
            return bool(self._capture.grab())
        except cv2.error:
            return False

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


HIGHEST_RATE_FPS = 240.0
"""FFmpeg guesses a stream's rate; where it has nothing to guess by, it gives the ticks of the stream's clock."""


class StreamCapture:
    """A stream that FFmpeg reads and decodes, on the caller's thread. Used from one thread.

    References:
        OpenCV, modules/videoio/src/cap_ffmpeg_impl.hpp: both timeouts reach FFmpeg as a callback that interrupts it; its other
        options come from the environment (``OPENCV_FFMPEG_CAPTURE_OPTIONS``), which is the whole process's.

    Args:
        url: with user and password.
        open_timeout_s: for the server to answer, and for enough of the stream to come to tell what it is.
        read_timeout_s: for each frame.
    """

    def __init__(self, url: str, *, open_timeout_s: float, read_timeout_s: float) -> None:
        self._capture = cv2.VideoCapture(
            url,
            cv2.CAP_FFMPEG,
            [
                cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, round(open_timeout_s * 1e3),
                cv2.CAP_PROP_READ_TIMEOUT_MSEC, round(read_timeout_s * 1e3),
                cv2.CAP_PROP_N_THREADS, 1,
            ],
        )  # fmt: skip

    @property
    def is_open(self) -> bool:
        """False where the stream couldn't be opened; FFmpeg doesn't say why."""
        return bool(self._capture.isOpened())

    @property
    def rate_fps(self) -> float | None:
        """That FFmpeg takes the stream to have; None where it doesn't know."""
        rate_fps = float(self._capture.get(cv2.CAP_PROP_FPS))
        return rate_fps if 0 < rate_fps <= HIGHEST_RATE_FPS else None

    @property
    def position_s(self) -> float:
        """By the stream's own clock, of the frame that `grab` decoded; 0 where the stream has none."""
        return float(self._capture.get(cv2.CAP_PROP_POS_MSEC)) / 1e3

    def grab(self) -> bool:
        """Waits for the next frame and decodes it; False where none came in time, or the stream has ended."""
        try:
            return bool(self._capture.grab())
        except cv2.error:
            return False

    def retrieve(self) -> Image | None:
        """Gives the frame that `grab` decoded; None where it can't be converted."""
        try:
            is_given, frame = self._capture.retrieve()
        except cv2.error:
            return None
        return np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), np.uint8) if is_given else None

    def close(self) -> None:
        """Closes the connection; may be called twice."""
        self._capture.release()
