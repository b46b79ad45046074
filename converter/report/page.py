"""``python -m converter.report.page --bundle build/rpi4``: makes ``report.html`` of ``report.json`` and ``latency.json``.

The page is one file that refers to no other. Its figures are ``data`` elements whose ``value`` is the JSON's own.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from converter.evaluate.accuracy import ConfidenceInterval
from converter.evaluate.latency import ArtefactLatency, Latency, measure_latency
from converter.quantise.recipes import Recipe
from converter.report.plots import Share, find_role, find_title, plot_latency, plot_reliability, plot_shares
from converter.report.record import Confusion, ConversionReport, Judgement, NoiseByLayer, read_report
from device.bundle import open_bundle
from device.core.durable import write_durably
from device.core.errors import BundleError, exit_with_one_line
from device.report import document
from device.report.document import DASH, SPACE, data

HTML_NAME = "report.html"
LATENCY_NAME = "latency.json"

MATRIX_CLASSES = 24
"""A larger matrix would be unreadable; the most frequent confusions are listed instead."""

LISTED_CONFUSIONS = 8
LISTED_LAYERS = 15

BUSY_CORES = 0.1
"""Cores that other programs kept busy: from here on the page says that the latency was disturbed."""

BUSY_SHARE = 0.001
"""Share of the processor time that a hypervisor gave to other guests: from here on the page says it."""

_MINUS = "\N{MINUS SIGN}"


class ConfusionRow(msgspec.Struct, frozen=True):
    """A row of a confusion matrix, as it is shown.

    Attributes:
        label: the correct class.
        images: photographs of it.
        cells: how many were predicted as each class.
        changes: the difference of ``cells`` to eager fp32's.
        recall: share of its photographs that were classified correctly; None without photographs.
    """

    label: str
    images: int
    cells: tuple[int, ...]
    changes: tuple[int, ...]
    recall: float | None


class ConfusedPair(msgspec.Struct, frozen=True):
    """A class predicted as another: how often, of how many photographs."""

    right: str
    named: str
    images: int
    of: int


class Layer(msgspec.Struct, frozen=True):
    """A rounding: its SQNR, and its share of the total noise if all roundings add up."""

    name: str
    operator: str
    sqnr_db: float
    noise: float


class Noise(msgspec.Struct, frozen=True):
    """The noise of all roundings together.

    Attributes:
        layers: worst first.
        operators: kind of operator -> its share of the noise, largest first.
        sum_db: SQNR of all roundings together, if they add up.
        half: how many of the worst layers make up half of the noise.
    """

    layers: tuple[Layer, ...]
    operators: dict[str, float]
    sum_db: float
    half: int


def write_page(folder: Path, report: ConversionReport, latency: Latency | None) -> None:
    """Writes ``report.html``, and ``latency.json`` where there is a measurement; each atomically."""
    if latency is not None:
        write_durably(folder / LATENCY_NAME, msgspec.json.format(msgspec.json.encode(latency), indent=2) + b"\n")
    write_durably(folder / HTML_NAME, render(report, latency).encode())


def read_latency(folder: Path) -> Latency | None:
    """Reads ``latency.json`` of a bundle; None where there is none.

    Raises:
        BundleError: it is malformed.
    """
    path = folder / LATENCY_NAME
    try:
        return msgspec.json.decode(path.read_bytes(), type=Latency)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise BundleError(
            str(path), f"isn't a measurement: {error}", remedy="pass --measure, which replaces it", reason="malformed"
        ) from error


def render(report: ConversionReport, latency: Latency | None) -> str:
    """The page; equal arguments give equal text."""
    # The artefact that the profile runs: its figures are at the top.
    first = report.artefacts[0]
    timed = order_latencies(report, latency)
    return document.render(
        "converter.report",
        "conversion.html",
        _FILTERS,
        report=report,
        latency=latency,
        first=first,
        timed=timed,
        judged=_networks(report),
        matrices={
            item.artefact.runtime: tabulate(item.judgement, report.fp32, report.card.labels) for item in report.artefacts
        },
        pairs=find_pairs(first.judgement, report.card.labels),
        recipes=list({item.recipe.name: item.recipe for item in report.artefacts}.values()),
        noise=add_up(report.sensitivity),
        accuracy_plot=_draw_accuracy(report),
        reliability_plots=_draw_reliability(report),
        latency_plot=_draw_latency(timed),
        matrix_classes=MATRIX_CLASSES,
        listed_layers=LISTED_LAYERS,
        busy_cores=BUSY_CORES,
        busy_share=BUSY_SHARE,
    )


def tabulate(judgement: Judgement | None, reference: Judgement | None, labels: tuple[str, ...]) -> tuple[ConfusionRow, ...]:
    """Makes a confusion matrix with its difference to another network's; empty without labels or with too many classes."""
    if judgement is None or reference is None or len(labels) > MATRIX_CLASSES:
        return ()
    found, before = (_fill(one.confusions, len(labels)) for one in (judgement, reference))
    rows = []
    for index, label in enumerate(labels):
        images, hits = int(found[index].sum()), int(found[index, index])
        rows.append(
            ConfusionRow(
                label=label,
                images=images,
                cells=tuple(found[index].tolist()),
                changes=tuple((found[index] - before[index]).tolist()),
                recall=hits / images if images else None,
            )
        )
    return tuple(rows)


