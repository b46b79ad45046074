"""The schema of ``bench.json``: raw rounds, and the figures computed from them.

A figure that couldn't be measured is None with the reason beside it, never 0.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from device.core.errors import BenchError
from device.machine.identity import Machine
from device.protocols import PowerOrigin

CaveatCode = Literal[
    "too_short", "throttled", "governor", "frequency_moved", "other_load", "stolen_time", "battery_charging", "interrupted"
]


class Caveat(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A reason not to trust a figure.

    Attributes:
        code: the kind of caveat.
        detail: one line for display, without the code.
        figure: severity, to compare caveats of the same code: cores used by others, share of stolen time, share by which the
            frequency varied, number of missing rounds. None if there is nothing to compare.
    """

    code: CaveatCode
    detail: str
    figure: float | None = None


class MedianRange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The median of the rounds, and the range that contains the true median.

    The range spans the lowest to the highest round. Whatever the distribution, it contains the true median with a probability
    of ``1 - 2 ** (1 - rounds)``, provided that the rounds are independent. See `device.bench.figures`.

    Attributes:
        median: median of the rounds.
        low: lowest round.
        high: highest round.
        confidence: probability that the range contains the true median, 0..1.
        rounds: number of rounds.
    """

    median: float
    low: float
    high: float
    confidence: float
    rounds: int


class Quantiles(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Quantiles of the durations of single inferences in one window, in seconds, by nearest rank.

    Attributes:
        p50: median.
        p90: 90th percentile.
        p99: 99th percentile; None below 100 inferences, where it would just be the slowest one.
        deciles: eleven values, for a plot: the minimum, the 10th to 90th percentiles, and the maximum.
    """

    p50: float
    p90: float
    p99: float | None
    deciles: tuple[float, ...]


