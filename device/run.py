"""The daemon: ``python -m device.run`` reads frames, runs the network, and logs speed and power.

The only place where concrete sources, runtimes, meters and sinks are put together.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import signal
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from queue import SimpleQueue
from types import FrameType
from typing import NamedTuple

import msgspec

from device import __version__
from device.bundle import Bundle, find_bundle, open_bundle
from device.bundle.selftest import run_self_test
from device.bundle.store import BundleStore
from device.contract import Profile
from device.core.clock import SystemClock
from device.core.errors import BundleError, GhostwattError, SourceError, UsageError, exit_with_one_line
from device.core.flags import positive_float, positive_int, share
from device.daemon.console import StatusLine, format_summary
from device.daemon.heat_limit import ThermalLimit
from device.daemon.link import ServiceLink, mark_journal_lines, open_channels
from device.daemon.outlets import MqttWish, Outlets
from device.daemon.pipeline import Observer, Pipeline
from device.daemon.recorder import Instruments, Recorder, RunSummary, Tell
from device.daemon.trial import TrialObserver, trial_of
from device.machine.board import BoardFacts, detect_board
from device.machine.memory import read_memory
from device.machine.thermals import SysfsThermals
from device.meters.meter import MeterContext
from device.meters.sampler import PowerSampler
from device.meters.select import open_meters
from device.protocols import Clock, FrameSource, Interruption, RunRecord, Runtime, Session
from device.runtimes.registry import RUNTIMES
from device.sources.opening import camera_options, open_frames
from device.sources.registry import SOURCES

BUILD = Path("build")


def build_parser() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = argparse.ArgumentParser(
        prog="python -m device.run",
        description="Reads frames, runs the bundle's network on them, and logs frames a second, latency and power.",
    )
    parser.add_argument("--bundle", type=Path, metavar="DIR", help="the bundle (default: this board's, under build/)")
    parser.add_argument("--store", type=Path, metavar="DIR", help="run the current bundle of python -m device.bundle's store")
    parser.add_argument("--profile", metavar="NAME", help="which of the store's profiles; needed where there are several")
    parser.add_argument("--camera", action="store_true", help="read the profile's own camera, or cameras")
    parser.add_argument(
        "--source",
        action="append",
        default=[],
        metavar="URI",
        help="read images:DIR-or-glob, video:FILE, v4l2:0, rtsp://HOST/PATH, synthetic:640x480@30, … "
        f"(kinds: {', '.join(SOURCES.own_names())}); given again, the sources take turns",
    )
    parser.add_argument("--loop", action="store_true", help="begin files again at their end")
    parser.add_argument("--realtime", action="store_true", help="play files at their own rate, as a camera would")
    parser.add_argument("--runtime", metavar="NAME", help=f"instead of the profile's ({', '.join(RUNTIMES.own_names())})")
    parser.add_argument("--threads", type=positive_int, metavar="N", help="instead of the profile's")
    parser.add_argument(
        "--unknown-below",
        type=share,
        metavar="X",
        help='call a frame "unknown" whose best score is under X, from 0 (never) to 1, instead of the profile\'s threshold',
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--frames", type=positive_int, metavar="N", help="end after N results")
    length.add_argument("--duration", type=positive_float, metavar="S", help="end after S seconds")
    parser.add_argument("--predictions", type=Path, metavar="FILE", help="write a JSON line a frame")
    parser.add_argument("--telemetry", type=Path, metavar="FILE", help="keep a row a second in this SQLite file")
    parser.add_argument(
        "--prometheus",
        metavar="[HOST:]PORT",
        help="serve speed, latency and power to Prometheus; to this machine alone, unless HOST is 0.0.0.0",
    )
    parser.add_argument(
        "--mqtt",
        metavar="URI",
        help="tell a broker, and Home Assistant: mqtt[s]://[USER:PASSWORD@]HOST[:PORT][/PREFIX]; better: USER in ~/.netrc",
    )
    parser.add_argument(
        "--mqtt-interval", type=positive_float, default=60.0, metavar="S", help="between two states (default: %(default)g)"
    )
    parser.add_argument("--mqtt-labels", action="store_true", help="tell the broker also what the camera sees")
    parser.add_argument("--json", action="store_true", help="print the summary as one JSON object")
    parser.add_argument(
        "--self-test", action="store_true", help="compare the bundle's golden images with the host's scores, and end"
    )
    parser.add_argument("--version", action="version", version=f"ghostwatt {__version__}")
    return parser


class Chosen(NamedTuple):
    """What will run: the bundle, and the profile's choices after the flags.

    Attributes:
        trial: the store of a bundle that has yet to prove itself; None for any other.
    """

    bundle: Bundle
    runtime: Runtime
    threads: int
    unknown_below: float | None
    trial: BundleStore | None = None

    @property
    def profile(self) -> Profile:
        """The bundle's profile."""
        return self.bundle.manifest.profile


