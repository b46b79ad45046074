"""Wraps OpenCV. The only module of `device` that imports cv2, and itself imported only if needed.

All images are ``(H, W, 3)`` uint8, RGB, C-contiguous.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

# OpenCV's C++ part reads these when it loads. Its errors are returned or raised, so its messages aren't needed.
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

import cv2
import numpy as np
from numpy.typing import NDArray

from device.contract.tensor import Interpolation
from device.core.errors import SourceError

Image = NDArray[np.uint8]

# OpenCV's own thread pool would compete with the runtime for cores.
cv2.setNumThreads(1)

# A failed open logs the whole URL, including the password, as a warning, whatever level the environment sets.
cv2.setLogLevel(0)

_INTERPOLATIONS: dict[Interpolation, int] = {
    "area": cv2.INTER_AREA,
    "bilinear": cv2.INTER_LINEAR,
    "bicubic": cv2.INTER_CUBIC,
}


def decode_image(path: Path) -> Image:
    """Reads an image file, rotated upright according to its EXIF data, without alpha.

    Raises:
        SourceError: ``missing`` if the file can't be read, ``decode`` if it isn't an image or is truncated.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SourceError(str(path), error.strerror or str(error), expected="a readable image", reason="missing") from error
    return decode_bytes(data, str(path))


def decode_bytes(data: bytes, where: str) -> Image:
    """Decodes the content of an image file, as `decode_image` does.

    Args:
        data: the file's content.
        where: name of the image, for errors.

    Raises:
        SourceError: ``decode``.
    """
    outline = _outline_jpeg(data)
    reason = "empty file" if not data else "the JPEG is truncated" if outline and not outline.has_end else ""
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
    # IMREAD_COLOR_RGB needs OpenCV 4.11, and can't be combined with a reduction; converting in place takes no longer.
    return None if image is None else np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image), np.uint8)


# A marker: 0xFF and a code other than a stuffed zero, a restart marker, or another fill byte.
_JPEG_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])", re.DOTALL)
_JPEG_START, _JPEG_END, _JPEG_ALONE = b"\xff\xd8\xff", 0xD9, (0x01, 0xD8)

# Start of frame: every code from 0xC0 to 0xCF except DHT, JPG and DAC.
_JPEG_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def _jpeg_markers(data: bytes) -> Iterator[tuple[int, int]]:
    """Iterates over a JPEG's markers.

    Segments are skipped by their length, since an EXIF thumbnail contains markers of its own.

    Yields:
        A marker's code, and the position after it.

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
    """What a JPEG's markers reveal.

    Attributes:
        size_px: width and height; None if there is no frame header, or a later segment defines the height.
        has_end: False if the JPEG is truncated, in which case OpenCV silently fills the missing part with grey.
    """

    size_px: tuple[int, int] | None
    has_end: bool


def _outline_jpeg(data: bytes) -> _JpegOutline | None:
    """Scans a JPEG's markers once, up to its end; returns None if it isn't a JPEG.

    Data after the end marker is allowed: phones store depth maps and motion pictures there, and cameras add padding.
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
    """Reads width and height from the frame header at a position.

    References:
        ITU-T T.81 (1992), annex B.2.2: the frame header is length (2 bytes), precision (1), height (2), width (2); if the
        height is 0, a separate segment (DNL) after the first scan defines it.
    """
    if header is None:
        return None
    height, width = (int.from_bytes(data[at : at + 2], "big") for at in (header + 3, header + 5))
    return (width, height) if width and height else None


MAX_FRAME_PIXELS = 8192 * 8192
"""Largest picture from a camera. A damaged header can claim 4 gigapixels, which would take all of a board's memory."""

_REDUCTIONS = ((8, cv2.IMREAD_REDUCED_COLOR_8), (4, cv2.IMREAD_REDUCED_COLOR_4), (2, cv2.IMREAD_REDUCED_COLOR_2))


