"""An open V4L2 camera: negotiates a mode, maps the driver's buffers, and converts the newest picture to RGB.

References:
    Linux kernel, Documentation/userspace-api/media/v4l/: mmap, vidioc-reqbufs, vidioc-dqbuf, vidioc-streamon, buffer.
"""

from __future__ import annotations

import errno
import mmap
import os
from contextlib import ExitStack, suppress
from pathlib import Path

from device.core.errors import SourceError, nearest
from device.machine.sysfs import read_text
from device.protocols import Clock, Image
from device.sources.live import Damage, Picture, choose_timestamp_ns, picture_or_damage
from device.sources.v4l2.formats import COSTS_NS, Mode, ModeRequest, choose_mode, list_formats
from device.sources.v4l2.locator import permission_error
from device.sources.v4l2.node import (
    CAN_CAPTURE_PLANES,
    CAN_SET_RATE,
    DEQUEUE_BUFFER,
    GET_FORMAT,
    GET_RATE,
    IS_DAMAGED,
    MEMORY_MAPPED,
    QUERY_BUFFER,
    QUEUE_BUFFER,
    REQUEST_BUFFERS,
    SET_FORMAT,
    SET_RATE,
    STREAM_OFF,
    STREAM_ON,
    VIDEO_CAPTURE,
    Buffer,
    KernelNode,
    NodeOpener,
    call,
    call_buffer,
    fourcc,
    fourcc_number,
    read_node_info,
)

BUFFER_COUNT = 4
"""One buffer that we read, one that the driver fills, and two for pictures that arrive while we are busy."""

WAIT_S = 0.5
"""Longest wait before checking whether the source was closed."""

# Rates are requested in thousandths, for 7.5 and 29.97.
_RATE_SCALE = 1000