def find_pairs(judgement: Judgement | None, labels: tuple[str, ...]) -> tuple[ConfusedPair, ...]:
    """Finds the most frequent confusions, most frequent first."""
    if judgement is None:
        return ()
    images: Counter[int] = Counter()
    for cell in judgement.confusions:
        images[cell.right] += cell.images
    wrong = [cell for cell in judgement.confusions if cell.right != cell.named]
    wrong.sort(key=lambda cell: (-cell.images, -cell.images / images[cell.right], cell.right, cell.named))
    listed = wrong[:LISTED_CONFUSIONS]
    return tuple(ConfusedPair(labels[cell.right], labels[cell.named], cell.images, images[cell.right]) for cell in listed)


def add_up(sensitivity: NoiseByLayer | None) -> Noise | None:
    """Computes each layer's share of the total noise; None where nothing is rounded."""
    if sensitivity is None or not sensitivity.layers:
        return None
    powers = np.array([10.0 ** (-layer.sqnr_db / 10.0) for layer in sensitivity.layers])
    shares = powers / powers.sum()
    layers = tuple(
        Layer(layer.name, layer.operator, layer.sqnr_db, float(share))
        for layer, share in zip(sensitivity.layers, shares, strict=True)
    )
    operators: Counter[str] = Counter()
    for layer in layers:
        operators[layer.operator] += layer.noise  # type: ignore[assignment]  # typeshed: counts are integers
    half = int(np.searchsorted(np.cumsum(shares), 0.5)) + 1
    return Noise(layers, dict(operators.most_common()), -10.0 * float(np.log10(powers.sum())), half)


def _fill(cells: tuple[Confusion, ...], classes: int) -> NDArray[np.int64]:
    matrix = np.zeros((classes, classes), np.int64)
    for cell in cells:
        matrix[cell.right, cell.named] = cell.images
    return matrix


def order_latencies(report: ConversionReport, latency: Latency | None) -> dict[str, ArtefactLatency]:
    """Maps runtimes to their measurements, in the report's order; empty without any."""
    timed = {one.runtime: one for one in latency.artefacts} if latency else {}
    runtimes = [item.artefact.runtime for item in report.artefacts]
    return {runtime: timed[runtime] for runtime in runtimes if runtime in timed}


def _networks(report: ConversionReport) -> dict[str, Judgement]:
    """The networks that were judged, by series."""
    judged = {"fp32": report.fp32} | {item.artefact.runtime: item.judgement for item in report.artefacts}
    return {name: judgement for name, judgement in judged.items() if judgement is not None}


def _draw_accuracy(report: ConversionReport) -> str | None:
    networks = _networks(report)
    if not networks:
        return None
    groups = {
        heading: [
            Share(name, getattr(one.score, figure), getattr(one.score, f"{figure}_interval")) for name, one in networks.items()
        ]
        for heading, figure in (("Top-1", "top1"), ("Top-5", "top5"), ("Top-1, mean over the classes", "macro_top1"))
    }
    return plot_shares("Accuracy of each network, with 95 % confidence intervals", groups)


