"""Frames of an RTSP camera, by OpenCV's FFmpeg.

A frame's time is that of its arrival: RTP's stamps are of the camera's clock. What passes between the lens and here can't be
known. A frame that had lain here before it was looked at gets the time before which it can't have come.

FFmpeg decodes on one thread, in software: pip's OpenCV has no decoder for the Pi's hardware (``v4l2m2m``). Whoever's board
can't keep up takes the camera's smaller stream. Its other options are the whole process's: ``OPENCV_FFMPEG_CAPTURE_OPTIONS``
in the environment is left to whoever needs one (``fpsprobesize;0`` opens sooner). With ``rtsps``, FFmpeg checks no
certificate unless told so there (``tls_verify;1|ca_file;FILE``).

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
from device.image.opencv import StreamCapture
from device.net.address import Address, Scheme, add_credentials, parse_address
from device.protocols import Clock
from device.sources.base import SourceOptions
from device.sources.live import Damage, LiveSource, Picture
from device.sources.stream.rtsp_probe import explain_failure

OPEN_TIMEOUT_S = 8.0
"""For FFmpeg to open a stream; it reads a second or more of it to tell what it is. With the probe that follows a failure, less
than `device.sources.live.LiveSource` waits."""

PROBE_TIMEOUT_S = 1.5
"""For a camera to say why it won't be opened."""

READ_TIMEOUT_S = 10.0
"""For one frame. FFmpeg can't be interrupted from outside: a thread that waits is left to itself for as long."""

WAITED_S = 0.001
"""A call that slept for this long has waited for the network, or for Python's lock."""

WAITED_SURELY_S = 0.02
"""A call that slept for this long has waited for the network: Python's lock changes hands every 5 ms."""

MAX_SKIPPED = 300
"""Frames that may be passed over in one go: what FFmpeg keeps of a stream while it opens is 5 s at most, by default."""

MAX_BEHIND_S = 10.0
"""Frames that lie ready for this long without a break mean that the board decodes slower than the camera sends."""


class RtspSource(LiveSource):
    """Keeps the newest frame of an RTSP stream.

    Over TCP, since frames that lost packets are smeared; ``#udp`` behind the address asks for UDP.

    Args:
        address: of the stream.
        options: ``clock`` is taken; the camera chooses size and rate.

    Raises:
        SourceError: ``unreachable``, ``unauthorised``, ``missing`` where the camera knows no such path, ``refused`` with any
            other status, ``format`` where it answers but FFmpeg gets no video, ``stalled`` where it doesn't answer.
    """

    scheme: ClassVar[Scheme] = "rtsp"

    def __init__(self, address: Address, options: SourceOptions | None = None) -> None:
        chosen = options or SourceOptions()
        super().__init__(
            address.safe,
            lambda: _RtspCapture(address, chosen.clock),
            chosen,
            remedy="look whether the camera has power and network",
        )

    @classmethod
    def from_uri(cls, rest: str, options: SourceOptions) -> Self:
        """Opens ``rtsp://[USER:PASSWORD@]HOST[:PORT]/PATH[#udp]``; without a user, the netrc file is asked."""
        address = parse_address(cls.scheme, rest)
        if address.fragment not in ("", "udp"):
            raise UsageError(
                "source",
                f"'{cls.scheme}:...' has something unknown behind #",
                expected="#udp or nothing",
                reason="malformed_uri",
            )
        return cls(add_credentials(address), options)


class RtspsSource(RtspSource):
    """The same over TLS."""

    scheme: ClassVar[Scheme] = "rtsps"


class _RtspCapture:
    """An open stream. See `device.sources.live.Capture`."""

    def __init__(self, address: Address, clock: Clock) -> None:
        self._where = address.safe
        url = address.url(with_credentials=True, extra_query=address.fragment or "tcp")
        self._stream = StreamCapture(url, open_timeout_s=OPEN_TIMEOUT_S, read_timeout_s=READ_TIMEOUT_S)
        if not self._stream.is_open:
            self._stream.close()
            raise explain_failure(address, timeout_s=PROBE_TIMEOUT_S)
        self._newest = NewestFrame(self._stream.grab, lambda: self._stream.position_s, clock, ThreadTime().awake_ns)

    @property
    def rate_fps(self) -> float | None:
        return self._stream.rate_fps

    def read(self) -> Picture | Damage | None:
        """Waits for a frame; passes over those that have lain here."""
        started_ns = time.monotonic_ns()
        skipped = self._newest.grab()
        if skipped is None:
            raise self._lost((time.monotonic_ns() - started_ns) / 1e9)
        if self._newest.behind_s > MAX_BEHIND_S:
            raise SourceError(
                self._where,
                f"frames have come faster than they can be decoded for {MAX_BEHIND_S:g} s",
                expected="a stream that this board can decode",
                remedy="take the camera's smaller stream, or lower its size or rate",
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
            self._where, f"nothing came for {READ_TIMEOUT_S:g} s", expected="a camera that delivers", reason="stalled"
        )


