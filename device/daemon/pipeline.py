"""The loop: newest frame in, labels out. Knows protocols and a clock, and no concrete class.

A thread for each source reads it and keeps its newest frame; the caller's runs the network, on the sources in turn. A live
source overtakes a slow network, and the frames in between are dropped and counted; a file waits.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

from device.contract import Preprocessing, RateLimits
from device.contract.tensor import dequantise
from device.core.errors import SourceError
from device.core.resources import Resource
from device.image.postprocess import is_unknown, rank
from device.image.preprocess import fit_frame, rotate
from device.protocols import (
    Clock,
    Emit,
    Frame,
    FrameDamaged,
    FrameDone,
    FrameSource,
    Prediction,
    Session,
    StageTimes,
    Tick,
)

WAKE_INTERVAL_S = 0.1
"""The longest that the loop waits for a frame before it checks whether to stop."""

JOIN_TIMEOUT_S = 1.0
"""The longest wait, at the end, for the sources' reads to return; for all of them together."""

TOP_LABELS = 5


class Captured(NamedTuple):
    """A frame, and how long the source took to give it."""

    frame: Frame
    capture_s: float
    source: str


class FrameReader:
    """Reads a source in a thread and keeps one frame for the loop: the newest of a live source, the next of a file.

    Args:
        source: read until it ends; not closed here.
        clock: for the time that reads take.
        stall_timeout_s: a source that gives nothing for this long has stalled.
        changed: guards this reader; shared with those that the loop takes frames from in turn.
    """

    def __init__(self, source: FrameSource, clock: Clock, stall_timeout_s: float, changed: threading.Condition) -> None:
        self._source = source
        self._uri = source.spec.uri
        self._clock = clock
        self._stall_timeout_s = stall_timeout_s
        self._changed = changed
        self._captured: Captured | None = None
        self._bad_frames: list[SourceError] = []
        self._failure: BaseException | None = None
        self._ended = False
        self._closing = False
        self._overtaken = 0
        self._next_index = 0
        self._thread = threading.Thread(target=self._work, name="frame-reader", daemon=True)
        self._thread.start()

    @property
    def uri(self) -> str:
        """Of the source, without credentials."""
        return self._uri

    @property
    def dropped(self) -> int:
        """Frames that were overtaken by a newer one before the loop took them, here or in the source."""
        return self._overtaken

    @property
    def has_news(self) -> bool:
        """True where `take` has something to give or to raise. Call it with ``changed`` held."""
        return self._captured is not None or self._failure is not None

    @property
    def has_stopped(self) -> bool:
        """True once the source will give nothing more. Call it with ``changed`` held."""
        return self._ended

    @property
    def has_ended(self) -> bool:
        """True once the source has ended, and everything that it gave was taken: frames, damaged frames, its failure."""
        with self._changed:
            return self._ended and not self.has_news and not self._bad_frames

    def take(self) -> Captured | None:
        """Takes the frame that is there, if any. Call it with ``changed`` held.

        Raises:
            GhostwattError: what ended the source, once its last good frame was taken.
        """
        captured, self._captured = self._captured, None
        self._changed.notify_all()
        if captured is None and self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        return captured

    def take_bad_frames(self) -> list[SourceError]:
        """Damaged frames since the last call."""
        with self._changed:
            bad_frames, self._bad_frames = self._bad_frames, []
            return bad_frames

    def stop(self) -> None:
        """Makes the current read the last. Call it with ``changed`` held."""
        self._closing = True
        self._changed.notify_all()

    def join(self, timeout_s: float) -> None:
        """Waits for the current read, at most ``timeout_s``: a driver may hang."""
        self._thread.join(max(0.0, timeout_s))

    def _work(self) -> None:
        failure: BaseException | None = None
        try:
            while self._read_one():
                pass
        except BaseException as error:  # handed to the loop's thread, which raises it
            failure = error
        with self._changed:
            self._failure = failure
            self._ended = True
            self._changed.notify_all()

    def _read_one(self) -> bool:
        if not self._source.spec.is_live:
            # A file waits until its last frame was taken, so that none grows old here.
            with self._changed:
                self._changed.wait_for(lambda: self._captured is None or self._closing)
        started_ns = self._clock.now_ns()
        try:
            frame = self._source.read(self._stall_timeout_s)
        except SourceError as error:
            if error.reason not in ("decode", "interrupted"):
                raise
            with self._changed:
                if error.reason == "decode":
                    self._bad_frames.append(error)
                return not self._closing
        if frame is None:
            return False
        captured = Captured(frame, (self._clock.now_ns() - started_ns) / 1e9, self._uri)
        with self._changed:
            self._count_overtaken(frame.index)
            self._captured = captured
            self._changed.notify_all()
            return not self._closing

    def _count_overtaken(self, index: int) -> None:
        # The index counts frames that the source itself dropped, too.
        self._overtaken += (self._captured is not None) + max(0, index - self._next_index)
        self._next_index = index + 1


