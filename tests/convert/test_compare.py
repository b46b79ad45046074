"""The comparison: claims both ways with made-up figures, the measuring, the outputs, and one small network all the way."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from rich.console import Console

from converter.compare.__main__ import main
from converter.compare.claims import judge, judge_parameters, judge_speed
from converter.compare.comparison import LEAST_ROUNDS, Measurement, make_notes, measure
from converter.compare.exports import ExportStore, Outcomes, Task
from converter.compare.latency import WARM_UP, measure_rounds, spread, summarise
from converter.compare.networks import NETWORKS, QUICK, REFERENCE, RIVAL, ComparedNetwork, find_networks
from converter.compare.page import HTML_NAME, PNG_NAME, render, write_comparison
from converter.compare.records import (
    SCHEMA,
    ArtefactFigures,
    Comparison,
    NetworkFigures,
    read_arm_counts,
    read_comparison,
    with_arm_counts,
    write_arm_counts,
)
from converter.compare.table import print_comparison
from converter.exporters.job import Lowered
from converter.quantise.equalisation import artefact_input
from converter.weights.fresh import fresh_network
from converter.work.cache import Cache
from converter.work.machine import LoadMeter, MeasuredMachine, describe_machine, format_machine
from device.core.clock import ManualClock
from device.core.errors import ConversionError, UsageError, exit_with_one_line
from tests.convert.test_exporters import photographs
from tests.unit.pages import check_page

pytestmark = pytest.mark.host

RUNTIMES = ("litert", "executorch")
MACHINE = MeasuredMachine("a processor", 2, True, None, "x86_64", "6.1", None, "3.11.2", {"litert": "ai-edge-litert 2.3.0"})


def make_row(
    network: str, rounds_s: tuple[float, ...] = (), *, parameters: int = 1_000_000, failure: str | None = None
) -> NetworkFigures:
    """A row whose artefacts all took the same; without rounds they were not timed."""
    timing = summarise(rounds_s, rounds_s) if rounds_s else None
    artefacts = tuple(ArtefactFigures(name, failure, 1_000_000, f"sha of {network} {name}", timing) for name in RUNTIMES)
    published = next((one.published for one in NETWORKS if one.name == network), None)
    return NetworkFigures(network, f"describes {network}", parameters, 100_000_000, published, artefacts)


def make_comparison(*rows: NetworkFigures) -> Comparison:
    verdicts = judge(rows, RUNTIMES)
    notes = ("a note & more",)
    return Comparison(
        SCHEMA, "2026-01-01T00:00:00+00:00", MACHINE, RUNTIMES, REFERENCE, 224, 1000, 5, 10, notes, rows, verdicts
    )


# --- claims -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "outcome"),
    [
        (3_800_000, "holds"),
        (3_849_000, "holds"),
        (3_751_000, "holds"),
        (3_860_000, "does not hold"),
        (3_361_064, "does not hold"),
    ],
)
def test_the_parameter_claim_is_judged_by_the_count(parameters: int, outcome: str) -> None:
    verdict = judge_parameters(make_row("ghostnet_article", parameters=parameters), "ghostnet_article")
    assert verdict.outcome == outcome
    assert f"counted {parameters / 1e6:.2f} M" in verdict.measured


@pytest.mark.parametrize(
    ("own_s", "rival_s", "outcome"),
    [
        ((0.022, 0.023, 0.024), (0.038, 0.038, 0.038), "holds"),
        ((0.010, 0.010, 0.010), (0.038, 0.038, 0.038), "holds"),
        ((0.030, 0.031, 0.032), (0.038, 0.038, 0.038), "holds in part"),
        ((0.037, 0.038, 0.039), (0.038, 0.038, 0.038), "undecided"),
        ((0.0031, 0.0032, 0.0030), (0.0013, 0.0013, 0.0013), "does not hold"),
    ],
)
def test_the_speed_claim_is_judged_by_the_ratio(own_s: tuple[float, ...], rival_s: tuple[float, ...], outcome: str) -> None:
    verdict = judge_speed(make_row("ghostnet_article", own_s), make_row(RIVAL, rival_s), "ghostnet_article", "litert")
    assert verdict.outcome == outcome
    assert "23 against 38 ms, 0.61x" in verdict.claimed


def test_the_ratio_is_of_each_round_so_that_a_slow_machine_slows_both() -> None:
    own, rival = (0.002, 0.200, 0.004), (0.001, 0.100, 0.002)
    verdict = judge_speed(make_row("ghostnet_100", own), make_row(RIVAL, rival), "ghostnet_100", "litert")
    assert "2.00x (2.00 to 2.00" in verdict.measured


@pytest.mark.parametrize("rival", [None, make_row(RIVAL), make_row(RIVAL, failure="it broke")])
def test_what_was_not_measured_is_not_judged(rival: NetworkFigures | None) -> None:
    assert judge_speed(make_row("ghostnet_100", (0.1,)), rival, "ghostnet_100", "litert").outcome == "not measured"
    assert judge_parameters(None, "ghostnet_100").outcome == "not measured"


def test_every_claim_is_checked_in_each_runtime_on_the_articles_and_on_the_papers_table() -> None:
    verdicts = judge([make_row("ghostnet_article", (0.1,)), make_row(REFERENCE, (0.1,)), make_row(RIVAL, (0.2,))], RUNTIMES)
    assert {verdict.network for verdict in verdicts} == {"ghostnet_article", "ghostnet_100"}
    assert len(verdicts) == 2 + 2 * len(RUNTIMES)


def test_counted_instructions_stand_beside_the_speed() -> None:
    own, rival = make_row("ghostnet_100", (0.2,)), make_row(RIVAL, (0.1,))
    counts = {"sha of ghostnet_100 litert": {"cortex-a72": 90}, f"sha of {RIVAL} litert": {"cortex-a72": 60, "cortex-a76": 40}}
    verdict = judge_speed(with_arm_counts(own, counts), with_arm_counts(rival, counts), "ghostnet_100", "litert")
    assert verdict.measured.endswith("1.50x the instructions on cortex-a72")


# --- networks ---------------------------------------------------------------------------------------------------------


def test_every_published_accuracy_names_its_source() -> None:
    published = {network.name: network.published for network in NETWORKS if network.published}
    assert set(published) == {
        "ghostnet_050", "ghostnet_100", "ghostnet_130", "mobilenetv3_small_100", "mobilenetv3_large_100",
    }  # fmt: skip
    for one in published.values():
        assert re.search(r"arXiv \d{4}\.\d{5}", one.source)
        assert 0.5 < one.top1 < (one.top5 or 1.0) < 1.01


def test_an_unknown_network_is_named_with_the_known() -> None:
    assert [network.name for network in find_networks(("mobilenetv3_small_100", "ghostnet_050"))] == [
        "ghostnet_050", "mobilenetv3_small_100",
    ]  # fmt: skip
    with pytest.raises(UsageError, match="did you mean 'ghostnet_100_ratio3'"):
        find_networks(("ghostnet_100_ration3",))
    find_networks(QUICK)


# --- measuring --------------------------------------------------------------------------------------------------------


class FakeSession:
    """Takes the time that it is told to, on a clock that all share."""

    def __init__(self, clock: list[int], duration_ns: int, log: list[str], name: str) -> None:
        self.clock, self.duration_ns, self.log, self.name = clock, duration_ns, log, name

    def run(self, pixels: Any) -> Any:
        self.clock[0] += self.duration_ns
        self.log.append(self.name)


def test_networks_take_turns_in_an_order_that_changes() -> None:
    clock, log = [0], list[str]()
    sessions = {name: FakeSession(clock, 1000 * (index + 1), log, name) for index, name in enumerate("abc")}
    rounds = measure_rounds(sessions, np.zeros((1, 2, 2, 3), np.uint8), runs=4, clock_ns=lambda: clock[0])
    found = [next(rounds) for _ in range(20)]
    assert all(one == {"a": 1e-6, "b": 2e-6, "c": 3e-6} for one in found)
    turn = WARM_UP + 4
    orders = {tuple(log[start : start + 3 * turn : turn]) for start in range(0, len(log), 3 * turn)}
    assert all(sorted(order) == ["a", "b", "c"] for order in orders)
    assert len(orders) > 1
    assert all(len(set(log[start : start + turn])) == 1 for start in range(0, len(log), turn))


def test_percentiles_and_ratios_are_of_the_rounds() -> None:
    values = [float(value) for value in range(1, 12)]
    assert (spread(values).p10, spread(values).p50, spread(values).p90) == (2.0, 6.0, 10.0)
    timing = summarise([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    assert timing.ratio is not None
    assert (timing.ratio.p10, timing.ratio.p90) == (2.0, 2.0)
    assert summarise([2.0], None).ratio is None


def interrupted_measurement(after: int, monkeypatch: pytest.MonkeyPatch) -> Measurement:
    from converter.compare import comparison

    key = ("ghostnet_050", "litert")

    def rounds(*_sessions: object, **_options: object) -> Any:
        for _ in range(after):
            yield {key: 0.001}
        raise KeyboardInterrupt

    monkeypatch.setattr(comparison, "_open", lambda *_: ({key: None}, {}))
    monkeypatch.setattr(comparison, "measure_rounds", rounds)
    return measure({}, np.zeros((1, 2, 2, 3), np.uint8), rounds=50, runs=1, machine=MACHINE, report=lambda _: None)


def test_an_interrupted_measurement_keeps_its_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    measurement = interrupted_measurement(LEAST_ROUNDS, monkeypatch)
    assert measurement.rounds == LEAST_ROUNDS
    assert [len(rounds) for rounds in measurement.rounds_s.values()] == [LEAST_ROUNDS]
    assert any("Interrupted after" in note for note in make_notes(measurement, 1))
    with pytest.raises(KeyboardInterrupt):
        interrupted_measurement(LEAST_ROUNDS - 1, monkeypatch)


def test_a_busy_machine_is_told() -> None:
    def notes(cores: float | None) -> str:
        machine = msgspec.structs.replace(MACHINE, other_load_cores=cores)
        return " ".join(make_notes(Measurement(machine, {}, 60, 60, {}), 10))

    assert "other programs took 1.4 of 2 cores" in notes(1.4)
    assert "busy" not in notes(0.05)
    assert "busy" not in notes(None)
    assert "Weights are fresh" in notes(0.0)


def test_an_artefact_that_no_runtime_takes_becomes_a_reason(tmp_path: Path) -> None:
    from converter.exporters import Exported
    from device.contract import TensorSpec

    path = tmp_path / "model.tflite"
    path.write_bytes(b"no model at all")
    pixels = TensorSpec("pixels", (1, 2, 2, 3), "uint8", "NHWC")
    exported = Exported(path.name, pixels, TensorSpec("logits", (1, 2), "int8", "NC"), 1, (), {})
    exports: Outcomes = {("a", "litert"): Lowered(path, exported), ("b", "litert"): "could not be exported"}
    measurement = measure(exports, np.zeros((1, 2, 2, 3), np.uint8), rounds=3, runs=1, machine=MACHINE, report=lambda _: None)
    assert "is no TensorFlow Lite file" in measurement.failures["a", "litert"]
    assert (measurement.rounds, measurement.rounds_s) == (0, {})


# --- the machine ------------------------------------------------------------------------------------------------------


def write_proc(root: Path, cpuinfo: str, stat: str) -> None:
    (root / "proc").mkdir(exist_ok=True)
    (root / "proc/cpuinfo").write_text(cpuinfo)
    (root / "proc/stat").write_text(stat)


def test_the_machine_is_named(tmp_path: Path) -> None:
    processor = "processor\t: {}\nmodel name\t: A Chip @ 3 GHz\nflags\t\t: fpu sse {}\n\n"
    write_proc(tmp_path, processor.format(0, "hypervisor") + processor.format(1, "hypervisor"), "")
    machine = describe_machine({"torch": "2.13.0"}, tmp_path)
    assert (machine.processor, machine.is_virtual, machine.board) == ("A Chip @ 3 GHz", True, None)
    assert "A Chip @ 3 GHz" in format_machine(machine)
    assert "(a virtual machine)" in format_machine(machine)
    write_proc(tmp_path, "processor\t: 0\nCPU part\t: 0xd0b\n", "")
    assert describe_machine({}, tmp_path).processor == machine.machine


def test_the_load_of_others_is_what_this_process_did_not_take(tmp_path: Path) -> None:
    own_s, clock = iter((1.0, 9.0)), ManualClock()
    ticks = os.sysconf("SC_CLK_TCK")
    write_proc(tmp_path, "", f"cpu {ticks} 0 0 0 0 0 0 0 0 0\n")
    meter = LoadMeter(tmp_path, clock, lambda: next(own_s))
    clock.advance(10.0)
    # 12 s of work in 10 s on 2 cores, 8 of them this process's; 1 s was stolen.
    write_proc(tmp_path, "", f"cpu {12 * ticks} {ticks} 0 {7 * ticks} 0 0 0 {ticks} 0 0\n")
    machine = meter.finish(MACHINE)
    assert machine.other_load_cores == pytest.approx(0.4)
    assert machine.stolen_share == pytest.approx(0.05)
    assert format_machine(machine).endswith("other programs took 0.40 cores meanwhile, its hypervisor 5.0% of its time")


@pytest.mark.parametrize("stat", ["", "cpu\n", "cpu a b c d e f g h\n"])
def test_a_kernel_that_does_not_tell_gives_no_load(tmp_path: Path, stat: str) -> None:
    write_proc(tmp_path, "", stat)
    assert LoadMeter(tmp_path).finish(MACHINE) == MACHINE


# --- weights and exports ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ghostnet_100_ratio3", "mobilenetv3_small_100"])
def test_settled_weights_keep_every_layer_at_the_scale_of_a_trained_one(name: str) -> None:
    (network,) = find_networks((name,))
    images = artefact_input(photographs(8, 64))
    settled, fresh = (layer_deviations(network, images, settled=settled) for settled in (True, False))
    assert min(settled) > 0.5
    assert max(settled) < 2.0
    assert min(fresh) < 0.5 or max(fresh) > 2.0, "nothing had to be settled"


def layer_deviations(network: ComparedNetwork, images: torch.Tensor, *, settled: bool) -> list[float]:
    """Standard deviation behind every batch norm."""
    model = fresh_network(network.model, images, num_classes=10, seed=0, options=network.options)
    if not settled:
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.reset_running_stats()
    deviations: list[float] = []
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.register_forward_hook(lambda _module, _inputs, output: deviations.append(float(output.std())))
    with torch.no_grad():
        model(images)
    return deviations


def test_fresh_weights_are_the_same_each_time() -> None:
    images = artefact_input(photographs(2, 32))
    states = [fresh_network("ghostnet_050", images, num_classes=5, seed=0, options={}).state_dict() for _ in range(2)]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_the_cache_key_depends_on_all_that_shapes_an_artefact(tmp_path: Path) -> None:
    exports = ExportStore(Cache(tmp_path), photographs(2, 32))
    tasks = [Task(network, runtime) for network in NETWORKS for runtime in RUNTIMES]
    assert len({exports.key(task) for task in tasks}) == len(tasks)
    other = ExportStore(Cache(tmp_path), photographs(3, 32))
    assert other.key(tasks[0]) != exports.key(tasks[0])
    assert exports.key(tasks[0]) == ExportStore(Cache(tmp_path), photographs(2, 32)).key(tasks[0])


def test_an_export_that_fails_is_a_reason_and_leaves_the_others_alone(tmp_path: Path) -> None:
    told: list[tuple[str, str]] = []
    store = ExportStore(Cache(tmp_path), photographs(2, 32))
    tasks = [
        Task(ComparedNetwork("unknown", "no_such_model", ""), "litert"),
        Task(ComparedNetwork("refused", "ghostnet_050", "", {"nope": 1}), "litert"),
    ]
    outcomes = store.make(tasks, 2, lambda *event: told.append(event))
    assert "'no_such_model' is not a model" in str(outcomes["unknown", "litert"])
    assert "has no option 'nope'" in str(outcomes["refused", "litert"])
    assert sorted(told) == [(f"{name} litert", event) for name in ("refused", "unknown") for event in ("failed", "start")]
    assert [store.find(task) for task in tasks] == [None, None]


# --- outputs ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def comparison() -> Comparison:
    rows = [make_row(network.name, (0.003, 0.004, 0.005)) for network in NETWORKS]
    rows[2] = make_row(NETWORKS[2].name, failure="scale < out of range & lost")
    return make_comparison(*rows)


def test_the_page_is_one_file_for_light_and_dark_a_phone_and_paper(comparison: Comparison) -> None:
    assert check_page(render(comparison)).references, "the plots' own marks are references inside the page"


def test_each_plot_has_a_title_for_screen_readers(comparison: Comparison) -> None:
    page = render(comparison)
    titles = re.findall(r"<svg[^>]*><title>(.*?)</title>", page)
    assert len(titles) == 4
    assert all(f"<h3>{title}</h3>" in page.replace("&#39;", "'") for title in titles)


def test_the_page_says_what_failed_and_what_was_published(comparison: Comparison) -> None:
    page = render(comparison)
    assert "scale &lt; out of range &amp; lost" in page
    assert "73.9 / 91.4 %" in page
    assert "67.5 / – %" in page
    assert "arXiv 1911.11907" in page
    assert "a processor, 2 cores (a virtual machine)" in page
    for verdict in comparison.verdicts:
        assert verdict.outcome in page


def test_a_comparison_without_any_latency_is_drawn_too(tmp_path: Path) -> None:
    write_comparison(tmp_path, make_comparison(make_row(REFERENCE, failure="lost")))
    assert (tmp_path / PNG_NAME).read_bytes().startswith(b"\x89PNG")


def test_what_is_written_is_read_again(comparison: Comparison, tmp_path: Path) -> None:
    write_comparison(tmp_path / "new" / "folder", comparison)
    assert read_comparison(tmp_path / "new" / "folder") == comparison
    assert {path.name for path in (tmp_path / "new" / "folder").iterdir()} == {"compare.json", HTML_NAME, PNG_NAME}


def test_a_missing_or_damaged_comparison_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="make compare writes it"):
        read_comparison(tmp_path)
    (tmp_path / "compare.json").write_text("{")
    (tmp_path / "arm.json").write_text("[]")
    with pytest.raises(ConversionError, match="remove it"):
        read_comparison(tmp_path)
    with pytest.raises(ConversionError, match="remove it"):
        read_arm_counts(tmp_path)


def test_arm_counts_belong_to_the_very_artefact(tmp_path: Path) -> None:
    assert read_arm_counts(tmp_path) == {}
    write_arm_counts(tmp_path, {"sha of ghostnet_100 litert": {"cortex-a72": 70_000_000}, "of another": {"cortex-a72": 1}})
    row = with_arm_counts(make_row("ghostnet_100", (0.1,)), read_arm_counts(tmp_path))
    assert row.artefact("litert").arm_instructions == {"cortex-a72": 70_000_000}
    assert row.artefact("executorch").arm_instructions == {}


def test_the_terminal_shows_figures_failures_claims_and_notes(comparison: Comparison, tmp_path: Path) -> None:
    counted = [with_arm_counts(row, {f"sha of {REFERENCE} litert": {"cortex-a72": 70_100_000}}) for row in comparison.rows]
    with (tmp_path / "out").open("w") as file:
        print_comparison(Console(file=file, width=60), msgspec.structs.replace(comparison, rows=tuple(counted)))
    text = (tmp_path / "out").read_text()
    assert re.search(r"ghostnet_100 +1\.00 M +100\.0 M +1\.00 MB +1\.00 MB +73\.9 % +91\.4 %", text)
    assert re.search(r"ghostnet_100 +4\.00 +3\.20–4\.80 +1\.00x", text)
    assert re.search(r"ghostnet_100 +70\.1 +–", text)
    assert "ghostnet_130, LiteRT: scale < out of range & lost" in text
    assert "claimed 23 against 38 ms, 0.61x" in text
    assert "a note & more" in text


# --- the whole way ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_small_network_from_nothing_to_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [
        "--models",
        "mobilenetv3_small_100",
        "--rounds",
        "3",
        "--out",
        str(tmp_path / "out"),
        "--cache",
        str(tmp_path / "c"),
    ]
    assert main([*flags, "--runtime", "litert", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "out" / "compare.json").read_text())
    comparison = read_comparison(tmp_path / "out")
    (row,) = comparison.rows
    (artefact,) = row.artefacts
    assert artefact.failure is None
    assert artefact.timing is not None
    assert len(artefact.timing.rounds_s) == 3
    assert artefact.timing.ratio is None  # the reference network was left out
    assert 1e6 < (artefact.size_bytes or 0) < 6e6
    assert comparison.machine.versions["litert"].startswith("ai-edge-litert")
    assert all(verdict.outcome == "not measured" for verdict in comparison.verdicts)
    assert "prefers-color-scheme: dark" in (tmp_path / "out" / HTML_NAME).read_text()
    assert main([*flags, "--runtime", "litert"]) == 0
    assert "unchanged" in capsys.readouterr().err


def test_a_run_that_is_stopped_keeps_its_exports_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(self: ExportStore, tasks: list[Task], *_: object) -> None:
        with self._cache.store(self.key(tasks[0])) as folder:
            (folder / "exported.json").write_text(
                '{"file": "model.tflite", "input": {"name": "p", "shape": [1], "dtype": "uint8", "layout": "NHWC"}, "output": '
                '{"name": "l", "shape": [1], "dtype": "int8", "layout": "NC"}, "delegates": 1, "undelegated_ops": [], '
                '"operators": {}}'
            )
        raise KeyboardInterrupt

    monkeypatch.setattr(ExportStore, "make", stop)
    flags = ["--quick", "--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]
    assert main(flags) == 130
    assert "stopped: 1 of 6 exports are kept in" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (("--models", "ghostnet_articel"), 2, "did you mean 'ghostnet_article'?"),
        (("--rounds", "1"), 2, "expected 3 or more"),
        (("--jobs", "0"), 2, "expected 1 or more"),
        (("--calibration", "/nowhere"), 60, "/nowhere: is not a folder"),
    ],
)
def test_a_wrong_flag_is_one_line(
    flags: tuple[str, ...], code: int, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        exit_with_one_line(lambda: main([*flags, "--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")])) == code
    )
    errors = capsys.readouterr().err
    assert words in errors
    assert errors.count("\n") == 1