class V4l2Capture:
    """An open camera that streams. See `device.sources.live.Capture`.

    Args:
        path: the node.
        request: the mode to ask for, see `choose_mode`.
        least_side_px: see `device.image.opencv.decode_jpeg`.
        clock: stamps pictures that the driver doesn't stamp.
        root: folder that holds ``proc``, to find out who holds a busy camera.
        open_node: opens the node.

    Raises:
        SourceError: ``missing`` if it isn't a camera, ``permission``, ``busy`` if another program streams from it,
            ``format`` if it has no format that can be read, ``bandwidth`` if the bus has no room.
    """

    def __init__(
        self,
        path: Path,
        request: ModeRequest,
        least_side_px: int | None = None,
        *,
        clock: Clock,
        root: Path = Path("/"),
        open_node: NodeOpener = KernelNode,
    ) -> None:
        self._path = path
        self._clock = clock
        self._root = root
        self._least_side_px = least_side_px
        self._last_sequence = -1
        with ExitStack() as stack:
            try:
                self._node = open_node(path)
                stack.callback(self._node.close)
                self._require_camera()
                self._agree(request)
                self._memory = self._map_buffers(stack)
                call(self._node, STREAM_ON, VIDEO_CAPTURE)
            except OSError as error:
                raise self._explain(error) from error
            self._resources = stack.pop_all()

    @property
    def rate_fps(self) -> float | None:
        """Rate that the driver promises; None if it doesn't say."""
        return self._rate_fps

    def read(self) -> Picture | Damage | None:
        """Takes the newest picture and skips older ones that wait. See `Capture.read`.

        Returns:
            `Damage` if the driver marks the picture as damaged, it is too short, or its JPEG is truncated.

        Raises:
            SourceError: ``ended`` if the camera is gone.
        """
        if not self._node.wait(WAIT_S):
            return None
        buffer, given_back = self._take_newest()
        if buffer is None:
            return None
        # Some drivers don't number their pictures, and some start again after a loss: at least those given back were skipped.
        skipped, self._last_sequence = max(given_back, buffer.sequence - self._last_sequence - 1), buffer.sequence
        # Taken before the conversion: without the driver's stamp, the frame must not look younger than it is.
        stamp_ns = choose_timestamp_ns(buffer.timestamp_ns, self._clock.now_ns())
        try:
            return picture_or_damage(lambda: self._convert(buffer), stamp_ns, skipped)
        finally:
            self._give_back(buffer)

    def close(self) -> None:
        """Stops the stream and closes the camera."""
        with suppress(OSError):  # the camera may be gone
            call(self._node, STREAM_OFF, VIDEO_CAPTURE)
        self._resources.close()

    # --- opening ------------------------------------------------------------------------------------------------------

    def _require_camera(self) -> None:
        info = read_node_info(self._node)
        if not info.can_capture:
            has_planes = info.capabilities & CAN_CAPTURE_PLANES
            raise SourceError(
                str(self._path),
                f"{info.name!r} " + ("captures in separate planes only" if has_planes else "captures no pictures"),
                expected="a V4L2 capture device with mapped buffers",
                remedy="where a camera has several nodes, use the first",
                reason="missing",
            )

    def _agree(self, request: ModeRequest) -> None:
        """Negotiates format, size and rate with the driver, which has the last word on size and rate."""
        mode = self._choose(request)
        wanted = fourcc_number(mode.fourcc)
        _, width_px, height_px, given, _, line_bytes, *_ = call(
            self._node, SET_FORMAT, VIDEO_CAPTURE, mode.width_px, mode.height_px, wanted
        )
        if given != wanted:
            raise self._format_error(f"the driver set {fourcc(given)}", mode.fourcc)
        self._fourcc, self._width_px, self._height_px, self._line_bytes = mode.fourcc, width_px, height_px, line_bytes
        self._rate_fps = self._settle_rate(mode.rate_fps)

    def _choose(self, request: ModeRequest) -> Mode:
        readable = ", ".join(COSTS_NS)
        if request.fourcc is not None and request.fourcc not in COSTS_NS:
            raise self._format_error(f"{request.fourcc} can't be read", nearest(request.fourcc, COSTS_NS))
        formats = list_formats(self._node)
        mode = choose_mode(formats, request)
        if mode is not None:
            return mode
        offered = [entry.fourcc for entry in formats]
        if offered and request.fourcc is not None:
            raise self._format_error(f"the camera has no {request.fourcc}", nearest(request.fourcc, offered))
        if offered:
            raise self._format_error(f"the camera has only {', '.join(offered)}", f"one of {readable}")
        # A driver that lists nothing gets the required format, or else keeps its own.
        _, _, _, current, *_ = call(self._node, GET_FORMAT, VIDEO_CAPTURE)
        name = request.fourcc or fourcc(current)
        if name not in COSTS_NS:
            raise self._format_error(f"the camera has {name}", f"one of {readable}")
        return Mode(name, request.width_px, request.height_px, request.rate_fps)

    def _settle_rate(self, rate_fps: float) -> float | None:
        try:
            _, capability, *_ = call(self._node, GET_RATE, VIDEO_CAPTURE)
            if not capability & CAN_SET_RATE:
                return None
            _, _, _, numerator, denominator, *_ = call(
                self._node, SET_RATE, VIDEO_CAPTURE, 0, 0, _RATE_SCALE, round(rate_fps * _RATE_SCALE)
            )
        except OSError as error:
            if error.errno in (errno.ENOTTY, errno.EINVAL):
                return None
            raise
        return denominator / numerator if numerator and denominator else None

    def _map_buffers(self, stack: ExitStack) -> list[mmap.mmap]:
        count, *_ = call(self._node, REQUEST_BUFFERS, BUFFER_COUNT, VIDEO_CAPTURE, MEMORY_MAPPED)
        memory = []
        for index in range(count):
            buffer = call_buffer(self._node, QUERY_BUFFER, index)
            memory.append(self._node.map(buffer.length_bytes, buffer.offset_bytes))
            stack.callback(_unmap, memory[-1])
            call_buffer(self._node, QUEUE_BUFFER, index)
        return memory

    # --- reading ------------------------------------------------------------------------------------------------------

    def _take_newest(self) -> tuple[Buffer | None, int]:
        """Dequeues the newest picture that waits; also returns how many older ones were given back."""
        newest: Buffer | None = None
        given_back = 0
        for _ in self._memory:
            later = self._take()
            if later is None:
                break
            if newest is not None:
                self._give_back(newest)
                given_back += 1
            newest = later
        return newest, given_back

    def _take(self) -> Buffer | None:
        try:
            return call_buffer(self._node, DEQUEUE_BUFFER, 0)
        except OSError as error:
            # EIO means a fault that may pass, such as a lost signal. One that doesn't pass shows as a stall.
            if error.errno in (errno.EAGAIN, errno.EIO):
                return None
            raise self._ended(error) from error

    def _give_back(self, buffer: Buffer) -> None:
        try:
            call_buffer(self._node, QUEUE_BUFFER, buffer.number)
        except OSError as error:
            raise self._ended(error) from error

    def _convert(self, buffer: Buffer) -> Image:
        if buffer.flags & IS_DAMAGED:
            raise SourceError(
                str(self._path),
                "the driver marks the picture as damaged",
                expected="whole pictures",
                remedy="check the cable and the supply: weak ones lose data",
                reason="decode",
            )
        from device.image.opencv import RAW_FORMATS, convert_raw, decode_jpeg

        where, memory = str(self._path), self._memory[buffer.number]
        if self._fourcc not in RAW_FORMATS:
            return decode_jpeg(memory[: buffer.used_bytes], where, least_side_px=self._least_side_px)
        return convert_raw(
            memoryview(memory)[: buffer.used_bytes],
            where,
            fourcc=self._fourcc,
            width_px=self._width_px,
            height_px=self._height_px,
            line_bytes=self._line_bytes,
        )

    # --- errors -------------------------------------------------------------------------------------------------------

    def _format_error(self, found: str, expected: str) -> SourceError:
        return SourceError(
            str(self._path),
            found,
            expected=expected,
            remedy="v4l2-ctl --list-formats-ext lists its formats; without #FORMAT the cheapest is used",
            reason="format",
        )

    def _ended(self, error: OSError) -> SourceError:
        is_there = self._path.exists()
        found = f"the driver gave up ({error.strerror})" if is_there else "the camera is gone"
        return SourceError(str(self._path), found, remedy="" if is_there else "plug it in again", reason="ended")

    def _explain(self, error: OSError) -> SourceError:
        """Turns a driver's errno into an error that says what to do."""
        where = str(self._path)
        if error.errno in (errno.EACCES, errno.EPERM):
            return permission_error(self._path)
        if error.errno == errno.EBUSY:
            return self._busy()
        if error.errno == errno.ENOSPC:
            return SourceError(
                where,
                f"the USB bus has no room for {self._fourcc} at {self._width_px}x{self._height_px}",
                expected="a mode that the bus has room for",
                remedy=f"ask for MJPG (v4l2:{where}#MJPG), a smaller size or a lower rate, or use another USB port",
                reason="bandwidth",
            )
        return SourceError(
            where,
            f"can't be opened as a camera ({error.strerror or error})",
            expected="a V4L2 capture device",
            reason="missing",
        )

    def _busy(self) -> SourceError:
        where, holders = str(self._path), list_holders(self._path, self._root)
        if os.getpid() in holders:
            found = "this program holds it already: it is named twice, or an earlier call into its driver hangs"
            remedy = "name it once; otherwise unplug it and plug it in again"
        elif holders:
            names = (f"{read_text(self._root / 'proc' / str(pid) / 'comm') or 'a program'} (pid {pid})" for pid in holders)
            found, remedy = f"{', '.join(names)} holds it", "end that program"
        else:
            found, remedy = "another program holds it", f"sudo fuser -v {where} shows which"
        return SourceError(where, found, expected="a free camera", remedy=remedy, reason="busy")


def list_holders(path: Path, root: Path = Path("/")) -> list[int]:
    """Lists the ids of processes that have a node open, among those whose open files this user may see."""
    node, holders = path.resolve(), []
    for process in (root / "proc").glob("[0-9]*"):
        # The process may end meanwhile, or belong to another user.
        with suppress(OSError):
            if any(link.readlink() == node for link in (process / "fd").iterdir()):
                holders.append(int(process.name))
    return sorted(holders)


def _unmap(memory: mmap.mmap) -> None:
    # A kept error may hold a view of the memory through its traceback; then it is unmapped when the error is freed.
    with suppress(BufferError):
        memory.close()
