"""What a benchmark leaves behind: the schema of ``bench.json``. Raw rounds, and the figures that were made of them.

A figure that could not be had is None, with the reason beside it; never 0.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from device.contract.profile import Scope
from device.core.errors import BenchError

FlagCode = Literal[
    "too_short", "throttled", "governor", "frequency_moved", "other_load", "stolen_time", "battery_charging", "interrupted"
]


class Flag(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A reason not to trust a figure.

    Attributes:
        code: for programs.
        detail: one line for people, without the code.
        figure: how bad it is, to compare flags of one code: cores that others took, share of the time that was stolen, share
            by which the frequency moved, rounds that are missing. None where there is nothing to count.
    """

    code: FlagCode
    detail: str
    figure: float | None = None


class Interval(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The median of the rounds, and the range that holds the true median.

    The range is from the least round to the greatest: whatever the distribution, it holds the median of what such rounds give
    with a probability of ``1 - 2 ** (1 - rounds)``, provided that the rounds don't hang together. See `device.bench.figures`.

    Attributes:
        median: of the rounds.
        low: the least of them.
        high: the greatest of them.
        confidence: that the range holds the true median, 0..1.
        rounds: how many.
    """

    median: float
    low: float
    high: float
    confidence: float
    rounds: int


class Quantiles(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of the durations of single inferences in one window, in seconds, by nearest rank.

    Attributes:
        p50: median.
        p90: 90th percentile.
        p99: 99th percentile; None below 100 inferences, where it would be the slowest one alone.
        deciles: the least, the 10th to 90th percentile, and the greatest: eleven values, for a plot.
    """

    p50: float
    p90: float
    p99: float | None
    deciles: tuple[float, ...]


class WindowPower(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the headline meter saw in a window.

    Attributes:
        power_w: mean over ``covered_s``.
        covered_s: part of the window that the meter covered.
        samples: that the meter gave.
        sampler_cpu_s: processor time that reading it took: part of what was measured.
        source: see `device.protocols.PowerMeter`.
        scope: likewise.
        is_estimate: likewise.
        resolution_w: likewise.
    """

    power_w: float
    covered_s: float
    samples: int
    sampler_cpu_s: float
    source: str
    scope: Scope
    is_estimate: bool
    resolution_w: float | None = None


class Window(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A stretch of inferences, one after the other.

    Attributes:
        duration_s: from the first one's start to the last one's end.
        inferences: how many.
        rate_fps: inferences a second.
        latency_s: of single inferences: pixels in, scores out.
        power: None in windows without a meter, and where it gave no figure; see ``power_missing_reason``.
        power_missing_reason: why there is no figure although a meter was read; None where there is one, or none was wanted.
    """

    duration_s: float
    inferences: int
    rate_fps: float
    latency_s: Quantiles
    power: WindowPower | None = None
    power_missing_reason: str | None = None


class Conditions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the machine said of itself in a round. None where it can't tell, which isn't "ok".

    Attributes:
        temperature_low_c: least temperature of the processor that was seen.
        temperature_high_c: greatest.
        frequency_low_hz: least frequency of the fastest core that was seen.
        frequency_high_hz: greatest.
        governors: of cpufreq that were seen; empty where there is no cpufreq.
        throttled: flags that held at any time in the round; None where the board can't tell.
        throttle_unsupported: flags that the board can't tell.
        other_load_cores: processor time that other programs took, as so many cores.
        stolen_share: of the machine's processor time, what its hypervisor gave to others, 0..1.
        batteries: what the batteries said of themselves that feed this machine (``Charging``, ``Discharging``, ...).
    """

    temperature_low_c: float | None
    temperature_high_c: float | None
    frequency_low_hz: float | None
    frequency_high_hz: float | None
    governors: tuple[str, ...]
    throttled: tuple[str, ...] | None
    throttle_unsupported: tuple[str, ...]
    other_load_cores: float | None
    stolen_share: float | None
    batteries: tuple[str, ...]


class Round(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One process: the network is loaded, warmed up, and measured.

    Attributes:
        started_at_utc: ISO 8601.
        runtime_version: name and version of the library.
        threads: that the runtime really used.
        load_s: from the file to a session that is ready.
        first_inference_s: of the first inference: memory is touched and caches are cold.
        peak_rss_bytes: the most that the process ever took.
        latency: window in which no meter was read; None where none was wanted.
        energy: window in which the meters were read; None where none was wanted.
        conditions: over all of the round.
    """

    started_at_utc: str
    runtime_version: str
    threads: int
    load_s: float
    first_inference_s: float
    peak_rss_bytes: int
    latency: Window | None
    energy: Window | None
    conditions: Conditions


class Choice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is measured: one artefact on so many threads.

    Attributes:
        profile: of the bundle that it is in.
        model: network's name.
        runtime: name in the registry.
        threads: that are asked for.
        precision: ``int8`` or ``fp32``.
        recipe: that quantised it.
        input_px: side of its input.
        file: in the bundle.
        manifest_sha256: names the bundle.
    """

    profile: str
    model: str
    runtime: str
    threads: int
    precision: str
    recipe: str
    input_px: int
    file: str
    manifest_sha256: str


class Failure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why a choice has no figures.

    Attributes:
        reason: for programs: an error's own, ``crashed`` or ``hung``.
        message: one line.
    """

    reason: str
    message: str


class LatencyFigures(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Over the rounds' latency windows.

    Attributes:
        p50_s: of the rounds' medians.
        p90_s: of their 90th percentiles.
        p99_s: of their 99th; None where a round had too few inferences.
        rate_fps: inferences a second.
        inferences: in all windows together.
    """

    p50_s: Interval
    p90_s: Interval
    p99_s: Interval | None
    rate_fps: Interval
    inferences: int


class EnergyFigures(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Over the rounds' energy windows.

    Attributes:
        gross_j: energy of the window by its inferences: the headline. No idle is subtracted.
        net_j: the same with the idle power subtracted; None without an idle figure, or where it came out at 0 or below.
        power_w: mean power of the window.
        rate_fps: inferences a second, with the meters being read.
        sampler_slowdown: by how much the rate was lower than in the latency windows, as a share; negative: within the noise.
        sampler_cpu_share: of one core, what reading the meters took.
        samples: of the meter, in all windows together.
        source: see `device.protocols.PowerMeter`.
        scope: likewise.
        is_estimate: likewise.
        resolution_w: likewise.
    """

    gross_j: Interval
    net_j: Interval | None
    power_w: Interval
    rate_fps: Interval
    sampler_slowdown: float | None
    sampler_cpu_share: float
    samples: int
    source: str
    scope: Scope
    is_estimate: bool
    resolution_w: float | None = None


class ChoiceResult(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A choice, and what was measured of it.

    Attributes:
        choice: what was measured.
        runtime_version: name and version; None where it failed.
        failure: why there are no figures; None where there are.
        latency: None where it failed, or wasn't wanted.
        energy: None where there is no figure; see ``energy_missing_reason``.
        energy_missing_reason: None where there is one.
        load_s: median.
        first_inference_s: median.
        peak_rss_bytes: the most of any round.
        flags: what speaks against the figures.
        rounds: what was measured, in order.
    """

    choice: Choice
    runtime_version: str | None
    failure: Failure | None
    latency: LatencyFigures | None
    energy: EnergyFigures | None
    energy_missing_reason: str | None
    load_s: float | None
    first_inference_s: float | None
    peak_rss_bytes: int | None
    flags: tuple[Flag, ...]
    rounds: tuple[Round, ...]


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long things are measured.

    Attributes:
        conforms: to what `device.bench.plan` sets out; False for ``--quick``.
        rounds: processes a choice, in turns with the other choices.
        warm_up_s: before each window.
        latency_s: of a latency window, at least.
        energy_s: of an energy window, at least.
        idle_s: of the idle window.
    """

    conforms: bool
    rounds: int
    warm_up_s: float
    latency_s: float
    energy_s: float
    idle_s: float


class BenchMachine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where it was measured.

    Attributes:
        board: the device tree's model; None where there is no device tree.
        processor: its name.
        cores: that the system shows.
        memory_bytes: that the system shows; None where it doesn't say.
        is_virtual: a hypervisor says that it runs this machine.
        machine: as ``uname -m`` prints it.
        kernel: release.
        governor: of cpufreq at the start; None where there is none.
        python: version.
        ghostwatt: version.
    """

    board: str | None
    processor: str
    cores: int
    memory_bytes: int | None
    is_virtual: bool
    machine: str
    kernel: str
    governor: str | None
    python: str
    ghostwatt: str


class Idle(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The machine with nothing to do: what is subtracted for net figures.

    Attributes:
        duration_s: of the window.
        power: None where the meter gave no figure.
        power_missing_reason: None where it did.
        conditions: meanwhile.
    """

    duration_s: float
    power: WindowPower | None
    power_missing_reason: str | None
    conditions: Conditions


class BenchResult(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A benchmark.

    Attributes:
        started_at_utc: ISO 8601.
        duration_s: of it all.
        is_complete: False where it was interrupted: some choices have fewer rounds than wanted, or none.
        machine: where it was measured.
        settings: for how long.
        idle: None where no energy was measured.
        meters_missing: of the profile's meters that are not there, why; one line each.
        choices: in the order of the bundles.
        before: the machine in the second before it began.
        kind: tells this file from others.
        schema: of this file.
    """

    started_at_utc: str
    duration_s: float
    is_complete: bool
    machine: BenchMachine
    settings: Settings
    idle: Idle | None
    meters_missing: tuple[str, ...]
    choices: tuple[ChoiceResult, ...]
    before: Conditions | None = None
    kind: Literal["ghostwatt bench"] = "ghostwatt bench"
    schema: Literal[1] = 1


def encode_result(result: BenchResult) -> bytes:
    """The bytes of ``bench.json``."""
    return msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n"


def read_result(path: Path) -> BenchResult:
    """Reads a benchmark.

    Raises:
        BenchError: ``missing`` or ``malformed``.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=BenchResult)
    except OSError as error:
        raise BenchError(str(path), f"can't be read ({error.strerror})", reason="missing") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BenchError(
            str(path), f"is no benchmark: {error}", remedy="write one: python -m device.bench", reason="malformed"
        ) from error