class ThreadTime:
    """How long the thread that makes this has not slept.

    A busy board lets a thread wait for a core as long as for a frame: what it computed isn't enough to tell whether it slept.

    Args:
        root: of the file system.

    References:
        Linux kernel, Documentation/scheduler/sched-stats.rst, ``/proc/<pid>/schedstat``: nanoseconds on a core, and on its run
        queue. Where the kernel doesn't count, there is no such file, and the time on a queue passes for sleep.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._path = root / f"proc/self/task/{threading.get_native_id()}/schedstat"
        self._is_counted = self._path.exists()

    def awake_ns(self) -> int:
        """Time on a core or waiting for one. Only from the thread that made this."""
        queued_ns = int(self._path.read_text().split()[1]) if self._is_counted else 0
        return time.thread_time_ns() + queued_ns


class NewestFrame:
    """Passes over frames that had come before they were asked for, so that no delay ever builds up.

    FFmpeg tells nothing of what it holds. But it decodes on the thread that calls, so a call in which the thread slept has
    waited for the network: what it gave is new; unless the stream's own clock went more than twice as fast as ours, as it
    does while frames that have lain here go by. One frame that was there at once is given too, since it is at most as old as
    the last call; of several in a row, the last.

    Args:
        grab: waits for a frame and decodes it; False where there is none.
        position_s: of that frame, by the stream's own clock.
        clock: stamps the frames.
        awake_ns: time that this thread has computed, or waited for a core to compute on.

    Attributes:
        arrived_ns: when the newest frame came, or before when it can't have come.
        behind_s: for how long no call had to wait.
    """

    def __init__(
        self, grab: Callable[[], bool], position_s: Callable[[], float], clock: Clock, awake_ns: Callable[[], int]
    ) -> None:
        self._grab = grab
        self._position_s = position_s
        self._clock = clock
        self._awake_ns = awake_ns
        self._caught_up_ns = self._ended_ns = clock.now_ns()
        # What is ready before the first call has come while FFmpeg opened the stream: seconds ago, perhaps.
        self._ready_in_a_row = 1
        self._last_s: float | None = None
        self.arrived_ns = 0
        self.behind_s = 0.0

    def grab(self) -> int | None:
        """Waits for a frame that is new.

        Returns:
            How many were passed over; None where the stream gives no more.
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
        """Decodes a frame; True where it had to wait for it, None where there is none."""
        previous_ns = self._ended_ns
        started_ns, started_awake_ns = self._clock.now_ns(), self._awake_ns()
        if not self._grab():
            return None
        self._ended_ns = self._clock.now_ns()
        awake_ns = self._awake_ns() - started_awake_ns
        has_waited = self._has_waited((self._ended_ns - started_ns - awake_ns) / 1e9, (self._ended_ns - previous_ns) / 1e9)
        if has_waited:
            self._caught_up_ns = self._ended_ns
        self.arrived_ns = self._ended_ns - awake_ns if has_waited else previous_ns
        self.behind_s = (self._ended_ns - self._caught_up_ns) / 1e9
        return has_waited

    def _has_waited(self, slept_s: float, passed_s: float) -> bool:
        """Tells a frame that is new.

        Args:
            slept_s: that the call slept.
            passed_s: since the call before.
        """
        last_s, self._last_s = self._last_s, self._position_s()
        if last_s is None:
            # FFmpeg has read the first frame to tell what stream it is.
            return False
        keeps_pace = passed_s >= (self._last_s - last_s) / 2
        return slept_s >= WAITED_SURELY_S or (slept_s >= WAITED_S and keeps_pace)
