"""Writes for people: one HTML file without a reference to any other, and pictures.

It opens on a board, on a phone and from a mail. Its figures are ``data`` elements whose ``value`` is the exact number, as CSV
and JSON have it. A run that was throttled says so beside each of its figures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

from device.protocols import MeterRecord
from device.report.bars import Bars, draw_bars, power_bars, rate_bars
from device.report.course import Course, describe_shades, draw_course
from device.report.plots import DARK, LIGHT, NARROW_IN, SCOPES, WIDE_IN, Palette, encode_png, encode_svg, format_figure
from device.report.summary import (
    Panel,
    Range,
    Report,
    RunPower,
    RunReport,
    Subject,
    SubjectPower,
    describe_heat_limit,
    describe_length,
    describe_throttling,
    find_panels,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BARS_PNG_IN = 7.0

_SPACE = "\N{NARROW NO-BREAK SPACE}"
_DASH = "–"


def render(report: Report, courses: Mapping[str, Course]) -> str:
    """The page; equal arguments give equal text.

    Args:
        report: all figures.
        courses: run id -> the run over time, of the runs to draw.
    """
    drawn = [run for run in report.runs if run.run.run_id in courses]
    title = _title(report)
    body = [
        f'<header><p class="brand"><b>ghostwatt</b> report</p><h1>{escape(title)}</h1>{_introduction(report)}</header>',
        *_comparison(report.subjects),
        *(_run_section(run, courses[run.run.run_id], index) for index, run in enumerate(drawn)),
        _left_out(report, len(drawn)),
        _reading(),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{_style()}</style>\n"
        + "\n".join(part for part in body if part)
        + "\n</html>\n"
    )


def draw_pictures(report: Report, courses: Mapping[str, Course]) -> Iterable[tuple[str, bytes]]:
    """PNG files: name and content, one after the other."""
    for method in ("run", "bench"):
        subjects = [one for one in report.subjects if one.method == method and one.fps]
        if subjects:
            yield f"{method}s-fps.png", encode_png(_bar_drawing(rate_bars(subjects), "", BARS_PNG_IN, is_estimate=False))
    for panel in find_panels(report.subjects):
        kind = "estimated" if panel.is_estimate else "measured"
        for bars, name in zip(power_bars(panel), ("power", "energy", "efficiency"), strict=True):
            drawing = _bar_drawing(bars, _kind(panel), BARS_PNG_IN, is_estimate=panel.is_estimate)
            yield f"{panel.method}s-{kind}-{panel.scope}-{name}.png", encode_png(drawing)
    for run in report.runs:
        if run.run.run_id in courses:
            yield f"run-{run.run.profile}-{run.run.run_id[:12]}.png", encode_png(_course_drawing(run, courses, WIDE_IN))


# --- side by side -----------------------------------------------------------------------------------------------------


def _comparison(subjects: Sequence[Subject]) -> list[str]:
    sections = []
    for method, heading, words in (
        (
            "run",
            "Runs side by side",
            "What the daemon did with its source: a camera's rate, or a limit of the profile, bounds it.",
        ),
        ("bench", "Benchmarks side by side", "The network alone, one inference after the other: no camera, no daemon."),
    ):
        found = [one for one in subjects if one.method == method]
        if found:
            sections.append(_method_section(found, heading, words))
    return sections


def _method_section(subjects: Sequence[Subject], heading: str, words: str) -> str:
    method = subjects[0].method
    rates = [one for one in subjects if one.fps]
    parts = [f"<h2>{heading}</h2>", f'<p class="faint small">{escape(words)}</p>']
    drawing = _bar_drawing(rate_bars(rates), "", NARROW_IN, is_estimate=False)
    parts.append(f'<div class="columns"><figure>{encode_svg(drawing, f"{method}-rate")}</figure>{_rate_table(subjects)}</div>')
    panels = find_panels(subjects)
    parts += [_panel_block(panel, f"{method}-{index}") for index, panel in enumerate(panels)]
    if not panels:
        parts.append("<p><b>No power figure.</b> None of these had a power meter that gave one; none is made up.</p>")
    without = [one.label for one in subjects if not one.power]
    if panels and without:
        parts.append(f'<p class="small">Without any power figure: {escape("; ".join(without))}.</p>')
    return f"<section>{''.join(parts)}</section>"


def _rate_table(subjects: Sequence[Subject]) -> str:
    rows = []
    for one in subjects:
        notes = "".join(f"<br><small>{escape(note)}</small>" for note in (_describe(one), *one.warnings))
        throttling = f'<br><small class="{_throttle_class(one)}">{escape(describe_throttling(one.throttling))}</small>'
        latency = [_ranged(one.latency_p50_s, one, 1e3, "ms")] if one.method == "bench" else []
        rows.append((f"{escape(one.label)}{notes}{throttling}", _ranged(one.fps, one), *latency))
    names = ("", "FPS", "latency, p50") if subjects[0].method == "bench" else ("", "FPS")
    return _table(names, rows)


def _panel_block(panel: Panel, name: str) -> str:
    figures = "".join(
        f"<figure>{encode_svg(_bar_drawing(bars, '', NARROW_IN, is_estimate=panel.is_estimate), f'{name}-{index}')}</figure>"
        for index, bars in enumerate(power_bars(panel))
    )
    badge = _badge(is_estimate=panel.is_estimate)
    warning = (
        '<p class="small">A model gave these from the load of the processor. No sensor was read: they say nothing of this very'
        " board, and must not be compared with measured figures.</p>"
        if panel.is_estimate
        else ""
    )
    kind = "estimate" if panel.is_estimate else "measured"
    return (
        f'<div class="panel {kind}"><h3>{badge} {escape(SCOPES[panel.scope])}</h3>{warning}'
        f'<div class="columns three">{figures}</div>{_panel_table(panel)}</div>'
    )


def _panel_table(panel: Panel) -> str:
    names = ["power", "energy an inference", "FPS/W", "source", "scope"]
    if any(power.net_energy_per_inference_j for _, power in panel.bars):
        names.insert(2, "net of idle")
    head = "".join(f"<th>{name}</th>" for name in ("", *names))
    rows = "".join(_panel_row(panel, subject, power, names) for subject, power in panel.bars)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead>{rows}</table></div>'


def _panel_row(panel: Panel, subject: Subject, power: SubjectPower, names: Sequence[str]) -> str:
    sign = "≈" + _SPACE if panel.is_estimate else ""
    cells = {
        "power": _ranged(power.power_w, subject, 1.0, "W", sign),
        "energy an inference": _energy(power.energy_per_inference_j, subject, sign),
        "net of idle": _energy(power.net_energy_per_inference_j, subject, sign),
        "FPS/W": _ranged(power.fps_per_w, subject, 1.0, "FPS/W", sign),
        "source": escape(power.source),
        "scope": f"{escape(panel.scope)}, {_kind_word(panel.is_estimate)}",
    }
    return f"<tr><th>{escape(subject.label)}</th>{''.join(f'<td>{cells[name]}</td>' for name in names)}</tr>"


def _describe(subject: Subject) -> str:
    threads = f"{subject.threads} thread" + ("s" if subject.threads != 1 else "")
    runs = f", {len(subject.of)} runs" if subject.method == "run" and len(subject.of) > 1 else ""
    return f"{subject.board}; {subject.model}, {subject.runtime}, {threads}{runs}"


# --- a run ------------------------------------------------------------------------------------------------------------


def _run_section(run: RunReport, course: Course, index: int) -> str:
    wide = encode_svg(lambda palette: draw_course(run, course, palette, WIDE_IN), f"run-{index}-wide")
    narrow = encode_svg(lambda palette: draw_course(run, course, palette, NARROW_IN), f"run-{index}-narrow")
    shades = describe_shades(course)
    caption = f"<figcaption>{escape('; '.join(shades))}.</figcaption>" if shades else ""
    return (
        f"<section><h2>{escape(run.run.profile)} on {escape(run.run.board)}</h2>"
        f'<p class="faint small">{_describe_run(run)}</p>{_run_notes(run)}{_tiles(run)}'
        f'<figure class="wide">{wide}</figure><figure class="narrow">{narrow}</figure>{caption}{_details(run)}</section>'
    )


def _describe_run(run: RunReport) -> str:
    of = run.run
    started = of.started_at_utc.replace("T", " ").replace("+00:00", " UTC")
    parts = (
        f"started {started}, {describe_length(run.length_s)}",
        of.source,
        f"{of.model} ({of.weights})",
        f"{of.runtime_version}, {of.threads} thread{'s' if of.threads != 1 else ''}",
        f"governor {of.governor}" if of.governor else "",
    )
    return f"Run <code>{escape(of.run_id[:12])}</code>, {'; '.join(escape(part) for part in parts if part)}."


def _run_notes(run: RunReport) -> str:
    notes = []
    if run.throttling.state == "throttled":
        notes.append(
            f'<b class="bad">{escape(describe_throttling(run.throttling).capitalize())}.</b> Every figure is of a slowed board.'
        )
    if run.throttling.state == "unsupported":
        notes.append("Whether it was throttled, nothing on this machine could tell.")
    if run.heat_limited_s:
        notes.append(f"<b>Held to a lower rate</b> {describe_heat_limit(run.heat_limited_s)}.")
    if run.gaps:
        notes.append(f"<b>{_count(run.gaps, 'gap')}</b> of {describe_length(run.gaps_s)} in the record.")
    missing_s = run.recorded_s - (run.power[0].covered_s if run.power else 0.0)
    if run.power and missing_s > 0.02 * run.recorded_s:
        source = escape(run.power[0].source)
        notes.append(f"{source} gave nothing for {describe_length(missing_s)}: no power is shown there, and none is counted.")
    if run.unmarked_power_intervals:
        notes.append(
            f"{run.unmarked_power_intervals} intervals have power that doesn't say where it comes from; it is left out."
        )
    return f'<p class="small">{" ".join(notes)}</p>' if notes else ""


def _tiles(run: RunReport) -> str:
    mark = _mark(run)
    tiles = [
        _tile(
            "rate", _figure(run.fps, f"{format_figure(run.fps)} FPS"), f"intervals {_span(run.least_fps, run.most_fps)}", mark
        )
    ]
    for name, words in (("p50", "latency, typical"), ("p99", "latency, slow ones")):
        if spread := run.latency_s.get(name):
            text = _figure(spread.median, f"{format_figure(1e3 * spread.median)} ms")
            note = f"median of the intervals' {name}; {_span(1e3 * spread.least, 1e3 * spread.most)}"
            tiles.append(_tile(words, text, note, mark))
    for power in run.power:
        tiles += _power_tiles(power, mark)
    if not run.power:
        tiles.append(_tile("power", _DASH, "no meter gave a figure", mark))
    if run.temperature_c:
        low, mean, high = run.temperature_c
        tiles.append(_tile("temperature, mean", _figure(mean, f"{mean:.0f} °C"), f"{low:.0f} to {high:.0f} °C", mark))
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _mark(run: RunReport) -> str:
    return ' <em class="mark">throttled run</em>' if run.throttling.state == "throttled" else ""


def _power_tiles(power: RunPower, mark: str) -> list[str]:
    sign = "≈ " if power.is_estimate else ""
    note = f"{_kind_word(power.is_estimate)}; {SCOPES[power.scope]}; {power.source}"
    kind = "estimate" if power.is_estimate else ""
    tiles = [_tile("power", _figure(power.power_w, f"{sign}{format_figure(power.power_w)} W"), note, mark, kind)]
    if power.energy_per_inference_j is not None:
        energy_j = power.energy_per_inference_j
        tiles.append(
            _tile("energy an inference", _figure(energy_j, f"{sign}{_joules(energy_j)}"), f"gross; {note}", mark, kind)
        )
    return tiles


def _tile(name: str, figure: str, note: str, mark: str, kind: str = "") -> str:
    return f'<div class="tile {kind}"><span>{name}</span><b>{figure}</b><span>{escape(note)}</span>{mark}</div>'


def _details(run: RunReport) -> str:
    parts = []
    if run.interruptions:
        rows = [
            (
                escape(one.source),
                escape(one.reason),
                str(one.count),
                describe_length(one.total_s),
                describe_length(one.longest_s),
            )
            for one in run.interruptions
        ]
        parts.append(_table(("source", "interrupted", "times", "together", "longest"), rows))
    if run.meters:
        names = ("meter", "power", "kind", "covers", "for", "readings", "failed")
        parts.append(_table(names, [_meter_row(meter, _mark(run)) for meter in run.meters]))
        share = run.meters[0].sampler_cpu_s / run.length_s if run.length_s else 0.0
        parts.append(f'<p class="faint small">Reading the meters took {100 * share:.2g}{_SPACE}% of one core.</p>')
    if len(run.sources) > 1:
        rows = [
            (escape(one.source), f"{one.frames / run.recorded_s:.1f}", str(one.frames), str(one.dropped), str(one.bad_frames))
            for one in run.sources
        ]
        parts.append(_table(("source", "FPS", "frames", "dropped", "damaged"), rows))
    unknown = f", {run.unknown} of them unknown" if run.unknown else ""
    counts = (
        f"{run.frames} inferences{unknown}, {_count(run.dropped, 'frame')} dropped, in {_count(run.intervals, 'interval')};"
        f" {run.most_rss_bytes / 1e6:.0f} MB of memory at most."
    )
    parts.append(f'<p class="faint small">{counts} <code>{escape(run.file)}</code></p>')
    return "".join(parts)


def _meter_row(meter: MeterRecord, mark: str) -> tuple[str, ...]:
    sign = "≈" + _SPACE if meter.is_estimate else ""
    error = f"<br><small>{escape(meter.error)}</small>" if meter.error else ""
    return (
        escape(meter.source) + error,
        _DASH if meter.power_w is None else _figure(meter.power_w, f"{sign}{format_figure(meter.power_w)}{_SPACE}W") + mark,
        _kind_word(meter.is_estimate),
        escape(meter.scope),
        describe_length(meter.covered_s),
        str(meter.samples),
        str(meter.failed),
    )


def _table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{name}</th>" for name in names)
    body = "".join(f"<tr><th>{first}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>" for first, *cells in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead>{body}</table></div>'


# --- what stands around it --------------------------------------------------------------------------------------------


def _title(report: Report) -> str:
    names = sorted({subject.profile for subject in report.subjects})
    boards = sorted({subject.board for subject in report.subjects})
    return f"{', '.join(names)} on {', '.join(boards)}" if len(names) <= 4 and len(boards) <= 2 else "Runs and benchmarks"


def _introduction(report: Report) -> str:
    benches = sum(subject.method == "bench" for subject in report.subjects)
    parts = [_count(len(report.runs), "run")] if report.runs else []
    parts += [_count(benches, "benchmark figure")] if benches else []
    words = "Every figure of power says its source, what it covers, and whether it was measured or estimated."
    return f'<p class="faint">{" and ".join(parts)}. {words}</p>'


def _left_out(report: Report, drawn: int) -> str:
    notes = []
    if drawn < len(report.runs):
        notes.append(f"Of {len(report.runs)} runs the newest {drawn} are drawn over time; name others with --run.")
    if report.empty_runs:
        names = ", ".join(run_id[:12] for run_id in report.empty_runs)
        notes.append(f"Without a single interval, so without figures: {names}.")
    return f'<p class="faint small">{escape(" ".join(notes))}</p>' if notes else ""


def _reading() -> str:
    words = (
        "A gap is a gap: nothing is drawn across it, and it adds neither energy nor time. Energy an inference is gross: what"
        " the meter counted, by the inferences of the same time, idle power and all. FPS/W is the same turned over. Estimates"
        " are hatched, dashed, marked ≈, and never in one plot with measured figures; neither are figures of different scope,"
        " nor runs and benchmarks. The line on a bar goes from the least to the greatest run, or round of a benchmark.",
        "A percentile of a whole run can't be had from those of its intervals: what is given is the median of the intervals'"
        " percentiles, with the least and the greatest. Where a store was thinned out with age, an interval is a minute or an"
        " hour: its p90 and p99 are the greatest that it had, and it counts as throttled if any part of it was.",
    )
    paragraphs = "".join(f'<p class="small">{escape(one)}</p>' for one in words)
    return f"<section><h2>How to read it</h2>{paragraphs}</section>"


def _bar_drawing(bars: Bars, kind: str, width_in: float, *, is_estimate: bool) -> Callable[[Palette], Figure]:
    return lambda palette: draw_bars(bars, palette, width_in, is_estimate=is_estimate, kind=kind)


def _course_drawing(run: RunReport, courses: Mapping[str, Course], width_in: float) -> Callable[[Palette], Figure]:
    return lambda palette: draw_course(run, courses[run.run.run_id], palette, width_in)


def _kind(panel: Panel) -> str:
    return f"{_kind_word(panel.is_estimate)}, {SCOPES[panel.scope]}"


def _kind_word(is_estimate: bool) -> str:
    return "ESTIMATED" if is_estimate else "measured"


def _badge(*, is_estimate: bool) -> str:
    return f'<span class="badge {"estimate" if is_estimate else "measured"}">{_kind_word(is_estimate)}</span>'


def _throttle_class(subject: Subject) -> str:
    return "bad" if subject.throttling.state == "throttled" else ""


def _figure(value: float, text: str) -> str:
    return f'<data value="{value!r}">{escape(text)}</data>'


def _ranged(figure: Range | None, subject: Subject, scale: float = 1.0, unit: str = "", sign: str = "") -> str:
    if figure is None:
        return _DASH
    text = _figure(figure.value, f"{sign}{format_figure(figure.value * scale)}{_SPACE}{unit}".rstrip(_SPACE))
    if figure.high > figure.low:
        text += f"<br><small>{_span(figure.low * scale, figure.high * scale)}</small>"
    if subject.throttling.state == "throttled":
        text += ' <em class="mark">throttled</em>'
    return text


def _energy(figure: Range | None, subject: Subject, sign: str) -> str:
    return _ranged(figure, subject, *((1.0, "J") if figure and figure.value >= 1 else (1e3, "mJ")), sign)


def _joules(energy_j: float) -> str:
    return f"{format_figure(energy_j)} J" if energy_j >= 1 else f"{format_figure(1e3 * energy_j)} mJ"


def _span(low: float, high: float) -> str:
    return f"{format_figure(low)} to {format_figure(high)}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _style() -> str:
    return _STYLE.replace("@LIGHT@", _variables(LIGHT)).replace("@DARK@", _variables(DARK))


def _variables(palette: Palette) -> str:
    return " ".join(f"--{name}: {colour};" for name, colour in palette._asdict().items())


_STYLE = """
  :root { color-scheme: light dark; --paper: #f7f5f0; --line: #d9d5cc; @LIGHT@ }
  @media screen and (prefers-color-scheme: dark) { :root { --paper: #14181e; --line: #333a45; @DARK@ } }
  * { box-sizing: border-box; }
  body { margin: 0 auto; max-width: 70rem; padding: 1.5rem 1rem 3rem; background: var(--paper); color: var(--ink);
    font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; -webkit-text-size-adjust: 100%; }
  h1 { font-size: 1.9rem; line-height: 1.15; margin: 0; letter-spacing: -.01em; overflow-wrap: anywhere; }
  h2 { font-size: 1.2rem; margin: 0 0 .2rem; } h3 { font-size: 1rem; margin: 0 0 .4rem; }
  p { margin: .35rem 0; max-width: 62rem; } .faint, figcaption { color: var(--faint); }
  .small, figcaption { font-size: .875rem; }
  .brand { color: var(--faint); font-size: .875rem; letter-spacing: .02em; margin: 0 0 .6rem; } .brand b { color: var(--ink); }
  section { background: var(--card); border: 1px solid var(--line); border-radius: .7rem; padding: 1.1rem 1.2rem 1.2rem;
    margin-top: 1rem; }
  .tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(10rem, 1fr)); gap: .6rem; margin: .8rem 0 .4rem; }
  .tile { border: 1px solid var(--line); border-radius: .6rem; padding: .6rem .8rem; }
  .tile > span { display: block; color: var(--faint); font-size: .8125rem; line-height: 1.35; overflow-wrap: anywhere; }
  .tile b { display: block; font-size: 1.4rem; line-height: 1.35; font-weight: 650; font-variant-numeric: tabular-nums; }
  .tile.estimate { border-style: dashed; border-color: var(--estimate); } .tile.estimate b { color: var(--estimate); }
  .columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1rem 2rem;
    align-items: start; margin: .8rem 0 .4rem; }
  .columns.three { grid-template-columns: repeat(auto-fit, minmax(min(100%, 17rem), 1fr)); gap: 1rem 1.5rem; }
  .panel { border-top: 1px solid var(--line); margin-top: 1.1rem; padding-top: .9rem; }
  .panel.estimate { border: 2px dashed var(--estimate); border-radius: .6rem; padding: .9rem; }
  .badge { display: inline-block; border-radius: .3rem; padding: 0 .5rem; font-size: .8125rem; font-weight: 650;
    letter-spacing: .03em; border: 1px solid var(--first); color: var(--first); margin-right: .2rem; }
  .badge.estimate { border: 1px dashed var(--estimate); color: var(--estimate); }
  .mark { display: inline-block; font-style: normal; font-weight: 650; font-size: .75rem; color: var(--bad); }
  figure { margin: 0; min-width: 0; } figcaption { margin-top: .3rem; }
  .scroll { overflow-x: auto; }
  table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .9375rem; }
  th, td { text-align: left; padding: .38rem .8rem .38rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
  tr:last-child > * { border-bottom: 0; }
  th { font-weight: 500; } thead th, small { color: var(--faint); } thead th { font-weight: 600; white-space: nowrap; }
  td small { white-space: nowrap; } tbody th, tr > th:first-child { min-width: 7rem; } td data { white-space: nowrap; }
  .bad { color: var(--bad); font-weight: 600; }
  code { font: .875em ui-monospace, "SF Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere; }

  svg { display: block; width: 100%; height: auto; }
  svg text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, sans-serif !important;
    font-variant-numeric: tabular-nums; }
  .columns svg { max-width: 30rem; }
  .narrow { display: none; }
  @media (max-width: 46rem) {
    section { padding: .9rem .8rem 1rem; } th, td { padding-right: .6rem; } table { font-size: .875rem; }
    .tiles { grid-template-columns: 1fr 1fr; } .tile b { font-size: 1.2rem; }
    thead th { white-space: normal; }
    .wide { display: none; } .narrow { display: block; max-width: 34rem; }
  }
  @media print {
    body { max-width: none; padding: 0; font-size: 12px; background: none; }
    section, .tile, figure, tr { break-inside: avoid; border-color: #ccc; }
    * { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
  }
"""
