"""What a person reads: a live status line on a terminal, plain lines elsewhere, and the summary."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import TextIO

from device.protocols import (
    Event,
    FrameDone,
    InterruptionRecord,
    IntervalRecord,
    Kinds,
    MeterTotal,
    Note,
    Percentiles,
    PowerFigure,
    PowerOrigin,
    PowerSummary,
    Prediction,
    RunEnded,
    RunSummary,
    SourceSummary,
    Trouble,
)

PLAIN_INTERVAL_S = 10.0
"""Time between status lines where there is no terminal: a journal is read by people, and kept on an SD card."""

_NEARLY_ALL = 0.95
"""Share of a run that a meter must have covered for its figure to stand alone; otherwise the time is shown beside it."""

_ERASE_LINE = "\r\x1b[K"


class Console:
    """Shows how the run goes: each interval in place on a terminal, now and then elsewhere; notes and troubles at once.

    Args:
        stream: usually stderr.
    """

    takes: Kinds = (FrameDone, IntervalRecord, InterruptionRecord, Note, Trouble, RunEnded)

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_live = stream.isatty()
        self._newest: Prediction | None = None
        self._last_shown_ns: int | None = None
        self._is_line_open = False

    def write(self, event: Event) -> None:
        """Takes one event."""
        if isinstance(event, FrameDone):
            self._newest = event.prediction
        elif isinstance(event, IntervalRecord):
            self._show(event)
        elif isinstance(event, InterruptionRecord):
            self._print(format_interruption(event))
        elif isinstance(event, Trouble):
            self._print(f"warning: {event.line}")
        elif isinstance(event, Note):
            self._print(f"note: {event.line}")
        elif isinstance(event, RunEnded):
            self._leave_line()

    def _show(self, record: IntervalRecord) -> None:
        text = format_interval(record, self._newest)
        if self._is_live:
            width = shutil.get_terminal_size().columns
            self._stream.write(_ERASE_LINE + text[: width - 1])
            self._is_line_open = True
        elif self._last_shown_ns is None or record.timestamp_ns - self._last_shown_ns >= PLAIN_INTERVAL_S * 1e9:
            self._last_shown_ns = record.timestamp_ns
            self._stream.write(text + "\n")
        self._stream.flush()

    def _print(self, line: str) -> None:
        # One write, so that lines of several threads don't mix.
        self._stream.write((_ERASE_LINE if self._is_line_open else "") + f"{line}\n")
        self._stream.flush()

    def _leave_line(self) -> None:
        if self._is_line_open:
            self._stream.write("\n")
            self._stream.flush()
            self._is_line_open = False


def format_interruption(record: InterruptionRecord) -> str:
    """What a person reads of an interruption: a warning when it begins, a note when it is over."""
    if record.duration_s is None:
        return f"warning: {record.source}: {record.reason}; {record.detail}"
    times = "" if record.reason == "dark" else f", attempts to open it again: {record.attempts}"
    end = f"after {record.duration_s:.1f} s ({record.reason}{times})"
    return (
        f"note: {record.source}: well again {end}" if record.is_over else f"warning: {record.source}: the run ends in it, {end}"
    )


def format_interval(record: IntervalRecord, newest: Prediction | None = None) -> str:
    """One line: FPS, what was seen last, latency, dropped frames, power with its source, temperature."""
    parts = [f"{record.fps:6.1f} FPS"]
    if newest:
        parts.append(format_label(newest))
    if record.latency_s:
        parts.append(f"latency p50 {record.latency_s.p50 * 1e3:.1f} ms p99 {record.latency_s.p99 * 1e3:.1f} ms")
    if record.dropped:
        parts.append(f"dropped {record.dropped}")
    parts.append(format_figure(record.power))
    if record.temperature_c is not None:
        parts.append(f"{record.temperature_c:.0f} °C")
    if record.throttled:
        parts.append(f"THROTTLED ({record.throttled})")
    return " | ".join(parts)


def format_label(prediction: Prediction) -> str:
    """``hat 93%``, or ``unknown (hat 31%)``: so a class that is itself called "unknown" looks different."""
    best = f"{prediction.labels[0]} {prediction.scores[0]:.0%}"
    return f"{prediction.label} ({best})" if prediction.is_unknown else best


def format_figure(figure: PowerFigure | None) -> str:
    """``2.31 W (ina219 (hwmon), board, measured)``, or that there is no figure."""
    return "no power figure" if figure is None else format_power(figure.power_w, figure)


def format_power(power_w: float, origin: PowerOrigin) -> str:
    """``2.31 W (ina219 (hwmon), board, measured)``."""
    return f"{power_w:.2f} W ({origin.source}, {origin.scope}, {origin.kind})"


def _format_percentiles(values: Percentiles | None) -> str:
    if values is None:
        return "-"
    return "  ".join(f"{name} {getattr(values, name) * 1e3:8.2f} ms" for name in ("p50", "p90", "p99"))


def format_summary(summary: RunSummary) -> str:
    """The table that a run ends with. Where the board was throttled, every figure that depends on its speed says so."""
    throttled = f"  THROTTLED ({', '.join(summary.throttled)})" if summary.throttled else ""
    rows = [
        (
            "profile",
            f"{summary.profile}: {summary.model}, {summary.runtime} ({summary.runtime_version}), {_threads(summary.threads)}",
        ),
        ("frames", f"{summary.frames} in {summary.duration_s:.1f} s, {summary.dropped} dropped, {summary.bad_frames} damaged"),
        ("speed", f"{summary.fps:.1f} FPS{throttled}"),
        ("latency", _format_percentiles(summary.latency_s) + throttled),
    ]
    stages = [(name, getattr(summary.stage_s, name)) for name in summary.stage_s.__struct_fields__]
    rows += [(f"  {name}", _format_percentiles(values) + throttled) for name, values in stages]
    if len(summary.sources) > 1 or summary.interruptions:
        rows += [("source", _format_source(source) + throttled) for source in summary.sources]
    rows += _power_rows(summary, throttled)
    rows.append(("memory", f"{summary.peak_rss_bytes / 1e6:.0f} MB at most"))
    if summary.temperature_c is not None:
        rows.append(("heat", _format_heat(summary.temperature_c, summary.throttled, summary.throttling_unsupported)))
    if summary.labels:
        rows.append(("labels", ", ".join(f"{label} {count}" for label, count in list(summary.labels.items())[:8])))
    if summary.unknown_below is not None:
        rows.append(("unknown", f"{summary.unknown} of {summary.frames} frames: best score under {summary.unknown_below:g}"))
    return "\n".join(f"{name:<14}{text}" for name, text in rows)


def _power_rows(summary: RunSummary, throttled: str) -> list[tuple[str, str]]:
    rows = [("power", f"no figure: {summary.power_missing_reason}")]
    if summary.power is not None:
        rows = _headline_rows(summary, summary.power, throttled)
    rows += [("  beside", _format_meter(meter, summary.duration_s, throttled)) for meter in summary.power_meters[1:]]
    # Without any meter they are the reason already.
    return rows + [("  missing", reason) for reason in summary.power_meters_missing if summary.power_meters]


def _headline_rows(summary: RunSummary, power: PowerSummary, throttled: str) -> list[tuple[str, str]]:
    covered = _format_covered(power.covered_s, summary.duration_s)
    how = format_fineness(summary.power_meters[0]) if summary.power_meters else ""
    rows = [("power", format_power(power.w, power) + how + covered + throttled)]
    if summary.energy_per_inference_j is not None:
        rows.append(
            ("energy", f"{summary.energy_per_inference_j * 1e3:.1f} mJ an inference (gross, {power.kind}){covered}{throttled}")
        )
    return rows


def _format_covered(covered_s: float, duration_s: float) -> str:
    return "" if covered_s >= _NEARLY_ALL * duration_s else f", in {covered_s:.1f} s of the run"


def _format_meter(meter: MeterTotal, duration_s: float, throttled: str) -> str:
    if meter.power_w is None:
        return f"{meter.source}: no figure: {meter.error or 'no sample'}"
    text = format_power(meter.power_w, meter) + format_fineness(meter)
    failed = f", {meter.failed} reads failed" if meter.failed else ""
    return text + _format_covered(meter.covered_s, duration_s) + failed + throttled


def format_fineness(meter: MeterTotal) -> str:
    """``, steps of 2 mW, 10 Hz``, as far as it is known."""
    step = "" if meter.resolution_w is None else f", steps of {_format_step(meter.resolution_w)}"
    rate = "" if meter.sample_rate_hz is None else f", {meter.sample_rate_hz:.2g} Hz"
    return step + rate


def _format_step(step_w: float) -> str:
    return f"{step_w:.3g} W" if step_w >= 0.1 else f"{step_w * 1e3:.3g} mW"


def _format_heat(temperature_c: float, throttled: Sequence[str] | None, unsupported: Sequence[str]) -> str:
    if throttled is None:
        return f"{temperature_c:.0f} °C; whether it was throttled, this board can't tell"
    said = ", ".join(throttled) or "never throttled"
    unknown = f"; can't tell: {', '.join(unsupported)}" if unsupported else ""
    return f"{temperature_c:.0f} °C, {said}{unknown}"


def _format_source(source: SourceSummary) -> str:
    text = f"{source.uri}: {source.frames} frames, {source.fps:.1f} FPS, {source.dropped} dropped"
    if source.interruptions:
        text += f", {source.interruptions} interruptions of {source.interrupted_s:.1f} s together"
    return text


def _threads(count: int) -> str:
    return f"{count} thread" + ("s" if count > 1 else "")
