"""The commands' flags, taken from the parsers that the commands themselves build.

``python -m tests.surface.commands device`` runs each command as a person would, stops it where it begins to read its flags, and
prints what its parser knows.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import runpy
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

PROJECT = Path(__file__).parents[2]

COMMANDS = {
    "device.bench": "device.bench",
    "device.bundle": "device.bundle",
    "device.calibrate": "device.calibrate",
    "device.doctor": "device.doctor",
    "device.runtimes.native.build": "device.runtimes.native.build",
    "device.report": "device.report",
    "device.run": "device.run",
    "device.service": "device.service",
    "device.tune": "device.tune",
    "converter": "converter",
    "converter.compare": "converter.compare",
    "converter.evaluate.confidence": "converter.evaluate.confidence",
    "converter.deploy": "converter.deploy",
    "converter.evaluate": "converter.evaluate",
    "converter.data.pack": "converter.data.pack",
    "converter.report.page": "converter.report.page",
    "converter.compare.recipes": "converter.compare.recipes",
    "converter.data.samples": "converter.data.samples",
    "converter.evaluate.sensitivity": "converter.evaluate.sensitivity",
    "converter.train": "converter.train",
}
"""What users type after ``python -m`` -> the module that is run for it."""

TRIED = ("-1", "0", "0.5", "1", "2", "1000", "1e400", "nan", "", "x", "1.5x", "127.0.0.1:80", "a=b")
"""What flags with a type of our own are given, to see what they take."""


def collect(side: str) -> list[str]:
    """The facts of all commands of ``device`` or ``converter``, from a process of their own, where nothing depends on whose."""
    # What a default takes from the environment must not be this machine's.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("GHOSTWATT_", "XDG_", "COLUMNS"))}
    environment |= {"HOME": "/home/somebody", "GHOSTWATT_STATE": "/state", "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-m", __name__, side]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, cwd=PROJECT, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


class _Captured(BaseException):
    """Carries a parser out of its command; not an `Exception`, so that no command takes it for a failure."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        super().__init__()
        self.parser = parser


def _capture(parser: argparse.ArgumentParser, *_: object, **__: object) -> NoReturn:
    raise _Captured(parser)


def find_parser(module: str) -> argparse.ArgumentParser:
    """Runs a command until it parses its flags, and returns its parser."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of modules that are already imported
            runpy.run_module(module, run_name="__main__", alter_sys=True)
    except _Captured as caught:
        return caught.parser
    raise AssertionError(f"{module} parses no flags")


def describe_parser(title: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    """One line a flag or positional, in the order of `argparse` for positionals, sorted for flags; help isn't told."""
    yield f"{title}: prog={parser.prog!r}"
    groups = {
        id(action): f"{'required ' if group.required else ''}group {'|'.join(_names(each) for each in group._group_actions)}"
        for group in parser._mutually_exclusive_groups
        for action in group._group_actions
    }
    positional = [action for action in parser._actions if not action.option_strings]
    optional = sorted((action for action in parser._actions if action.option_strings), key=_names)
    for action in (*positional, *optional):
        if isinstance(action, argparse._SubParsersAction):
            yield f"{title} {action.dest}: subcommands required={action.required} metavar={action.metavar!r}"
            for name, inner in sorted(action.choices.items()):
                yield from describe_parser(f"{title} {name}", inner)
        else:
            told = groups.get(id(action))
            yield f"{title} {_names(action)}: {_describe(action)}{f'; {told}' if told else ''}"


def _names(action: argparse.Action) -> str:
    return ",".join(action.option_strings) or action.dest


def _describe(action: argparse.Action) -> str:
    kind = type(action).__name__.strip("_").removesuffix("Action") if type(action).__module__ == "argparse" else "own"
    facts = [f"{kind} dest={action.dest}"]
    # Whether a positional with nargs is required isn't the same in all versions of argparse; nargs itself tells it.
    if action.required and action.option_strings:
        facts.append("required")
    if action.nargs not in (None, 0):
        facts.append(f"nargs={action.nargs!r}")
    if action.type is not None:
        facts.append(f"type={_describe_type(action.type)}")
    if action.default not in (None, argparse.SUPPRESS) and kind not in ("StoreTrue", "Help", "Version"):
        facts.append(f"default={_plain(action.default)}")
    if action.const is not None and kind not in ("StoreTrue", "StoreFalse"):
        facts.append(f"const={_plain(action.const)}")
    if action.choices is not None:
        facts.append(f"choices={_plain(tuple(action.choices))}")
    if action.metavar is not None:
        facts.append(f"metavar={action.metavar!r}")
    return " ".join(facts)


def _plain(value: object) -> str:
    """A value as it is on every machine and with every Python."""
    if value == platform.machine():
        return "<this machine's>"
    if isinstance(value, Path):
        return str(value).replace(str(PROJECT), "<project>")
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_plain, value))}]"
    return repr(value)


def _describe_type(kind: Any) -> str:
    if kind in (int, float, str, Path):
        return str(kind.__name__)
    return f"[takes {' '.join(repr(text) for text in TRIED if _takes(kind, text))}]"


def _takes(kind: Callable[[str], object], text: str) -> bool:
    with contextlib.suppress(Exception):
        kind(text)
        return True
    return False


def main(side: str) -> None:
    """Prints the facts of one side's commands."""
    for method in ("parse_args", "parse_known_args"):
        setattr(argparse.ArgumentParser, method, _capture)
    for title, module in COMMANDS.items():
        if title.partition(".")[0] == side:
            sys.argv = [title]
            print("\n".join(describe_parser(title, find_parser(module))))


if __name__ == "__main__":
    main(sys.argv[1])