def choose(flags: argparse.Namespace, facts: BoardFacts) -> Chosen:
    """Opens the bundle and settles on runtime, threads and threshold.

    Raises:
        BundleError: no bundle, or one that can't be trusted.
        UsageError: an unknown runtime, or more threads than this machine has cores.
        MissingDependencyError: the runtime isn't installed.
    """
    bundle, trial = find_chosen_bundle(flags, facts)
    name = flags.runtime or bundle.manifest.profile.runtime.name
    runtime: Runtime = RUNTIMES.load(name)()
    bundle.artefact(runtime.artefact)
    threads = flags.threads or bundle.manifest.profile.runtime.threads
    if threads > facts.cores:
        raise UsageError(
            "--threads" if flags.threads else f"profile {bundle.manifest.profile.name} runtime.threads",
            str(threads),
            expected=f"at most {facts.cores}, the cores of this machine",
            remedy="pass --threads",
            reason="threads",
        )
    unknown_below = bundle.manifest.profile.model.unknown_below if flags.unknown_below is None else flags.unknown_below
    return Chosen(bundle, runtime, threads, unknown_below, trial)


def find_chosen_bundle(flags: argparse.Namespace, facts: BoardFacts) -> tuple[Bundle, BundleStore | None]:
    """Opens the bundle to run; gives its store too, where it has yet to prove itself.

    Raises:
        BundleError: there is none, or it can't be trusted.
        UsageError: the store has several profiles, and none was named.
    """
    if flags.store is None:
        return open_bundle(flags.bundle or find_bundle(BUILD, facts.compatible, facts.machine)), None
    store = BundleStore(flags.store)
    profile = flags.profile or store.only_profile()
    start = store.start(profile)
    for line in filter(None, (start.rolled_back, start.trouble)):
        print(f"warning: {line}", file=sys.stderr)
    try:
        return open_bundle(start.root), store if start.on_trial else None
    except BundleError as error:
        # A card that rots must not leave the board without a network.
        print(f"warning: {error}", file=sys.stderr)
        bundle = store.fall_back(profile)
        print(f"warning: back to {bundle.manifest_sha256[:12]}", file=sys.stderr)
        return bundle, None


def open_session(chosen: Chosen) -> Session:
    """Loads the bundle's artefact for the chosen runtime."""
    artefact = chosen.bundle.artefact(chosen.runtime.artefact)
    return chosen.runtime.open(
        chosen.bundle.path(artefact.file), input=artefact.input, output=artefact.output, threads=chosen.threads
    )


@contextlib.contextmanager
def stop_on_signals(pipeline: Pipeline) -> Iterator[None]:
    """SIGTERM and Ctrl-C end the run after the frame in hand; a second Ctrl-C ends it at once."""

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def stop(_number: int, _frame: FrameType | None) -> None:
        pipeline.stop()
        restore()

    previous = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        restore()


def run_self_test_command(chosen: Chosen, flags: argparse.Namespace) -> int:
    """``--self-test``: runs the golden images and prints the verdict."""
    with open_session(chosen) as session:
        result = run_self_test(session, chosen.bundle, chosen.runtime.artefact)
    if flags.json:
        print(msgspec.json.encode({"self_test": result, "runtime": chosen.runtime.name, "threads": chosen.threads}).decode())
    else:
        print(
            f"self-test passed: {chosen.runtime.name} gave the host's scores on {result.images} images "
            f"(largest difference {result.max_error:.3g}, allowed {result.tolerance:.3g})"
        )
    return 0


def describe_run(chosen: Chosen, facts: BoardFacts, source_uri: str, threads: int) -> RunRecord:
    """The telemetry's record of what runs where."""
    manifest = chosen.bundle.manifest
    return RunRecord(
        run_id=os.urandom(16).hex(),
        started_at_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        profile=chosen.profile.name,
        model=manifest.model.name,
        weights=manifest.model.weights,
        manifest_sha256=chosen.bundle.manifest_sha256,
        runtime=chosen.runtime.name,
        runtime_version=chosen.runtime.version,
        threads=threads,
        source=source_uri,
        board=facts.board or facts.machine,
        machine=facts.machine,
        kernel=facts.kernel,
        python=platform.python_version(),
        governor=facts.governor,
        version=__version__,
        unknown_below=chosen.unknown_below,
    )


def open_power(profile: Profile, clock: Clock, stack: contextlib.ExitStack) -> Instruments:
    """Opens the profile's meters, and what else is read beside the frames; ``stack`` closes them."""
    meters, missing = open_meters(profile.power, MeterContext(clock=clock))
    for meter in meters:
        stack.enter_context(meter)
    sampler = stack.enter_context(PowerSampler(meters, profile.power.sample_rate_hz, clock=clock)) if meters else None
    return Instruments(sampler, tuple(missing), SysfsThermals(), read_memory)


def open_sources(
    chosen: Chosen, flags: argparse.Namespace, clock: Clock, interruptions: SimpleQueue[Interruption]
) -> list[FrameSource]:
    """Opens what ``--camera`` and ``--source`` name, all of it or nothing."""
    camera = chosen.profile.camera
    preprocessing = chosen.bundle.manifest.model.preprocessing
    uris = (*(camera.uris if flags.camera else ()), *flags.source)
    options = camera_options(camera, preprocessing, clock=clock, loop=flags.loop, realtime=flags.realtime)
    return open_frames(uris, camera, options, interruptions.put)


