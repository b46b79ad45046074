"""Plots of the report, as SVG inside its HTML: pure functions from figures to markup.

By hand, not by matplotlib: text stays text, colours come from the page's style sheet (light, dark and print are one drawing),
and equal figures give equal bytes. Each plot is drawn for a phone's width of 360 px, and grows to what room there is.

Classes that the style sheet colours: ``series-fp32``, ``series-litert``, ``series-executorch``, ``grid``, ``axis``, ``value``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from xml.etree import ElementTree

import msgspec
from markupsafe import Markup

from converter.evaluate.accuracy import Interval
from converter.evaluate.confidence import ReliabilityBin
from device.protocols import Percentiles

WIDTH = 360
"""Of every plot, in units of its view box."""

_ROW = 20
_LABELS_END = 84
_VALUES_START = WIDTH - 56
_MOST_TICKS = 6
_TICK_SHARES = (0.01, 0.02, 0.05, 0.1, 0.2)
_TICK_STEPS_MS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)


_TITLES = {"litert": "LiteRT", "executorch": "ExecuTorch"}


class Share(msgspec.Struct, frozen=True):
    """A share from 0 to 1, with its interval; ``series`` is the network that it is a figure of."""

    series: str
    share: float
    interval: Interval


def find_title(series: str) -> str:
    """What a series is called for people."""
    return _TITLES.get(series, series)


def plot_shares(title: str, groups: Mapping[str, Sequence[Share]]) -> Markup:
    """Shares as dots with their intervals, a group after the other, on one axis.

    Args:
        title: for those who can't see it.
        groups: heading -> its shares, in order.
    """
    all_shares = [share for group in groups.values() for share in group]
    low, high, step = _share_axis(all_shares)
    height = sum(_ROW * (len(group) + 1) for group in groups.values()) + 26
    svg = _drawing(title, height)
    bottom = height - 20

    def x_of(share: float) -> float:
        return _LABELS_END + (share - low) / (high - low) * (_VALUES_START - 8 - _LABELS_END)

    for index in range(round((high - low) / step) + 1):
        tick = low + index * step
        _line(svg, x_of(tick), 4, x_of(tick), bottom, "grid")
        _text(svg, x_of(tick), bottom + 14, f"{tick:.0%}", "axis", anchor="middle")
    y = 4.0
    for heading, group in groups.items():
        y += _ROW
        _text(svg, 0, y - 5, heading, "heading")
        for share in group:
            y += _ROW
            middle = y - 9
            row = _group(svg, f"series-{share.series}")
            _text(row, 0, middle + 4, find_title(share.series), "label")
            _line(row, x_of(share.interval.low), middle, x_of(share.interval.high), middle, "whisker")
            _circle(row, x_of(share.share), middle, 4)
            _text(row, WIDTH, middle + 4, f"{share.share:.1%}", "value", anchor="end")
    return _markup(svg)


def plot_reliability(title: str, series: str, bins: Sequence[ReliabilityBin]) -> Markup:
    """A reliability diagram: a bar a bin of confidence, as high as the share that was right; below, how many images it is of.

    Args:
        title: for those who can't see it.
        series: the network.
        bins: in order, from 0 to 1.

    References:
        Guo et al., "On Calibration of Modern Neural Networks", ICML 2017 (arXiv 1706.04599), figure 1.
    """
    left, right, top, bottom, counts_bottom = 34, WIDTH - 6, 8, 218, 262
    svg = _drawing(title, counts_bottom + 34)

    def x_of(confidence: float) -> float:
        return left + confidence * (right - left)

    def y_of(accuracy: float) -> float:
        return bottom - accuracy * (bottom - top)

    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        _line(svg, left, y_of(share), right, y_of(share), "grid")
        _text(svg, left - 5, y_of(share) + 4, f"{share:.0%}", "axis", anchor="end")
        _text(svg, x_of(share), counts_bottom + 14, f"{share:.0%}", "axis", anchor=_anchor(share))
    _text(svg, (left + right) / 2, counts_bottom + 30, "confidence", "axis", anchor="middle")
    bars = _group(svg, f"series-{series}")
    most = max((one.images for one in bins), default=0) or 1
    for one in bins:
        width = x_of(one.high) - x_of(one.low) - 2
        tall = (counts_bottom - bottom - 6) * one.images / most
        _box(bars, x_of(one.low) + 1, counts_bottom - tall, width, tall, "count", f"{one.images} images")
        if one.accuracy is None or one.confidence is None:
            continue
        tell = f"confidence {one.confidence:.1%}, right {one.accuracy:.1%}, {one.images} images"
        _box(bars, x_of(one.low) + 1, y_of(one.accuracy), width, bottom - y_of(one.accuracy), "bar", tell)
        _line(bars, x_of(one.low) + 1, y_of(one.confidence), x_of(one.high) - 1, y_of(one.confidence), "target")
    _line(svg, x_of(0), y_of(0), x_of(1), y_of(1), "diagonal")
    return _markup(svg)


def plot_latency(title: str, latencies_s: Mapping[str, Percentiles]) -> Markup:
    """Latencies on one axis from 0: a dot at the median, a line to the 99th percentile, a tick at the 90th.

    Args:
        title: for those who can't see it.
        latencies_s: series -> its percentiles; at least one.
    """
    slowest_ms = 1e3 * max(one.p99 for one in latencies_s.values())
    step = next((step for step in _TICK_STEPS_MS if slowest_ms / step <= _MOST_TICKS), _TICK_STEPS_MS[-1])
    limit = math.ceil(slowest_ms / step) * step
    height = _ROW * len(latencies_s) + 30
    svg = _drawing(title, height)
    bottom = height - 20

    def x_of(latency_s: float) -> float:
        return _LABELS_END + 1e3 * latency_s / limit * (WIDTH - 14 - _LABELS_END)

    for index in range(round(limit / step) + 1):
        x = x_of(index * step / 1e3)
        _line(svg, x, 4, x, bottom, "grid")
        _text(svg, x, bottom + 14, f"{index * step:g}" + (" ms" if index == 0 else ""), "axis", anchor="middle")
    for index, (series, found) in enumerate(latencies_s.items()):
        middle = 6 + _ROW * (index + 0.5)
        row = _group(svg, f"series-{series}")
        _text(row, 0, middle + 4, find_title(series), "label")
        _line(row, x_of(found.p50), middle, x_of(found.p99), middle, "whisker")
        for mark_s in (found.p90, found.p99):
            _line(row, x_of(mark_s), middle - 6, x_of(mark_s), middle + 6, "whisker")
        _circle(row, x_of(found.p50), middle, 4.5)
    return _markup(svg)


def _share_axis(shares: Sequence[Share]) -> tuple[float, float, float]:
    """Ends of an axis on whole ticks, five of them at most, and the distance of the ticks."""
    least, most = min(share.interval.low for share in shares), max(share.interval.high for share in shares)
    for step in _TICK_SHARES:
        low, high = math.floor(least / step) * step, math.ceil(most / step - 1e-9) * step
        if high - low <= 5 * step + 1e-9:
            return low, max(high, low + step), step
    return 0.0, 1.0, _TICK_SHARES[-1]


def _anchor(share: float) -> str:
    return "start" if share == 0.0 else "end" if share == 1.0 else "middle"


def _drawing(title: str, height: float) -> ElementTree.Element:
    svg = ElementTree.Element("svg", {"viewBox": f"0 0 {WIDTH} {_number(height)}", "role": "img"})
    ElementTree.SubElement(svg, "title").text = title
    return svg


def _group(parent: ElementTree.Element, name: str) -> ElementTree.Element:
    return ElementTree.SubElement(parent, "g", {"class": name})


def _line(parent: ElementTree.Element, x1: float, y1: float, x2: float, y2: float, name: str) -> None:
    ends = {"x1": _number(x1), "y1": _number(y1), "x2": _number(x2), "y2": _number(y2)}
    ElementTree.SubElement(parent, "line", {"class": name, **ends})


def _circle(parent: ElementTree.Element, x: float, y: float, radius: float) -> None:
    ElementTree.SubElement(parent, "circle", {"cx": _number(x), "cy": _number(y), "r": _number(radius)})


def _box(parent: ElementTree.Element, x: float, y: float, width: float, height: float, name: str, tell: str) -> None:
    place = {"x": _number(x), "y": _number(y), "width": _number(width), "height": _number(height)}
    rectangle = ElementTree.SubElement(parent, "rect", {"class": name, **place})
    ElementTree.SubElement(rectangle, "title").text = tell


def _text(parent: ElementTree.Element, x: float, y: float, text: str, name: str, *, anchor: str = "start") -> None:
    place = {"x": _number(x), "y": _number(y), "text-anchor": anchor}
    ElementTree.SubElement(parent, "text", {"class": name, **place}).text = text


def _number(value: float) -> str:
    """A tenth of a unit is finer than any screen, and the same on every machine."""
    return f"{value:.1f}".removesuffix(".0")


def _markup(svg: ElementTree.Element) -> Markup:
    return Markup(ElementTree.tostring(svg, encoding="unicode"))  # noqa: S704  # ElementTree escapes
