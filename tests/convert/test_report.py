"""The report of a conversion, from figures made by hand: what it says, and that it needs no other file."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec
import numpy as np
import pytest

from converter.evaluate.accuracy import change
from converter.evaluate.latency import ArtefactLatency, Latency
from converter.evaluate.sensitivity import LayerNoise
from converter.evaluate.verify import Verification
from converter.quantise.recipes import find_recipe
from converter.report.page import add_up, find_pairs, read_latency, render, tabulate, write_page
from converter.report.plots import Share, plot_reliability, plot_shares
from converter.report.record import (
    ArtefactReport,
    ConversionReport,
    PhotographSet,
    judge,
    read_report,
    summarise_noise,
    write_report,
)
from converter.weights.checkpoints import Card
from converter.work.machine import MeasuredMachine
from device.contract import Artefact, ModelCard, Preprocessing, TensorSpec
from device.core.errors import BundleError
from device.protocols import Percentiles
from tests.unit.pages import PageReader, check_page

LABELS = ("dress", "hat", "shirt & <b>tie</b>")
RIGHT = np.asarray([0] * 6 + [1] * 6 + [2] * 8, np.int64)
LAYERS = (
    LayerNoise("blocks.1.0.conv_dw", "conv2d", 30.0),
    LayerNoise("blocks.0.0", "add", 30.0),
    LayerNoise("conv_stem", "conv2d", 40.0),
    LayerNoise("free", "mul", math.inf),
)


def logits(named: np.ndarray, classes: int = len(LABELS)) -> np.ndarray:
    """Of a network that names these classes, more surely with every image."""
    found = np.zeros((len(named), classes), np.float32)
    found[np.arange(len(named)), named] = 1.0 + 0.2 * np.arange(len(named), dtype=np.float32)
    return found


EAGER = RIGHT.copy()
EAGER[:2] = 2  # two dresses taken for a shirt
INT8 = EAGER.copy()
INT8[0] = 0  # gains a dress
INT8[7] = 0  # loses a hat


def make_artefact(runtime: str, file: str, named: np.ndarray, right: np.ndarray | None, precision: str) -> ArtefactReport:
    pixels = TensorSpec("pixels", (1, 32, 32, 3), "uint8", "NHWC")
    scores = TensorSpec("logits", (1, len(LABELS)), "float32", "NC")
    found, eager = logits(named), logits(EAGER)
    return ArtefactReport(
        artefact=Artefact(runtime, file, precision, precision, pixels, scores, 1, (), 31.25, 0.9),
        size_bytes=3_972_512,
        operators={"CONV_2D": 58, "ADD": 22},
        recipe=find_recipe(precision),
        verification=Verification(images=len(named), sqnr_db=31.2512, cosine=0.99912, top1_agreement=0.9),
        judgement=None if right is None else judge(found, right, 1.3),
        change=None if right is None else change(found, eager, right),
    )


def make_report(
    right: np.ndarray | None = RIGHT, layers: tuple[LayerNoise, ...] = LAYERS, precision: str = "int8"
) -> ConversionReport:
    preprocessing = Preprocessing(input_px=32)
    return ConversionReport(
        profile="rpi4",
        runtime="litert",
        model=ModelCard("ghostnet_100", "clothing", "a" * 64, 3_913_146, 141_000_000, len(LABELS), preprocessing),
        card=Card(
            "ghostnet_100", LABELS, preprocessing, "photographs (CC0 1.0)", "python -m converter.train", 341, 0.7, 0.9, 0.6
        ),
        fp32=None if right is None else judge(logits(EAGER), right, 1.3),
        artefacts=(
            make_artefact("litert", "model.tflite", INT8, right, precision),
            make_artefact("executorch", "model.pte", EAGER, right, precision),
        ),
        calibration=PhotographSet(64, "pack, calibration", "b" * 64, True),
        verification=PhotographSet(len(RIGHT), "pack, verification", "c" * 64, right is not None),
        sensitivity=summarise_noise("int8", 16, layers) if layers else None,
        versions={"torch": "2.13.0"},
    )


def make_latency(other_load_cores: float = 0.02) -> Latency:
    machine = MeasuredMachine(
        processor="Processor 9000",
        cores=2,
        is_virtual=True,
        board=None,
        machine="x86_64",
        kernel="6.1",
        governor=None,
        python="3.11",
        versions={},
        other_load_cores=other_load_cores,
        stolen_share=0.0,
    )
    figures = Percentiles(0.00305, 0.00328, 0.0074)
    return Latency(
        "2026-01-02T03:04Z",
        machine,
        (
            ArtefactLatency("litert", "ai-edge-litert 2.3.0", 1, 300, figures),
            ArtefactLatency("executorch", "executorch 1.5.1", 1, 300, figures),
        ),
    )


class Page(PageReader):
    """What a reader sees: the text of each section, and every figure with its JSON value."""

    def __init__(self, text: str) -> None:
        self.sections: dict[str, str] = {}
        self.figures: list[tuple[float, str]] = []
        self._heading = ""
        self._value: float | None = None
        super().__init__(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        super().handle_starttag(tag, attrs)
        if tag == "section":
            self._heading = ""
        if tag == "data":
            self._value = float(dict(attrs)["value"] or "")
            self.figures.append((self._value, ""))

    def handle_endtag(self, tag: str) -> None:
        super().handle_endtag(tag)
        if tag == "data":
            self._value = None

    def handle_data(self, data: str) -> None:
        if "h2" in self.open:
            self._heading += data
            self.sections[self._heading] = ""
        elif self._heading:
            self.sections[self._heading] += data
        if self._value is not None:
            self.figures[-1] = (self._value, self.figures[-1][1] + data)


def numbers(value: Any) -> set[float]:
    """Every number in a JSON document."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return set().union(*(numbers(item) for item in value))
    return {float(value)} if isinstance(value, int | float) and not isinstance(value, bool) else set()


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(render(make_report(), make_latency()))