def _draw_reliability(report: ConversionReport) -> dict[str, str]:
    return {
        name: plot_reliability(f"Reliability of {name}: accuracy by confidence", name, one.reliability)
        for name, one in _networks(report).items()
    }


def _draw_latency(timed: dict[str, ArtefactLatency]) -> str | None:
    if not timed:
        return None
    return plot_latency("Latency of each artefact on the host", {runtime: one.latency_s for runtime, one in timed.items()})


def _percent(share: float | None) -> Markup | str:
    return DASH if share is None else data(share, f"{100 * share:.1f}{SPACE}%")


def _points(share: float) -> Markup:
    return data(share, _signed(100 * share))


def _decibels(value: float) -> Markup:
    return data(value, f"{value:.1f}{SPACE}dB")


def _megabytes(size_bytes: int) -> Markup:
    return data(size_bytes, f"{size_bytes / 1e6:.2f}{SPACE}MB")


def _millions(count: int) -> Markup:
    return data(count, f"{count / 1e6:.{2 if count < 1e7 else 0}f}{SPACE}M")


def _milliseconds(duration_s: float) -> Markup:
    return data(duration_s, f"{1e3 * duration_s:.2f}{SPACE}ms")


def _plain(value: float) -> Markup:
    return data(value, f"{value:.3g}")


def _cosine(value: float) -> Markup:
    return data(value, f"{value:.5f}")


def _number(count: int) -> Markup:
    return data(count, f"{count:,}".replace(",", SPACE))


def _interval(interval: ConfidenceInterval) -> Markup:
    return Markup("{}–{}{}%").format(
        data(interval.low, f"{100 * interval.low:.1f}"), data(interval.high, f"{100 * interval.high:.1f}"), SPACE
    )


def _points_interval(interval: ConfidenceInterval) -> Markup:
    low, high = (data(end, _signed(100 * end)) for end in (interval.low, interval.high))
    return Markup("{} to {}").format(low, high)


def _by_count(operators: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(operators.items(), key=lambda item: (-item[1], item[0]))


def _settings(recipe: Recipe) -> list[tuple[str, object]]:
    return [(name, value) for name, value in msgspec.structs.asdict(recipe).items() if name not in _SHOWN_ELSEWHERE]


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", _MINUS).replace("+0.0", "0.0").replace(f"{_MINUS}0.0", "0.0")


_SHOWN_ELSEWHERE = ("name", "reason", "min_sqnr_db", "min_top1_agreement")

_FILTERS: dict[str, Callable[..., object]] = {
    "percent": _percent,
    "points": _points,
    "decibels": _decibels,
    "megabytes": _megabytes,
    "millions": _millions,
    "milliseconds": _milliseconds,
    "plain": _plain,
    "cosine": _cosine,
    "number": _number,
    "interval": _interval,
    "points_interval": _points_interval,
    "by_count": _by_count,
    "settings": _settings,
    "title_of": find_title,
    "role_of": find_role,
}


def build_parser() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = argparse.ArgumentParser(
        prog="python -m converter.report.page",
        description="Writes report.html of a bundle again from its report.json and latency.json.",
    )
    parser.add_argument("--bundle", type=Path, required=True, metavar="DIR", help="as make convert wrote it")
    parser.add_argument("--measure", action="store_true", help="measure the latency again, on this machine")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Parses flags and writes the page."""
    flags = build_parser().parse_args(arguments)
    bundle = open_bundle(flags.bundle)
    report = read_report(bundle.root)
    if flags.measure:
        latency: Latency | None = measure_latency(
            {bundle.path(one.file): one for one in bundle.manifest.artefacts}, bundle.golden().pixels
        )
    else:
        latency = read_latency(bundle.root)
    write_page(bundle.root, report, latency)
    print(bundle.root / HTML_NAME)
    return 0


if __name__ == "__main__":
    sys.exit(exit_with_one_line(main))