def decode_jpeg(data: bytes, where: str, *, least_side_px: int | None = None) -> Image:
    """Decodes a camera's JPEG, at the smallest sufficient size.

    A JPEG can be decoded at a half, a quarter or an eighth of its size, which avoids most of the inverse transform, the colour
    conversion and the subsequent scaling.

    Args:
        data: one JPEG. Huffman tables may be missing, as in the motion JPEG of AVI and UVC; the standard tables are used then.
        where: name of the camera, for errors.
        least_side_px: minimum short side of the picture after a reduction, see `least_side_px`; None for full size.

    Returns:
        ``(H, W, 3)``, RGB: the JPEG's size, or that divided by 2, 4 or 8 and rounded up.

    Raises:
        SourceError: ``decode`` if it isn't a JPEG, is truncated, has no size in its header, or has more than
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
    """Checks that a JPEG is complete and not too large; returns width and height."""
    outline = _outline_jpeg(data)
    if outline is None:
        raise _jpeg_error(where, f"not a JPEG ({len(data)} bytes)" if data else "an empty picture")
    if not outline.has_end:
        raise _jpeg_error(where, f"the JPEG is truncated after {len(data)} bytes")
    if outline.size_px is None:
        raise _jpeg_error(where, f"a JPEG without a size in its header ({len(data)} bytes)")
    width, height = outline.size_px
    if width * height > MAX_FRAME_PIXELS:
        raise _jpeg_error(where, f"a JPEG that claims {width}x{height} pixels")
    return width, height


def _choose_reduction(short_side_px: int, least_side_px: int | None) -> int:
    """The flag that decodes to the smallest sufficient short side."""
    for divisor, flag in _REDUCTIONS:
        if least_side_px is not None and short_side_px >= divisor * least_side_px:
            return flag
    return cv2.IMREAD_COLOR


def _jpeg_error(where: str, found: str) -> SourceError:
    return SourceError(
        where,
        found,
        expected="complete JPEGs",
        remedy="check cable, supply and network: weak ones damage pictures",
        reason="decode",
    )


class _RawFormat(NamedTuple):
    """Memory layout of uncompressed pixels.

    Attributes:
        conversion: OpenCV's conversion to RGB; None if the pixels are only copied.
        channels: bytes that OpenCV counts as one element of a row.
        has_chroma_rows: whether half as many rows follow, with one colour for each block of 2 by 2 pixels.
        may_pad: whether lines may have padding. Not allowed if colour lines are half as long, since their padding is unknown.
    """

    conversion: int | None
    channels: int
    has_chroma_rows: bool = False
    may_pad: bool = True


# By their V4L2 names. YUV is assumed to be BT.601 in limited range (libcamera's SMPTE170M), the default of cameras.
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
"""The formats that `convert_raw` accepts."""


def convert_raw(
    data: bytes | memoryview, where: str, *, fourcc: str, width_px: int, height_px: int, line_bytes: int = 0
) -> Image:
    """Converts a camera's uncompressed pixels to RGB, in one pass.

    Args:
        data: the buffer, which is only read, and not kept.
        where: name of the camera, for errors.
        fourcc: one of `RAW_FORMATS`.
        width_px: width of the picture.
        height_px: height of the picture.
        line_bytes: distance between the starts of two lines; 0 for no padding.

    Returns:
        ``(height_px, width_px, 3)``, RGB, in its own memory.

    Raises:
        SourceError: ``decode`` if the buffer is smaller than the picture, ``format`` if lines are padded in a format that
            doesn't define how.

    References:
        Linux kernel, Documentation/userspace-api/media/v4l/: pixfmt-packed-yuv, pixfmt-yuv-planar, pixfmt-rgb.
        ITU-R BT.601-7, section 2.5: the matrix, with black at 16 and white at 235.
    """
    layout = _RAW_FORMATS[fourcc]
    packed_bytes = width_px * layout.channels
    line_bytes = line_bytes or packed_bytes
    if line_bytes < packed_bytes or (line_bytes > packed_bytes and not layout.may_pad):
        raise SourceError(
            where, f"{fourcc} with lines of {line_bytes} bytes", expected=f"{packed_bytes} for {width_px} px", reason="format"
        )
    rows = height_px * 3 // 2 if layout.has_chroma_rows else height_px
    # The last line may lack its padding.
    least_bytes = (rows - 1) * line_bytes + packed_bytes
    if len(data) < least_bytes:
        raise SourceError(
            where,
            f"a {fourcc} picture of {len(data)} bytes",
            expected=f"{least_bytes} for {width_px}x{height_px}",
            remedy="check the cable and the supply: weak ones lose data",
            reason="decode",
        )
    shape, steps = (rows, width_px, layout.channels), (line_bytes, layout.channels, 1)
    picture = np.ndarray(shape, np.uint8, data, strides=steps)
    if layout.conversion is None:
        return picture.copy()
    return np.asarray(cv2.cvtColor(picture if layout.channels > 1 else picture[..., 0], layout.conversion), np.uint8)


def encode_image(path: Path, image: Image) -> None:
    """Writes an image in the format of the file's suffix."""
    if not cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR)):
        raise SourceError(
            str(path), "can't be written", expected="an existing folder and the suffix of an image format", reason="failed"
        )