def test_the_page_is_one_file_for_light_and_dark_a_phone_and_paper() -> None:
    check_page(render(make_report(), make_latency()))


def test_every_figure_of_the_page_is_one_of_the_jsons(page: Page) -> None:
    known = numbers(msgspec.to_builtins(make_report())) | numbers(msgspec.to_builtins(make_latency()))
    counted = {6.0, 8.0}  # photographs of a class, which the JSON has cell by cell
    recalls = {5 / 6, 8 / 8, 4 / 6, 6 / 6}
    assert {value for value, _ in page.figures} <= known | counted | recalls


def test_the_page_shows_what_the_json_says(page: Page, tmp_path: Path) -> None:
    write_report(tmp_path, make_report())
    report = json.loads((tmp_path / "report.json").read_bytes())
    shown = {(value, text.replace("\N{NARROW NO-BREAK SPACE}", " ")) for value, text in page.figures}
    for network in (report["fp32"], *(item["judgement"] for item in report["artefacts"])):
        for name in ("top1", "top5", "macro_top1"):
            share, interval = network["score"][name], network["score"][f"{name}_interval"]
            assert (share, f"{100 * share:.1f} %") in shown
            assert {
                (interval["low"], f"{100 * interval['low']:.1f}"),
                (interval["high"], f"{100 * interval['high']:.1f}"),
            } <= shown
        error = network["expected_calibration_error"]
        assert (error, f"{100 * error:.1f} %") in shown
    for item in report["artefacts"]:
        assert (item["size_bytes"], "3.97 MB") in shown
        assert (item["verification"]["sqnr_db"], "31.3 dB") in shown
        assert item["artefact"]["file"] in page.sections["Artefacts"]
    assert (report["model"]["parameters"], "3.91 M") in shown
    assert (0.00305, "3.05 ms") in shown
    for layer in report["sensitivity"]["layers"]:
        assert (layer["sqnr_db"], f"{layer['sqnr_db']:.1f} dB") in shown
        assert layer["name"] in page.sections["Quantisation noise by layer"]


def test_equal_reports_give_equal_bytes_and_time_stays_out_of_the_json(tmp_path: Path) -> None:
    for name, latency in (("one", make_latency()), ("two", make_latency(1.5))):
        (tmp_path / name).mkdir()
        write_report(tmp_path / name, make_report())
        write_page(tmp_path / name, make_report(), latency)
    one, two = tmp_path / "one", tmp_path / "two"
    assert (one / "report.json").read_bytes() == (two / "report.json").read_bytes()
    assert (one / "report.html").read_bytes() != (two / "report.html").read_bytes()
    write_page(two, make_report(), make_latency())
    assert (one / "report.html").read_bytes() == (two / "report.html").read_bytes()


def test_a_bundle_keeps_its_page_small(tmp_path: Path) -> None:
    layers = tuple(LayerNoise(f"blocks.{index}.0.ghost1.primary_conv.0", "conv2d", 30.0 + index / 9) for index in range(200))
    assert len(render(make_report(layers=layers), make_latency()).encode()) < 150_000


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    write_report(tmp_path, make_report())
    write_page(tmp_path, make_report(), make_latency())
    assert read_report(tmp_path) == make_report()
    assert read_latency(tmp_path) == make_latency()


def test_a_damaged_report_or_measurement_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="make convert"):
        read_report(tmp_path)
    assert read_latency(tmp_path) is None
    for name, read in (("report.json", read_report), ("latency.json", read_latency)):
        (tmp_path / name).write_bytes(b'{"profile": 3}')
        with pytest.raises(BundleError, match=name) as caught:
            read(tmp_path)
        assert caught.value.reason == "malformed"


def test_without_labels_each_section_says_so() -> None:
    text = render(make_report(right=None), make_latency())
    page = Page(text)
    for heading in ("Accuracy", "Confusions", "Reliability of the confidence"):
        assert "aren't known" in page.sections[heading]
        assert "--verification DIR" in page.sections[heading]
    assert "labels not known" in page.sections["Origin"]
    assert (31.2512, "31.3\N{NARROW NO-BREAK SPACE}dB") in page.figures


