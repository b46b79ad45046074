"""Runs inside the booted board, by its installed software: starts the daemon, kills it while it writes, and prints what its
store held before and holds after.

    kills.py BUNDLE FOLDER KILLS SEED

Prints a JSON object a line: one for each kill, and one for a last run that ends by itself. Judges nothing: that is the host's
part.
"""

from __future__ import annotations

import contextlib
import json
import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from device.telemetry.read import Store

SOURCE = "synthetic:32x32@50"
START_LIMIT_S = 120.0

# After the first rows of a process, so long at most: many commits.
HOLD_S = 1.0

# Every fourth kill comes at any moment around the end of a start: before the store is opened, while it is, or just after.
START_KILL_EVERY = 4
START_SHARES = (0.5, 1.2)

START_POLL_S = 0.2
POLL_S = 0.02

# Tables whose rows never change once they are written, and how their keys are called.
KEYS = {"run": ("run_id",), "interval": ("run_id", "timestamp_ns"), "source_interval": ("run_id", "timestamp_ns", "source")}

Rows = dict[str, str]


def main(bundle: str, folder: str, kills: str, seed: str) -> None:
    round_ = Round(bundle, Path(folder), random.Random(int(seed)))
    for number in range(int(kills)):
        print(json.dumps(round_.kill(in_start=number % START_KILL_EVERY == START_KILL_EVERY - 1)), flush=True)
    print(json.dumps(round_.end()), flush=True)


class Round:
    """One store, and all that was ever seen in it."""

    def __init__(self, bundle: str, folder: Path, chance: random.Random) -> None:
        self._bundle = bundle
        self._store = folder / "telemetry.sqlite"
        self._errors = folder / "errors.txt"
        self._chance = chance
        self._seen: Rows = {}
        self._start_s = 0.0

    def kill(self, *, in_start: bool) -> dict[str, Any]:
        with self._daemon() as daemon:
            began_s = time.monotonic()
            if in_start:
                time.sleep(self._start_s * self._chance.uniform(*START_SHARES))
                flushed: Rows = {}
            else:
                flushed = self._watch(daemon, began_s)
            daemon.kill()
            after_s = time.monotonic() - began_s
            exit_code = daemon.wait()
        self._seen |= flushed
        return {"in_start": in_start, "after_s": after_s, "flushed": len(flushed)} | self._look(exit_code)

    def end(self) -> dict[str, Any]:
        """Goes on with the store once more, and ends as it should."""
        with self._daemon("--frames", "5") as daemon:
            exit_code = daemon.wait(START_LIMIT_S)
        return {"in_start": False} | self._look(exit_code)

    @contextlib.contextmanager
    def _daemon(self, *flags: str) -> Iterator[subprocess.Popen[bytes]]:
        command = [sys.executable, "-I", "-B", "-m", "device.run", "--bundle", self._bundle, "--source", SOURCE]
        command += ["--runtime", "litert", "--threads", "1", "--telemetry", str(self._store), *flags]
        with self._errors.open("wb") as errors:
            daemon = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
            try:
                yield daemon
            finally:
                daemon.kill()
                daemon.wait()

    def _watch(self, daemon: subprocess.Popen[bytes], began_s: float) -> Rows:
        """Waits until rows of this process are in the store, and then a random while; gives those that are there at its end."""
        until_s = began_s + START_LIMIT_S
        flushed: Rows = {}
        while time.monotonic() < until_s and daemon.poll() is None:
            found = self._read_new()
            if found and not flushed:
                self._start_s = time.monotonic() - began_s
                until_s = time.monotonic() + self._chance.uniform(0.0, HOLD_S)
            flushed = found or flushed
            time.sleep(POLL_S if flushed else START_POLL_S)
        return flushed

    def _read_new(self) -> Rows:
        """Rows of runs that were never seen before."""
        known = {key for key in self._seen if key.startswith("run ")}
        try:
            runs = [key for key in read(self._store, "run") if key not in known]
            return read(self._store, "interval", runs[-1].removeprefix("run ")) if runs else {}
        except sqlite3.OperationalError:
            return {}  # There is no file yet, or it has no tables.

    def _look(self, exit_code: int) -> dict[str, Any]:
        rows: Rows = {}
        for table in KEYS:
            rows |= read(self._store, table)
        lost = sorted(key for key in self._seen if key not in rows)
        changed = sorted(key for key, row in self._seen.items() if rows.get(key, row) != row)
        self._seen |= rows
        with Store(self._store) as store:
            runs = [run.run_id for run in store.list_runs()]
            extents = [store.find_extent(run) for run in runs]
        return {
            "exit_code": exit_code,
            "lost": lost,
            "changed": changed,
            "integrity": check(self._store),
            "rows": sum(key.startswith("interval ") for key in rows),
            "rows_by_our_reader": sum(extent.rows for extent in extents if extent),
            "runs": len(runs),
            "files": sorted(path.name for path in self._store.parent.iterdir()),
            "stderr": self._errors.read_text(),
        }


def read(store: Path, table: str, run_id: str | None = None) -> Rows:
    """Rows by their keys. Only reads: what the next daemon finds is what the kill left."""
    with opened(store) as connection:
        where, values = ("WHERE run_id = ?", (run_id,)) if run_id else ("", ())
        found = connection.execute(f"SELECT * FROM {table} {where}", values)
        return {f"{table} " + " ".join(str(row[name]) for name in KEYS[table]): repr(tuple(row)) for row in found}


def check(store: Path) -> str:
    with opened(store) as connection:
        return str(connection.execute("PRAGMA integrity_check").fetchone()[0])


@contextlib.contextmanager
def opened(store: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True, timeout=10.0)) as connection:
        connection.row_factory = sqlite3.Row
        yield connection


if __name__ == "__main__":
    main(*sys.argv[1:])
