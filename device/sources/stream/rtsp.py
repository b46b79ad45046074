"""Frames of an RTSP camera, by OpenCV's FFmpeg.

A frame's timestamp is its arrival: RTP timestamps are of the camera's clock. The delay between the lens and the arrival can't
be known. A frame that was buffered before it was read gets the earliest time at which it can have arrived.

FFmpeg decodes on one thread, in software: pip's OpenCV has no decoder for the Pi's hardware (``v4l2m2m``). If the board can't
keep up, use the camera's smaller stream. FFmpeg's other options apply to the whole process, and are left to whoever needs them:
``OPENCV_FFMPEG_CAPTURE_OPTIONS`` in the environment (``fpsprobesize;0`` opens sooner). With ``rtsps``, FFmpeg checks the
certificate only if told to there (``tls_verify;1|ca_file;FILE``).

References:
    FFmpeg, libavformat/rtsp.c: ``tcp`` and ``udp`` in a URL's query choose the transport, and aren't sent.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Self

from device.core.errors import SourceError, UsageError
from device.core.plugin import Needs, import_package
from device.net.address import Address, Scheme, add_credentials, parse_address
from device.sources.base import OPENCV, SourceOptions
from device.sources.live import Damage, LiveSource, Picture
from device.sources.stream.rtsp_probe import explain_failure

OPEN_TIMEOUT_S = 8.0
"""Time for FFmpeg to open a stream; it reads a second or more to identify the format. Together with the probe after a failure,
this is less than `device.sources.live.LiveSource` waits."""

PROBE_TIMEOUT_S = 1.5
"""Time for a camera to answer why a stream can't be opened."""

READ_TIMEOUT_S = 10.0
"""Time for one frame. FFmpeg can't be interrupted: a thread that waits is left alone for as long."""

WAITED_S = 0.001
"""A call that slept for this long has waited for the network, or for Python's interpreter lock."""

WAITED_SURELY_S = 0.02
"""A call that slept for this long has waited for the network: Python's interpreter lock changes hands every 5 ms."""

MAX_SKIPPED = 300
"""Most frames that are skipped at once: by default, FFmpeg buffers at most 5 s of a stream while it opens."""

MAX_BEHIND_S = 10.0
"""If frames are always ready for this long, the board decodes more slowly than the camera sends."""


class RtspSource(LiveSource):
    """An RTSP stream; keeps its newest frame.

    Uses TCP, because frames with lost packets are smeared; ``#udp`` after the address selects UDP.

    Args:
        address: of the stream.
        options: ``clock`` is used; the camera chooses size and rate.

    Raises:
        SourceError: ``unreachable``, ``unauthorised``, ``missing`` if the camera doesn't know the path, ``refused`` for any
            other status, ``format`` if it answers but FFmpeg gets no video, ``stalled`` if it doesn't answer.
    """

    scheme: ClassVar[Scheme] = "rtsp"
    needs: ClassVar[Needs] = OPENCV._replace(is_networked=True)

    def __init__(self, address: Address, options: SourceOptions | None = None) -> None:
        chosen = options or SourceOptions()
        import_package("device.image.opencv", self.needs, f"source {self.scheme}")
        super().__init__(
            address.safe,
            lambda: _RtspCapture(address, chosen.clock.now_ns),
            chosen,
            remedy="check the camera's power and network",
        )

    @classmethod
    def from_uri(cls, rest: str, options: SourceOptions) -> Self:
        """Opens ``rtsp://[USER:PASSWORD@]HOST[:PORT]/PATH[#udp]``; without a user, the netrc file is searched."""
        address = parse_address(cls.scheme, rest)
        if address.fragment not in ("", "udp"):
            raise UsageError(
                "source",
                f"'{cls.scheme}:...' has an unknown #fragment",
                expected="#udp or none",
                reason="malformed_uri",
            )
        return cls(add_credentials(address), options)


class RtspsSource(RtspSource):
    """An RTSP stream over TLS."""

    scheme: ClassVar[Scheme] = "rtsps"


class _RtspCapture:
    """An open stream. See `device.sources.live.Capture`."""

    def __init__(self, address: Address, now_ns: Callable[[], int]) -> None:
        from device.image.opencv import StreamCapture

        self._where = address.safe
        url = address.url(with_credentials=True, extra_query=address.fragment or "tcp")
        self._stream = StreamCapture(url, open_timeout_s=OPEN_TIMEOUT_S, read_timeout_s=READ_TIMEOUT_S)
        if not self._stream.is_open:
            self._stream.close()
            raise explain_failure(address, timeout_s=PROBE_TIMEOUT_S)
        self._newest = NewestFrame(self._stream.grab, lambda: self._stream.position_s, now_ns, ThreadTime().awake_ns)

    @property
    def rate_fps(self) -> float | None:
        return self._stream.rate_fps

    def read(self) -> Picture | Damage | None:
        """Waits for a frame, and skips buffered ones."""
        started_ns = time.monotonic_ns()
        skipped = self._newest.grab()
        if skipped is None:
            raise self._lost((time.monotonic_ns() - started_ns) / 1e9)
        if self._newest.behind_s > MAX_BEHIND_S:
            raise SourceError(
                self._where,
                f"for {MAX_BEHIND_S:g} s, frames have arrived faster than they can be decoded",
                expected="a stream that this board can decode",
                remedy="use the camera's smaller stream, or lower its size or rate",
                reason="behind",
            )
        pixels = self._stream.retrieve()
        if pixels is None:
            error = SourceError(self._where, "a frame can't be converted", expected="video in colour", reason="decode")
            return Damage(error, skipped)
        return Picture(pixels, self._newest.arrived_ns, skipped)

    def close(self) -> None:
        """Closes the connection."""
        self._stream.close()

    def _lost(self, waited_s: float) -> SourceError:
        if waited_s < READ_TIMEOUT_S:
            return SourceError(self._where, "the stream ended", expected="a stream without end", reason="ended")
        return SourceError(
            self._where, f"no data for {READ_TIMEOUT_S:g} s", expected="a camera that delivers", reason="stalled"
        )