def test_without_a_measurement_the_section_says_how_to_get_one() -> None:
    page = Page(render(make_report(), None))
    assert "--measure" in page.sections["Latency on the host"]


def test_without_rounding_nothing_is_ranked() -> None:
    page = Page(render(make_report(layers=(), precision="fp32"), make_latency()))
    assert "Nothing is rounded" in page.sections["Quantisation noise by layer"]


def test_the_latency_names_the_machine_the_day_and_what_disturbed_it() -> None:
    quiet = Page(render(make_report(), make_latency())).sections["Latency on the host"]
    busy = Page(render(make_report(), make_latency(0.8))).sections["Latency on the host"]
    for words in ("Processor 9000", "a virtual machine", "2026-01-02 03:04 UTC", "1 thread", "300 inferences", "litert 2.3.0"):
        assert words in " ".join(quiet.split())
    assert "Disturbed" not in quiet
    assert "other programs took 0.8 cores" in " ".join(busy.split())


def test_a_confusion_matrix_shows_what_int8_moved() -> None:
    report = make_report()
    dress, hat, shirt = tabulate(report.artefacts[0].judgement, report.fp32, LABELS)
    assert (dress.cells, dress.changes, dress.images) == ((5, 0, 1), (1, 0, -1), 6)
    assert (hat.cells, hat.changes) == ((1, 5, 0), (1, -1, 0))
    assert (shirt.cells, shirt.changes, shirt.recall) == ((0, 0, 8), (0, 0, 0), 1.0)


def test_a_class_without_photographs_has_no_recall() -> None:
    one = judge(logits(np.asarray([0, 2])), np.asarray([0, 0], np.int64), 1.0)
    _, hat, _ = tabulate(one, one, LABELS)
    assert (hat.images, hat.recall) == (0, None)


def test_the_matrix_of_a_thousand_classes_is_left_out_but_its_confusions_are_listed() -> None:
    labels = tuple(f"class {index}" for index in range(1000))
    named = np.asarray([7] * 5 + [8] * 2 + [9], np.int64)
    one = judge(logits(named, 1000), np.asarray([7] * 2 + [3] * 5 + [9], np.int64), 1.0)
    assert tabulate(one, one, labels) == ()
    first, second = find_pairs(one, labels)
    assert (first.right, first.named, first.images, first.of) == ("class 3", "class 7", 3, 5)
    assert (second.right, second.named, second.images) == ("class 3", "class 8", 2)


def test_labels_are_text_whatever_is_in_them(page: Page) -> None:
    assert "shirt & <b>tie</b>" in page.sections["Confusions"]


def test_noise_adds_up() -> None:
    noise = add_up(summarise_noise("int8", 16, LAYERS))
    assert noise is not None
    assert [layer.name for layer in noise.layers] == ["blocks.0.0", "blocks.1.0.conv_dw", "conv_stem"]  # the free one is out
    assert noise.layers[0].noise == pytest.approx(1 / 2.1)
    assert noise.sum_db == pytest.approx(-10 * math.log10(2.1e-3))
    assert list(noise.operators) == ["conv2d", "add"]
    assert noise.half == 2


def test_reliability_is_of_the_temperature_that_the_board_uses() -> None:
    found = judge(logits(EAGER), RIGHT, 1.3)
    sharper = judge(logits(EAGER), RIGHT, 0.1)
    assert sum(one.images for one in found.reliability) == len(RIGHT)
    assert found.temperature == 1.3
    assert found.expected_calibration_error != sharper.expected_calibration_error
    assert found.score == sharper.score


def test_a_plot_is_well_formed_and_keeps_its_marks_inside() -> None:
    report = make_report()
    assert report.fp32 is not None
    whole = report.fp32.score
    svg = ElementTree.fromstring(plot_shares("<&>", {"Top-1": [Share("fp32", whole.top1, whole.top1_interval)]}))
    assert svg.findtext("title") == "<&>"
    width, height = (float(number) for number in svg.attrib["viewBox"].split()[2:])
    marks = [(float(mark.attrib["x"]), float(mark.attrib["y"])) for mark in svg.iter("use")]
    lines = [path for path in svg.iter("path") if "fill: none; stroke: var(--faint)" in path.attrib.get("style", "")]
    ends = [(float(x), float(y)) for line in lines for x, y in re.findall(r"[ML] (\S+) (\S+)", line.attrib["d"])]
    assert len(marks) == 1
    assert len(ends) == 2
    for x, y in (*marks, *ends):
        assert 0 < x < width
        assert 0 < y < height


def test_each_bar_of_a_reliability_diagram_says_what_it_stands_for() -> None:
    one = judge(logits(EAGER), RIGHT, 1.3)
    svg = ElementTree.fromstring(plot_reliability("Reliability", "fp32", one.reliability))
    tips = [group.findtext("title") or "" for group in svg.iter("g") if group.find("title") is not None]
    filled = [found for found in one.reliability if found.accuracy is not None]
    for found in filled:
        assert f"confidence {found.confidence:.1%}, right {found.accuracy:.1%}, {found.images} images" in tips
    assert len(tips) == len(one.reliability) + len(filled)
