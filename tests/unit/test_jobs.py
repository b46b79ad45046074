"""Jobs in processes of their own: their results are kept, their errors come back, and none outlives the run."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

pytest.importorskip("rich", reason="needs the host's packages: make setup")

from converter.work.cache import Cache
from converter.work.jobs import CachedJob, run_jobs
from device.core.errors import ConversionError, GhostwattError, ModelLoadError


class Word(msgspec.Struct, frozen=True):
    """What the fake jobs take."""

    word: str


def write_word(request: Word, out: Path) -> None:
    (out / "word").write_text(request.word)


def fail(request: Word, out: Path) -> None:
    raise ModelLoadError("here", request.word, expected="better", remedy="try again", reason="version")


def break_down(request: Word, out: Path) -> None:
    raise ValueError(f"a long\n  story of {request.word}")


def die(request: Word, out: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def sleep(request: Word, out: Path) -> None:
    Path(request.word).write_text(str(os.getpid()))
    time.sleep(600)


def job(name: str, word: str = "word") -> CachedJob:
    return CachedJob(name, f"key-of-{name}", f"{__name__}:{name}", Word(word))


def run(cache: Cache, *jobs: CachedJob) -> tuple[dict[str, Path | GhostwattError], list[tuple[str, str]]]:
    told: list[tuple[str, str]] = []
    results = {one.title: result for one, result in run_jobs(jobs, cache, 2, lambda *event: told.append(event))}
    return results, told


def test_a_result_is_kept_and_not_made_again(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    results, told = run(cache, job("write_word", "hello"))
    found = results["write_word"]
    assert found == cache.find("key-of-write_word")
    assert isinstance(found, Path)
    assert (found / "word").read_text() == "hello"
    assert told == [("write_word", "start"), ("write_word", "done")]
    again, told = run(cache, job("write_word", "another"))
    assert again == results
    assert told == [("write_word", "cached")]


def test_one_that_fails_or_dies_leaves_the_others_alone(tmp_path: Path) -> None:
    results, told = run(Cache(tmp_path), job("die"), job("fail", "too old"), job("break_down", "woe"), job("write_word"))
    assert isinstance(results["write_word"], Path)
    failed = results["fail"]
    assert isinstance(failed, ModelLoadError)
    assert (str(failed), failed.reason) == ("here: too old; expected better; try again", "version")
    broken = results["break_down"]
    assert isinstance(broken, ConversionError)
    assert "ValueError: a long story of woe" in str(broken)
    assert "ended with SIGKILL" in str(results["die"])
    assert sorted(title for title, event in told if event == "failed") == ["break_down", "die", "fail"]
    assert [path.name for path in tmp_path.iterdir()] == ["key-of-write_word"]


def test_what_is_running_ends_with_the_run(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    jobs = [job("sleep", str(mark)), job("write_word")]
    running = run_jobs(jobs, Cache(tmp_path / "cache"), 2, lambda *_: None)
    next(running)
    deadline_s = time.monotonic() + 60
    while not (mark.exists() and mark.read_text()) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    running.close()
    with pytest.raises(ProcessLookupError):
        os.kill(int(mark.read_text()), 0)


def test_a_stop_by_the_caller_of_the_callback_ends_what_is_running(tmp_path: Path) -> None:
    def interrupt(_: str, event: Any) -> None:
        if event == "start":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(run_jobs([job("sleep", str(tmp_path / "pid"))], Cache(tmp_path / "cache"), 1, interrupt))
