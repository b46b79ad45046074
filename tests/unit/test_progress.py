"""Progress of long work: forecasts from what tasks took, and a line for each task where there is no terminal."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("rich", reason="needs the host's packages: make setup")

from rich.console import Console

from converter.work.progress import Forecast, TaskProgress


def test_the_time_left_follows_what_tasks_took() -> None:
    now = [0.0]
    forecast = Forecast(["cached", "one", "two", "three"], 2, {}, 45.0, lambda: now[0])
    assert forecast.left_s() == pytest.approx(4 * 45.0 / 2)
    assert forecast.finish("cached") is None
    forecast.start("one")
    now[0] = 20.0
    assert forecast.finish("one") == pytest.approx(20.0)
    forecast.start("two")
    now[0] = 25.0
    assert forecast.left_s() == pytest.approx((15.0 + 20.0) / 2)
    assert forecast.finished == 2


def test_what_a_task_took_before_counts_more_than_what_others_take() -> None:
    forecast = Forecast(["one", "two"], 1, {"two": 7.0}, 45.0, lambda: 0.0)
    assert forecast.left_s() == pytest.approx(45.0 + 7.0)


def test_planned_tasks_are_counted(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as file:
        planned = ["a litert", "b litert", "c litert"]
        with TaskProgress(tmp_path / "memory", planned, console=Console(file=file)) as progress:
            progress.report("a litert", "cached")
            progress.report("b litert", "start")
            progress.report("b litert", "failed")
    lines = (tmp_path / "log").read_text().splitlines()
    assert re.fullmatch(r" 1 of 3  a litert +unchanged", lines[0])
    assert re.fullmatch(r" 2 of 3  b litert +0\.0 s  failed, about 0 s left", lines[1])


def test_durations_are_remembered_unless_the_run_fails(tmp_path: Path) -> None:
    memory = tmp_path / "new" / "durations.json"

    def run(*titles: str) -> list[str]:
        with (tmp_path / "log").open("w") as file, TaskProgress(memory, console=Console(file=file)) as progress:
            for title in titles:
                progress.report(title, "start")
                progress.report(title, "done")
                if title == "bad":
                    raise KeyboardInterrupt
        return (tmp_path / "log").read_text().splitlines()

    assert re.fullmatch(r"load +0\.0 s", run("load")[0])
    before = memory.read_bytes()
    assert b'"load"' in before
    with pytest.raises(KeyboardInterrupt):
        run("bad")
    assert memory.read_bytes() == before
    memory.write_text("damaged")
    run("export litert")
    assert b'"export litert"' in memory.read_bytes()