class Turns(Resource):
    """Readers that give the loop their frames in turn, so that a fast source doesn't starve a slow one.

    Args:
        sources: open; not closed here.
        clock: see `FrameReader`.
        stall_timeout_s: see `FrameReader`.
    """

    def __init__(self, sources: Sequence[FrameSource], clock: Clock, stall_timeout_s: float) -> None:
        self._changed = threading.Condition()
        self._readers = [FrameReader(source, clock, stall_timeout_s, self._changed) for source in sources]
        self._turn = 0

    @property
    def has_ended(self) -> bool:
        """True once every source has ended, and everything that they gave was taken."""
        return all(reader.has_ended for reader in self._readers)

    @property
    def dropped(self) -> dict[str, int]:
        """Frames that were overtaken, by `SourceSpec.uri`."""
        return {reader.uri: reader.dropped for reader in self._readers}

    def take(self, timeout_s: float) -> Captured | None:
        """Waits for a frame of any source, and takes that whose turn it is; None where none came in time.

        Raises:
            GhostwattError: what ended a source.
        """
        with self._changed:
            self._changed.wait_for(lambda: any(reader.has_news for reader in self._readers) or self._all_ended(), timeout_s)
            for step in range(len(self._readers)):
                reader = self._readers[(self._turn + step) % len(self._readers)]
                if reader.has_news:
                    self._turn += step + 1
                    return reader.take()
        return None

    def take_bad_frames(self) -> list[tuple[str, SourceError]]:
        """Damaged frames since the last call, each with its source's URI."""
        return [(reader.uri, error) for reader in self._readers for error in reader.take_bad_frames()]

    def close(self) -> None:
        """Stops reading; doesn't wait for drivers that hang."""
        with self._changed:
            for reader in self._readers:
                reader.stop()
        deadline_s = time.monotonic() + JOIN_TIMEOUT_S
        for reader in self._readers:
            reader.join(deadline_s - time.monotonic())

    def _all_ended(self) -> bool:
        return all(reader.has_stopped for reader in self._readers)


