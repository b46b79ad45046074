"""An open V4L2 camera: agrees on a mode, maps the driver's buffers, and brings the newest to RGB.

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
from device.image.opencv import RAW_FORMATS, convert_raw, decode_jpeg
from device.machine.sysfs import read_text
from device.protocols import Clock, Image
from device.sources.live import Damage, Picture, choose_timestamp_ns, picture_or_damage
from device.sources.v4l2.formats import COSTS_NS, Mode, Wish, choose_mode, list_formats
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
    read_card,
)

BUFFER_COUNT = 4
"""One that is looked at, one that the driver fills, and two for pictures that come while we are busy."""

WAIT_S = 0.5
"""Between two looks whether the source was closed meanwhile."""

# Rates are asked for in thousandths, so that 7.5 and 29.97 can be.
_RATE_SCALE = 1000


class V4l2Capture:
    """See `device.sources.live.Capture`.

    Args:
        path: the node.
        wish: what to ask for, see `choose_mode`.
        least_side_px: see `device.image.opencv.decode_jpeg`.
        clock: stamps pictures whose driver doesn't.
        root: where ``proc`` is, to look for who holds a camera that is busy.
        open_node: what opens the node.

    Raises:
        SourceError: ``missing`` where it is no camera, ``permission``, ``busy`` where another program streams from it,
            ``format`` where it gives nothing that can be read, ``bandwidth`` where the bus has no room.
    """

    def __init__(
        self,
        path: Path,
        wish: Wish,
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
                self._agree(wish)
                self._memory = self._map_buffers(stack)
                call(self._node, STREAM_ON, VIDEO_CAPTURE)
            except OSError as error:
                raise self._explain(error) from error
            self._resources = stack.pop_all()

    @property
    def rate_fps(self) -> float | None:
        """That the driver promises; None where it says nothing."""
        return self._rate_fps

    def read(self) -> Picture | Damage | None:
        """Takes the newest picture; older ones that wait are given back unseen. See `Capture.read`.

        Returns:
            `Damage` where the driver marks it as damaged, it is too short, or its JPEG breaks off.

        Raises:
            SourceError: ``ended`` where the camera is gone.
        """
        if not self._node.wait(WAIT_S):
            return None
        buffer, given_back = self._take_newest()
        if buffer is None:
            return None
        # Drivers that don't count show what was given back; some begin again after a loss.
        skipped, self._last_sequence = max(given_back, buffer.sequence - self._last_sequence - 1), buffer.sequence
        # Before it is converted: a driver without stamps must not make frames younger than they are.
        stamp_ns = choose_timestamp_ns(buffer.timestamp_ns, self._clock.now_ns())
        try:
            return picture_or_damage(lambda: self._convert(buffer), stamp_ns, skipped)
        finally:
            self._give_back(buffer)

    def close(self) -> None:
        """Stops the stream and lets go of the camera."""
        with suppress(OSError):  # of a camera that is gone
            call(self._node, STREAM_OFF, VIDEO_CAPTURE)
        self._resources.close()

    # --- opening ------------------------------------------------------------------------------------------------------

    def _require_camera(self) -> None:
        card = read_card(self._node)
        if not card.can_capture:
            has_planes = card.capabilities & CAN_CAPTURE_PLANES
            raise SourceError(
                str(self._path),
                f"{card.name!r} " + ("gives pictures in separate planes only" if has_planes else "gives no pictures"),
                expected="a V4L2 capture device with mapped buffers",
                remedy="many cameras have several nodes, and the first is the one",
                reason="missing",
            )

    def _agree(self, wish: Wish) -> None:
        """Settles format, size and rate with the driver, which has the last word on the last two."""
        mode = self._choose(wish)
        wanted = fourcc_number(mode.fourcc)
        _, width_px, height_px, given, _, line_bytes, *_ = call(
            self._node, SET_FORMAT, VIDEO_CAPTURE, mode.width_px, mode.height_px, wanted
        )
        if given != wanted:
            raise self._format_error(f"the driver gives {fourcc(given)}", mode.fourcc)
        self._fourcc, self._width_px, self._height_px, self._line_bytes = mode.fourcc, width_px, height_px, line_bytes
        self._rate_fps = self._settle_rate(mode.rate_fps)

    def _choose(self, wish: Wish) -> Mode:
        readable = ", ".join(COSTS_NS)
        if wish.fourcc is not None and wish.fourcc not in COSTS_NS:
            raise self._format_error(f"{wish.fourcc} can't be read", nearest(wish.fourcc, COSTS_NS))
        formats = list_formats(self._node)
        mode = choose_mode(formats, wish)
        if mode is not None:
            return mode
        offered = [entry.fourcc for entry in formats]
        if offered and wish.fourcc is not None:
            raise self._format_error(f"the camera has no {wish.fourcc}", nearest(wish.fourcc, offered))
        if offered:
            raise self._format_error(f"the camera gives only {', '.join(offered)}", f"one of {readable}")
        # A driver that lists nothing is asked for what was insisted on, or else keeps its own format.
        _, _, _, current, *_ = call(self._node, GET_FORMAT, VIDEO_CAPTURE)
        name = wish.fourcc or fourcc(current)
        if name not in COSTS_NS:
            raise self._format_error(f"the camera gives {name}", f"one of {readable}")
        return Mode(name, wish.width_px, wish.height_px, wish.rate_fps)

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
        """The newest picture that waits, and how many older ones were given back."""
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
            # EIO stands for troubles that may pass, such as a lost signal. Those that don't show as a stall.
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
                remedy="a weak cable or supply loses data on its way",
                reason="decode",
            )
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

    # --- what went wrong ----------------------------------------------------------------------------------------------

    def _format_error(self, found: str, expected: str) -> SourceError:
        return SourceError(
            str(self._path),
            found,
            expected=expected,
            remedy="v4l2-ctl --list-formats-ext shows what it has; without #FORMAT the cheapest is taken",
            reason="format",
        )

    def _ended(self, error: OSError) -> SourceError:
        is_there = self._path.exists()
        found = f"the driver gave up ({error.strerror})" if is_there else "the camera is gone"
        return SourceError(str(self._path), found, remedy="" if is_there else "plug it in again", reason="ended")

    def _explain(self, error: OSError) -> SourceError:
        """Says in a person's words what a driver meant by refusing to open."""
        where = str(self._path)
        if error.errno in (errno.EACCES, errno.EPERM):
            return permission_error(self._path)
        if error.errno == errno.EBUSY:
            return self._busy()
        if error.errno == errno.ENOSPC:
            return SourceError(
                where,
                f"the USB bus has no room for {self._fourcc} at {self._width_px}x{self._height_px}",
                expected="less data, or another bus",
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
            remedy = "name it once; or else unplug it and plug it in again"
        elif holders:
            names = (f"{read_text(self._root / 'proc' / str(pid) / 'comm') or 'a program'} (pid {pid})" for pid in holders)
            found, remedy = f"{', '.join(names)} holds it", "end that program"
        else:
            found, remedy = "another program holds it", f"sudo fuser -v {where} shows which"
        return SourceError(where, found, expected="a camera that is free", remedy=remedy, reason="busy")


def list_holders(path: Path, root: Path = Path("/")) -> list[int]:
    """Programs that have a node open, by their process id, of those whose files this user may see."""
    node, holders = path.resolve(), []
    for process in (root / "proc").glob("[0-9]*"):
        # It may end while we look, or belong to someone else.
        with suppress(OSError):
            if any(link.readlink() == node for link in (process / "fd").iterdir()):
                holders.append(int(process.name))
    return sorted(holders)


def _unmap(memory: mmap.mmap) -> None:
    # An error that someone keeps may hold a view of it, by its traceback; then it is unmapped when that goes.
    with suppress(BufferError):
        memory.close()