def observe(chosen: Chosen, recorder: Recorder, status: StatusLine) -> Observer:
    """Whom the loop tells: the recorder, and whoever waits for a new bundle to prove itself."""
    if chosen.trial is None:
        return recorder
    return TrialObserver(recorder, chosen.trial, chosen.profile.name, status.note)


def make_pipeline(chosen: Chosen, session: Session, sources: Sequence[FrameSource], clock: Clock) -> Pipeline:
    """The loop for this run."""
    manifest = chosen.bundle.manifest
    camera = manifest.profile.camera
    return Pipeline(
        sources,
        session,
        preprocessing=manifest.model.preprocessing,
        labels=chosen.bundle.labels,
        limits=manifest.profile.limits,
        clock=clock,
        stall_timeout_s=camera.stall_timeout_s,
        temperature=manifest.model.temperature,
        unknown_below=chosen.unknown_below,
        rotate_deg=camera.rotate_deg,
    )


def run_frames(chosen: Chosen, facts: BoardFacts, flags: argparse.Namespace) -> int:
    """Runs the daemon proper; prints the summary even when a source fails."""
    clock = SystemClock()
    status = StatusLine(sys.stderr, is_quiet=False)
    failure: GhostwattError | None = None
    interruptions: SimpleQueue[Interruption] = SimpleQueue()
    with contextlib.ExitStack() as stack:
        # The network first: what loading it takes is given back before the camera's libraries come.
        session = stack.enter_context(open_session(chosen))
        if chosen.trial is not None:
            run_self_test(session, chosen.bundle, chosen.runtime.artefact)
        sources = open_sources(chosen, flags, clock, interruptions)
        frames = stack.enter_context(contextlib.ExitStack())
        for source in sources:
            frames.enter_context(source)
        outlets = Outlets(
            flags.predictions,
            flags.telemetry,
            chosen.profile.telemetry,
            may_wait=not any(source.spec.is_live for source in sources),
            clock=clock,
            on_trouble=status.say,
            prometheus=flags.prometheus,
            mqtt=MqttWish(flags.mqtt, flags.mqtt_interval, flags.mqtt_labels) if flags.mqtt else None,
        )
        instruments = open_power(chosen.profile, clock, stack)
        for missing in instruments.meters_missing if instruments.power else ():
            # Another stands in for it: nobody should take that one's figure for this one's.
            status.say(f"power: {missing}")
        specs = [source.spec for source in sources]
        run = describe_run(chosen, facts, ", ".join(spec.uri for spec in specs), session.threads)
        outlets.write(run)
        pipeline = make_pipeline(chosen, session, sources, clock)
        heat = ThermalLimit(chosen.profile.limits, status.say)

        def on_heat(temperature_c: float | None, now_ns: int) -> float | None:
            rate_fps = heat.update(temperature_c, now_ns)
            pipeline.limit_rate(rate_fps)
            return rate_fps

        tell = Tell(outlets.write, status.show, status.say, status.note, on_heat)
        link = ServiceLink(chosen.profile, [spec.uri for spec in specs], open_channels(tell), clock)
        interval_s = chosen.profile.telemetry.interval_s
        recorder = Recorder(run, specs, instruments, interruptions, clock=clock, interval_s=interval_s, tell=link.tell(tell))
        observer = link.observe(observe(chosen, recorder, status))
        # Until all is written: a signal must not cost what the end has to tell.
        with stop_on_signals(pipeline):
            try:
                pipeline.run(observer, max_frames=flags.frames, max_duration_s=flags.duration)
            except GhostwattError as error:
                failure = error
            link.stopping()
            # Closed before the last record: a camera that is interrupted now says so as it closes.
            frames.close()
            summary = recorder.finish()
            status.end()
            lost = outlets.close()
    _print_summary(summary, as_json=flags.json)
    if lost:
        print(f"warning: {lost} records were lost: a sink was too slow", file=sys.stderr)
    return _verdict(failure, recorder)


def _print_summary(summary: RunSummary, *, as_json: bool) -> None:
    print(msgspec.json.encode(summary).decode() if as_json else format_summary(summary))
    sys.stdout.flush()


def _verdict(failure: GhostwattError | None, recorder: Recorder) -> int:
    if failure is not None:
        raise failure
    if recorder.bad_files:
        raise SourceError(
            "frames",
            f"{recorder.bad_files} could not be decoded and were left out, as said above",
            remedy="remove or replace them",
            reason="decode",
        )
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Parses flags and runs."""
    flags = build_parser().parse_args(arguments)
    facts = detect_board()
    chosen = choose(flags, facts)
    if flags.self_test:
        return run_self_test_command(chosen, flags)
    with trial_of(chosen.trial, chosen.profile.name):
        return run_frames(chosen, facts, flags)


if __name__ == "__main__":
    mark_journal_lines()
    sys.exit(exit_with_one_line(main))