class ThreadTime:
    """Measures how long the thread that creates it has been awake.

    On a busy board a thread may wait as long for a core as for a frame: its processor time alone doesn't show whether it slept.

    Args:
        root: root of the file system.

    References:
        Linux kernel, Documentation/scheduler/sched-stats.rst, ``/proc/<pid>/schedstat``: nanoseconds on a core, and on its run
        queue. On a kernel without these statistics the file is missing, and time on a run queue counts as sleep.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._path = root / f"proc/self/task/{threading.get_native_id()}/schedstat"
        self._is_counted = self._path.exists()

    def awake_ns(self) -> int:
        """Time spent on a core or waiting for one. Call it only from the thread that created this object."""
        queued_ns = int(self._path.read_text().split()[1]) if self._is_counted else 0
        return time.thread_time_ns() + queued_ns


class NewestFrame:
    """Skips buffered frames, to keep delay from building up.

    FFmpeg doesn't say what it has buffered. But it decodes on the calling thread, so a call during which the thread slept has
    waited for the network, and its frame is new; unless the stream's clock advanced more than twice as fast as ours, as it does
    while buffered frames are read. A single frame that was ready at once is delivered too, since it is no older than the last
    call; of several in a row, only the last.

    Args:
        grab: waits for a frame and decodes it; False at the end of the stream.
        position_s: the frame's time by the stream's own clock.
        now_ns: stamps the frames: monotonic nanoseconds.
        awake_ns: time that this thread has spent on a core or waiting for one.

    Attributes:
        arrived_ns: when the newest frame arrived, or the earliest time at which it can have arrived.
        behind_s: how long no call has had to wait.
    """

    def __init__(
        self, grab: Callable[[], bool], position_s: Callable[[], float], now_ns: Callable[[], int], awake_ns: Callable[[], int]
    ) -> None:
        self._grab = grab
        self._position_s = position_s
        self._now_ns = now_ns
        self._awake_ns = awake_ns
        self._caught_up_ns = self._ended_ns = now_ns()
        # A frame that is ready at the first call arrived while FFmpeg opened the stream, perhaps seconds ago.
        self._ready_in_a_row = 1
        self._last_s: float | None = None
        self.arrived_ns = 0
        self.behind_s = 0.0

    def grab(self) -> int | None:
        """Waits for a new frame.

        Returns:
            How many frames were skipped; None at the end of the stream.
        """
        skipped = -1
        while skipped < 0 or (self._ready_in_a_row > 1 and skipped < MAX_SKIPPED):
            has_waited = self._grab_one()
            if has_waited is None:
                return None
            self._ready_in_a_row = 0 if has_waited else self._ready_in_a_row + 1
            skipped += 1
        return skipped

    def _grab_one(self) -> bool | None:
        """Decodes a frame; returns True if it had to wait for it, None at the end of the stream."""
        previous_ns = self._ended_ns
        started_ns, started_awake_ns = self._now_ns(), self._awake_ns()
        if not self._grab():
            return None
        self._ended_ns = self._now_ns()
        awake_ns = self._awake_ns() - started_awake_ns
        has_waited = self._has_waited((self._ended_ns - started_ns - awake_ns) / 1e9, (self._ended_ns - previous_ns) / 1e9)
        if has_waited:
            self._caught_up_ns = self._ended_ns
        self.arrived_ns = self._ended_ns - awake_ns if has_waited else previous_ns
        self.behind_s = (self._ended_ns - self._caught_up_ns) / 1e9
        return has_waited

    def _has_waited(self, slept_s: float, passed_s: float) -> bool:
        """Whether the call waited for the network, so that its frame is new.

        Args:
            slept_s: how long the call slept.
            passed_s: time since the previous call.
        """
        last_s, self._last_s = self._last_s, self._position_s()
        if last_s is None:
            # FFmpeg read the first frame already, to identify the format.
            return False
        keeps_pace = passed_s >= (self._last_s - last_s) / 2
        return slept_s >= WAITED_SURELY_S or (slept_s >= WAITED_S and keeps_pace)