class Pipeline:
    """Runs frames through a session until the source ends, a limit is reached, or it is told to stop.

    Args:
        sources: open; at least one.
        session: a loaded network.
        preprocessing: as the weights demand.
        labels: of the network's classes.
        limits: of the profile.
        clock: for every duration.
        stall_timeout_s: see `FrameReader`.
        temperature: the weights' own.
        unknown_below: the least score that names a class; None names one always.
        rotate_deg: clockwise, of every frame.
    """

    def __init__(
        self,
        sources: Sequence[FrameSource],
        session: Session,
        *,
        preprocessing: Preprocessing,
        labels: tuple[str, ...],
        limits: RateLimits,
        clock: Clock,
        stall_timeout_s: float,
        temperature: float = 1.0,
        unknown_below: float | None = None,
        rotate_deg: int = 0,
    ) -> None:
        self._sources = sources
        self._session = session
        self._preprocessing = preprocessing
        self._labels = labels
        self._clock = clock
        self._stall_timeout_s = stall_timeout_s
        self._temperature = temperature
        self._unknown_below = unknown_below
        self._rotate_deg = rotate_deg
        self._limits = limits
        self._stop = threading.Event()
        self.limit_rate(None)

    def limit_rate(self, rate_fps: float | None) -> None:
        """Holds the loop to a rate below the profile's, from the next frame on; None lifts that."""
        wanted = [rate for rate in (rate_fps, self._limits.max_rate_fps) if rate]
        self._least_period_s = 1.0 / min(wanted) if wanted else 0.0

    def stop(self) -> None:
        """Ends `run` after the current frame. Safe in a signal handler."""
        self._stop.set()

    def run(self, emit: Emit, *, max_frames: int | None = None, max_duration_s: float | None = None) -> None:
        """Runs to the end.

        Args:
            emit: takes `FrameDone`, `FrameDamaged` and `Tick`.
            max_frames: ends after this many results.
            max_duration_s: ends after this long.

        Raises:
            GhostwattError: what ended the source, or the network's failure. Every result until then was emitted.
        """
        frames = 0
        deadline_ns = None if max_duration_s is None else self._clock.now_ns() + round(max_duration_s * 1e9)
        with Turns(self._sources, self._clock, self._stall_timeout_s) as turns:
            while not self._stop.is_set() and (max_frames is None or frames < max_frames):
                started_ns = self._clock.now_ns()
                if deadline_ns is not None and started_ns >= deadline_ns:
                    return
                is_given = self._step(turns, emit)
                frames += is_given
                if turns.has_ended:
                    return
                if is_given and frames != max_frames:
                    next_ns = started_ns + round(self._least_period_s * 1e9)
                    self._wait_until(next_ns if deadline_ns is None else min(next_ns, deadline_ns), emit, turns)

    def _step(self, turns: Turns, emit: Emit) -> bool:
        try:
            captured = turns.take(WAKE_INTERVAL_S)
        finally:
            for source, error in turns.take_bad_frames():
                emit(FrameDamaged(source, error))
        if captured is not None:
            emit(self._process(captured))
        emit(Tick(turns.dropped))
        return captured is not None

    def _process(self, captured: Captured) -> FrameDone:
        now_ns = self._clock.now_ns
        frame = captured.frame
        started_ns = now_ns()
        pixels = rotate(fit_frame(frame.pixels, self._preprocessing), self._rotate_deg)
        fitted_ns = now_ns()
        output = self._session.run(pixels[None])
        inferred_ns = now_ns()
        ranking = rank(dequantise(output, self._session.output), TOP_LABELS, self._temperature)
        ended_ns = now_ns()
        prediction = Prediction(
            source=captured.source,
            origin=frame.origin or None,
            index=frame.index,
            timestamp_ns=frame.timestamp_ns,
            latency_s=(ended_ns - frame.timestamp_ns) / 1e9,
            labels=tuple(self._labels[index] for index in ranking.indices),
            scores=ranking.scores,
            is_unknown=is_unknown(ranking, self._unknown_below),
        )
        times = StageTimes(
            captured.capture_s,
            (fitted_ns - started_ns) / 1e9,
            (inferred_ns - fitted_ns) / 1e9,
            (ended_ns - inferred_ns) / 1e9,
        )
        return FrameDone(prediction, times)

    def _wait_until(self, next_ns: int, emit: Emit, turns: Turns) -> None:
        while (remaining_s := (next_ns - self._clock.now_ns()) / 1e9) > 0 and not self._stop.is_set():
            self._clock.sleep(min(remaining_s, WAKE_INTERVAL_S))
            emit(Tick(turns.dropped))