def resize(image: Image, width_px: int, height_px: int, interpolation: Interpolation) -> Image:
    """Scales an image to ``(height_px, width_px, 3)``. Scaling down always averages over areas, whatever the interpolation.

    Weights are trained on images scaled by PIL, whose filters widen when scaling down; OpenCV's don't. Compared with PIL's
    bicubic scaling of photographs down to 224 px, OpenCV's bicubic has a PSNR of 31 to 40 dB, its area averaging 42 to 50 dB.
    """
    is_shrunk = width_px <= image.shape[1] and height_px <= image.shape[0]
    how = cv2.INTER_AREA if is_shrunk else _INTERPOLATIONS[interpolation]
    return np.asarray(cv2.resize(image, (width_px, height_px), interpolation=how), np.uint8)


class VideoFile:
    """A video file, decoded by FFmpeg on one thread. Used from one thread at a time.

    Raises:
        SourceError: ``missing`` if the file can't be read, ``decode`` if it isn't a video.
    """

    def __init__(self, path: Path) -> None:
        try:
            path.open("rb").close()
        except OSError as error:
            raise SourceError(
                str(path), error.strerror or str(error), expected="a readable video file", reason="missing"
            ) from error
        # The absolute path is used because FFmpeg would interpret a name with a colon as a protocol.
        self._capture = cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
        if not self._capture.isOpened():
            raise SourceError(
                str(path),
                "not a video that can be decoded",
                expected="MP4, MKV, WebM, AVI or another format that FFmpeg knows",
                remedy="if the recording was interrupted before it was finalised, record it again",
                reason="decode",
            )

    @property
    def frame_count(self) -> int:
        """Number of frames that the container states, or that follows from its duration; 0 if unknown."""
        return max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))

    @property
    def rate_fps(self) -> float:
        """Mean rate that the container states; 0, NaN, or its time base if it states none."""
        return float(self._capture.get(cv2.CAP_PROP_FPS))

    def skip(self) -> bool:
        """Decodes the next frame without converting it; returns False if no more can be decoded."""
        try:
            return bool(self._capture.grab())
        except cv2.error:
            return False

    def read(self) -> Image | None:
        """Decodes the next frame, rotated upright according to the file's metadata; None if no more can be decoded."""
        try:
            is_read, frame = self._capture.read()
        except cv2.error:
            return None
        return np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), np.uint8) if is_read else None

    def close(self) -> None:
        """Releases the file; may be called twice."""
        self._capture.release()


HIGHEST_RATE_FPS = 240.0
"""Highest credible rate. FFmpeg estimates a stream's rate; without any data, it reports the ticks of the stream's clock."""


class StreamCapture:
    """A stream, read and decoded by FFmpeg on the caller's thread. Used from one thread.

    Args:
        url: with user and password.
        open_timeout_s: time for the server to answer, and for enough of the stream to arrive to identify its format.
        read_timeout_s: time for each frame.

    References:
        OpenCV, modules/videoio/src/cap_ffmpeg_impl.hpp: both timeouts reach FFmpeg as a callback that interrupts it; its other
        options come from the environment (``OPENCV_FFMPEG_CAPTURE_OPTIONS``), which applies to the whole process.
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
        """Whether the stream could be opened. FFmpeg doesn't report why not."""
        return bool(self._capture.isOpened())

    @property
    def rate_fps(self) -> float | None:
        """Rate of the stream according to FFmpeg; None if unknown."""
        rate_fps = float(self._capture.get(cv2.CAP_PROP_FPS))
        return rate_fps if 0 < rate_fps <= HIGHEST_RATE_FPS else None

    @property
    def position_s(self) -> float:
        """Time of the frame that `grab` decoded, by the stream's own clock; 0 if the stream has none."""
        return float(self._capture.get(cv2.CAP_PROP_POS_MSEC)) / 1e3

    def grab(self) -> bool:
        """Waits for the next frame and decodes it; returns False if none came in time, or the stream has ended."""
        try:
            return bool(self._capture.grab())
        except cv2.error:
            return False

    def retrieve(self) -> Image | None:
        """Returns the frame that `grab` decoded; None if it can't be converted."""
        try:
            is_given, frame = self._capture.retrieve()
        except cv2.error:
            return None
        return np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), np.uint8) if is_given else None

    def close(self) -> None:
        """Closes the connection; may be called twice."""
        self._capture.release()