class WindowPower(PowerOrigin, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The headline meter's figure for a window.

    Attributes:
        power_w: mean over ``covered_s``.
        covered_s: part of the window that the meter covered.
        samples: number of samples.
        sampler_cpu_s: processor time spent on reading the meter, which is part of what was measured.
        resolution_w: see `device.protocols.PowerMeter`.
    """

    power_w: float
    covered_s: float
    samples: int
    sampler_cpu_s: float
    resolution_w: float | None = None


class InferenceWindow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A series of consecutive inferences.

    Attributes:
        duration_s: from the start of the first inference to the end of the last.
        inferences: number of inferences.
        rate_fps: inferences a second.
        latency_s: of single inferences, from pixels to scores.
        power: None if no meter was read, or if it gave no figure; see ``power_missing_reason``.
        power_missing_reason: why there is no figure although a meter was read; otherwise None.
    """

    duration_s: float
    inferences: int
    rate_fps: float
    latency_s: Quantiles
    power: WindowPower | None = None
    power_missing_reason: str | None = None


class Conditions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The machine's conditions during a round. None means that the machine can't report it, not that all is well.

    Attributes:
        temperature_low_c: lowest temperature of the processor.
        temperature_high_c: highest temperature of the processor.
        frequency_low_hz: lowest frequency of the fastest core.
        frequency_high_hz: highest frequency of the fastest core.
        governors: cpufreq governors; empty if there is no cpufreq.
        throttled: throttle flags that were set at any time in the round; None if the board can't report them.
        throttle_unsupported: throttle flags that the board can't report.
        other_load_cores: processor time of other programs, in cores.
        stolen_share: share of the processor time that the hypervisor gave to others, 0..1.
        batteries: status of the batteries that power this machine (``Charging``, ``Discharging``, ...).
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
    """One process, in which the network is loaded, warmed up and measured.

    Attributes:
        started_at_utc: ISO 8601.
        runtime_version: name and version of the library.
        threads: number of threads that the runtime actually used.
        load_s: time from the file to a ready session.
        first_inference_s: duration of the first inference, with untouched memory and cold caches.
        peak_rss_bytes: peak memory of the process.
        latency: window in which no meter was read; None if not measured.
        energy: window in which the meters were read; None if not measured.
        conditions: during the whole round.
    """

    started_at_utc: str
    runtime_version: str
    threads: int
    load_s: float
    first_inference_s: float
    peak_rss_bytes: int
    latency: InferenceWindow | None
    energy: InferenceWindow | None
    conditions: Conditions


class Choice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is measured: one artefact of a bundle, with a number of threads.

    Attributes:
        profile: name of the bundle's profile.
        model: name of the network.
        runtime: name in the registry.
        threads: requested number of threads.
        precision: ``int8`` or ``fp32``.
        recipe: quantisation recipe.
        input_px: side of the input.
        file: the artefact's file in the bundle.
        manifest_sha256: identifies the bundle.
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


class RoundFailure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why a choice has no figures.

    Attributes:
        reason: an error's reason, ``crashed`` or ``hung``.
        message: one line.
    """

    reason: str
    message: str


class LatencyFigures(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Summary of the rounds' latency windows.

    Attributes:
        p50_s: over the rounds' medians.
        p90_s: over the rounds' 90th percentiles.
        p99_s: over the rounds' 99th percentiles; None if a round had too few inferences.
        rate_fps: inferences a second.
        inferences: total number in all windows.
    """

    p50_s: MedianRange
    p90_s: MedianRange
    p99_s: MedianRange | None
    rate_fps: MedianRange
    inferences: int


class EnergyFigures(PowerOrigin, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Summary of the rounds' energy windows.

    Attributes:
        gross_j: energy of the window divided by its inferences, idle power included: the headline figure.
        net_j: the same with idle power subtracted; None without an idle figure, or if the result isn't positive.
        power_w: mean power of the window.
        rate_fps: inferences a second while meters were read.
        sampler_slowdown: share by which the rate was lower than in the latency windows; negative values are noise.
        sampler_cpu_share: share of one core spent on reading the meters.
        samples: total number of samples in all windows.
        resolution_w: see `device.protocols.PowerMeter`.
    """

    gross_j: MedianRange
    net_j: MedianRange | None
    power_w: MedianRange
    rate_fps: MedianRange
    sampler_slowdown: float | None
    sampler_cpu_share: float
    samples: int
    resolution_w: float | None = None


class ChoiceResult(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A choice and its figures.

    Attributes:
        choice: what was measured.
        runtime_version: name and version; None if it failed.
        failure: why there are no figures; None if there are.
        latency: None if it failed.
        energy: None if there is no figure; see ``energy_missing_reason``.
        energy_missing_reason: why there is no figure; None if there is.
        load_s: median.
        first_inference_s: median.
        peak_rss_bytes: maximum of the rounds.
        flags: caveats about the figures.
        rounds: the raw measurements, in order.
    """

    choice: Choice
    runtime_version: str | None
    failure: RoundFailure | None
    latency: LatencyFigures | None
    energy: EnergyFigures | None
    energy_missing_reason: str | None
    load_s: float | None
    first_inference_s: float | None
    peak_rss_bytes: int | None
    flags: tuple[Caveat, ...]
    rounds: tuple[Round, ...]


class BenchSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Number and length of the measurements.

    Attributes:
        conforms: whether they conform to `device.bench.plan`; False for ``--quick``.
        rounds: processes per choice, taking turns with the other choices.
        warm_up_s: warm-up before each window.
        latency_s: minimum length of a latency window.
        energy_s: minimum length of an energy window.
        idle_s: length of the idle window.
    """

    conforms: bool
    rounds: int
    warm_up_s: float
    latency_s: float
    energy_s: float
    idle_s: float


class BenchMachine(Machine, frozen=True):
    """Where it was measured.

    Attributes:
        memory_bytes: that the system shows; None where it doesn't say.
        ghostwatt: version.
    """

    memory_bytes: int | None
    ghostwatt: str


class Idle(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The idle machine, whose power is subtracted for net figures.

    Attributes:
        duration_s: length of the window.
        power: None if the meter gave no figure.
        power_missing_reason: why there is no figure; None if there is.
        conditions: during the window.
    """

    duration_s: float
    power: WindowPower | None
    power_missing_reason: str | None
    conditions: Conditions


class BenchResult(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The result of a benchmark.

    Attributes:
        started_at_utc: ISO 8601.
        duration_s: of the whole benchmark.
        is_complete: False if it was interrupted: some choices have too few rounds, or none.
        machine: the machine that was measured.
        settings: number and length of the measurements.
        idle: None if energy wasn't measured.
        meters_missing: why meters of the profile are unavailable; one line each.
        choices: in the order of the bundles.
        before: the machine's conditions in the second before the benchmark.
        kind: identifies this kind of file.
        schema: version of this schema.
    """

    started_at_utc: str
    duration_s: float
    is_complete: bool
    machine: BenchMachine
    settings: BenchSettings
    idle: Idle | None
    meters_missing: tuple[str, ...]
    choices: tuple[ChoiceResult, ...]
    before: Conditions | None = None
    kind: Literal["ghostwatt bench"] = "ghostwatt bench"
    schema: Literal[1] = 1


def encode_result(result: BenchResult) -> bytes:
    """Encodes ``bench.json``."""
    return msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n"


def read_result(path: Path) -> BenchResult:
    """Reads ``bench.json``.

    Raises:
        BenchError: ``missing`` or ``malformed``.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=BenchResult)
    except OSError as error:
        raise BenchError(str(path), f"can't be read ({error.strerror})", reason="missing") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BenchError(
            str(path), f"isn't a benchmark: {error}", remedy="create one with python -m device.bench", reason="malformed"
        ) from error
