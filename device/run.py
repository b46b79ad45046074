"""The daemon: ``python -m device.run`` reads frames, runs the network, and logs speed and power.

The only place where sources, runtime, meters and sinks are put together; what each does is known in its own room.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue

import msgspec

from device import __version__
from device.core.clock import SystemClock
from device.core.errors import GhostwattError, SourceError, exit_with_one_line
from device.core.flags import positive_float, positive_int
from device.daemon.choice import BundleChoice, Chosen, Overrides, add_choice_flags, choose
from device.daemon.console import format_summary
from device.daemon.heartbeat import find_service_manager
from device.daemon.heat_limit import ThermalLimit
from device.daemon.instruments import open_instruments
from device.daemon.journal import mark_journal_lines
from device.daemon.journal_log import open_log
from device.daemon.recorder import Recorder
from device.daemon.signals import stop_on_signals
from device.daemon.stream import EventStream
from device.daemon.trial import Trial, trial_of
from device.protocols import Interruption, RunStopping, RunSummary, SinkContext, Trouble
from device.sinks.opening import OpenSinks, SinkSettings, settings_of
from device.sources.opening import camera_options, open_frames
from device.sources.registry import SOURCES


def build_parser() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = argparse.ArgumentParser(
        prog="python -m device.run",
        description="Reads frames, runs the bundle's network on them, and logs frames a second, latency and power.",
    )
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
    add_choice_flags(parser)
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
        help="publish to a broker and Home Assistant: mqtt[s]://[USER:PASSWORD@]HOST[:PORT][/PREFIX]; better: USER in ~/.netrc",
    )
    parser.add_argument(
        "--mqtt-interval", type=positive_float, default=60.0, metavar="S", help="between two states (default: %(default)g)"
    )
    parser.add_argument("--mqtt-labels", action="store_true", help="publish what the camera sees, too")
    parser.add_argument(
        "--webhook",
        metavar="URL",
        help="post every event but a frame's as JSON: http[s]://HOST[:PORT]/PATH; user and password in ~/.netrc",
    )
    parser.add_argument("--json", action="store_true", help="print the summary as one JSON object")
    parser.add_argument(
        "--self-test", action="store_true", help="compare the bundle's golden images with the host's scores, and end"
    )
    parser.add_argument("--version", action="version", version=f"ghostwatt {__version__}")
    return parser


def run_self_test_command(chosen: Chosen, flags: argparse.Namespace) -> int:
    """``--self-test``: runs the golden images and prints the verdict."""
    with chosen.open_session() as session:
        result = chosen.run_self_test(session)
    if flags.json:
        print(msgspec.json.encode({"self_test": result, "runtime": chosen.runtime.name, "threads": chosen.threads}).decode())
    else:
        print(
            f"self-test passed: {chosen.runtime.name} gave the host's scores on {result.images} images "
            f"(largest difference {result.max_error:.3g}, allowed {result.tolerance:.3g})"
        )
    return 0


def wanted_sinks(flags: argparse.Namespace, chosen: Chosen) -> Iterator[SinkSettings]:
    """The sinks that the flags name, and those that the profile does."""
    if flags.telemetry:
        yield SinkSettings("telemetry", {"path": str(flags.telemetry)}, "--telemetry")
    if flags.predictions:
        yield SinkSettings("predictions", {"path": str(flags.predictions)}, "--predictions")
    if flags.prometheus:
        yield SinkSettings("prometheus", {"listen": flags.prometheus}, "--prometheus")
    if flags.mqtt:
        options = {"uri": flags.mqtt, "interval_s": flags.mqtt_interval, "labels": flags.mqtt_labels}
        yield SinkSettings("mqtt", options, "--mqtt")
    if flags.webhook:
        yield SinkSettings("webhook", {"url": flags.webhook}, "--webhook")
    yield from settings_of(chosen.profile)


def run_frames(chosen: Chosen, flags: argparse.Namespace) -> int:
    """Runs the daemon proper; prints the summary even when a source fails."""
    profile, clock = chosen.profile, SystemClock()
    stream = EventStream()
    stream.add(open_log(profile.name))
    failure: GhostwattError | None = None
    interruptions: SimpleQueue[Interruption] = SimpleQueue()
    with contextlib.ExitStack() as stack:
        # The network first: what loading it takes is given back before the camera's libraries come.
        session = stack.enter_context(chosen.open_session())
        if chosen.trial is not None:
            chosen.run_self_test(session)
        uris = (*(profile.camera.uris if flags.camera else ()), *flags.source)
        preprocessing = chosen.bundle.manifest.model.preprocessing
        options = camera_options(profile.camera, preprocessing, clock=clock, loop=flags.loop, realtime=flags.realtime)
        sources = open_frames(uris, profile.camera, options, interruptions.put)
        frames = stack.enter_context(contextlib.ExitStack())
        for source in sources:
            frames.enter_context(source)
        specs = [source.spec for source in sources]
        context = SinkContext(profile, clock, stream.report)
        may_wait = not any(spec.is_live for spec in specs)
        sinks = stack.enter_context(OpenSinks(wanted_sinks(flags, chosen), context, may_wait=may_wait))
        instruments = open_instruments(profile, clock, stack)
        run = chosen.describe_run(specs, session.threads)
        pipeline = chosen.make_pipeline(session, sources, clock)
        recorder = Recorder(
            run,
            specs,
            instruments,
            interruptions,
            clock=clock,
            interval_s=profile.telemetry.interval_s,
            emit=stream.emit,
            limit_rate=ThermalLimit(profile.limits, stream.report, pipeline.limit_rate).update,
        )
        for sink in sinks.listeners:
            stream.add(sink)
        stream.add(recorder, is_essential=True)
        if chosen.trial is not None:
            stream.add(Trial(chosen.trial, profile.name, stream.emit))
        # Last: a frame that hangs in any listener before it is not a sign of life.
        if (manager := find_service_manager(profile, [spec.uri for spec in specs], clock, stream.report)) is not None:
            stream.add(manager)
        stream.emit(run)
        for missing in instruments.meters_missing if instruments.power else ():
            # Another meter stands in for it: nobody should take that one's figure for this one's.
            stream.emit(Trouble(f"power: {missing}"))
        # Until all is written: a signal must not cost the end of the records.
        with stop_on_signals(pipeline.stop):
            try:
                pipeline.run(stream.emit, max_frames=flags.frames, max_duration_s=flags.duration)
            except GhostwattError as error:
                failure = error
            stream.emit(RunStopping(str(failure) if failure else None))
            # Closed before the last record: a camera that is interrupted now reports it as it closes.
            frames.close()
            summary = recorder.finish()
            sinks.close()
    _print_summary(summary, as_json=flags.json)
    if sinks.lost:
        print(f"warning: {sinks.lost} events were lost: a sink was too slow", file=sys.stderr)
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
            f"{recorder.bad_files} could not be decoded and were left out, see the warnings above",
            remedy="remove or replace them",
            reason="decode",
        )
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Parses flags and runs."""
    flags = build_parser().parse_args(arguments)
    chosen = choose(
        BundleChoice(flags.bundle, flags.store, flags.profile),
        Overrides(flags.runtime, flags.threads, flags.unknown_below),
    )
    if flags.self_test:
        return run_self_test_command(chosen, flags)
    with trial_of(chosen.trial, chosen.profile.name):
        return run_frames(chosen, flags)


if __name__ == "__main__":
    mark_journal_lines()
    sys.exit(exit_with_one_line(main))
