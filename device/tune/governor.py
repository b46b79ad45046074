"""Sets the processor's frequency governor, and puts back what was there.

References:
    Linux kernel, Documentation/admin-guide/pm/cpufreq.rst: ``scaling_governor`` and ``scaling_available_governors`` of each
    policy, which ``cpuN/cpufreq`` links to.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

from device.core.errors import BenchError, UsageError
from device.core.resources import Resource
from device.machine.sysfs import read_text

BY_HAND = "userspace"
"""The governor that leaves the frequency to a program: there is none here."""


class Governors(Resource):
    """The governors of all cores. ``with`` puts back what was set when it began, whatever ends it.

    Args:
        root: where ``sys`` is.

    Raises:
        UsageError: ``no_governor`` where the machine has no cpufreq.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        nodes = sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor"))
        self._before = {node: governor for node in nodes if (governor := read_text(node))}
        if not self._before:
            raise UsageError("--allow-governor", "this machine has no cpufreq", expected="a governor", reason="no_governor")

    def __enter__(self) -> Self:
        return self

    def available(self) -> tuple[str, ...]:
        """Those that every core offers, in the kernel's order; none that needs a program to set the frequency."""
        offers = [(read_text(node.with_name("scaling_available_governors")) or "").split() for node in self._before]
        return tuple(name for name in offers[0] if name != BY_HAND and all(name in offer for offer in offers))

    def use(self, name: str) -> None:
        """Sets one for every core.

        Raises:
            BenchError: ``permission``, or the kernel took another one.
        """
        for node in self._before:
            _write(node, name)

    def close(self) -> None:
        """Puts back what was there.

        Raises:
            BenchError: it can't be; says what to do by hand. The other cores are put back all the same.
        """
        failure: BenchError | None = None
        for node, name in self._before.items():
            if read_text(node) == name:
                continue
            try:
                _write(node, name)
            except BenchError as error:
                failure = failure or error
        if failure:
            raise failure


def _write(node: Path, name: str) -> None:
    try:
        node.write_text(name)
    except OSError as error:
        raise BenchError(
            str(node),
            f"can't be set to {name} ({error.strerror})",
            remedy="run it with sudo, or leave --allow-governor out",
            reason="permission",
        ) from error
    if read_text(node) != name:
        raise BenchError(str(node), f"is {read_text(node)} after {name} was written", reason="governor")
