"""Sets the processor's frequency governor, and restores it afterwards.

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
"""The governor for which a program must set the frequency; no program here does."""


class Governors(Resource):
    """The governors of all cores. As a context manager, restores the previous governors at the end.

    Args:
        root: folder that holds ``sys``.

    Raises:
        UsageError: ``no_governor`` if the machine has no cpufreq.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        nodes = sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor"))
        self._before = {node: governor for node in nodes if (governor := read_text(node))}
        if not self._before:
            raise UsageError("--allow-governor", "this machine has no cpufreq", expected="a governor", reason="no_governor")

    def __enter__(self) -> Self:
        return self

    def available(self) -> tuple[str, ...]:
        """Governors that every core offers, in the kernel's order, except `BY_HAND`."""
        offers = [(read_text(node.with_name("scaling_available_governors")) or "").split() for node in self._before]
        return tuple(name for name in offers[0] if name != BY_HAND and all(name in offer for offer in offers))

    def use(self, name: str) -> None:
        """Sets the governor of every core.

        Raises:
            BenchError: ``permission``, or ``governor`` if the kernel chose another one.
        """
        for node in self._before:
            _write(node, name)

    def close(self) -> None:
        """Restores the previous governors.

        Raises:
            BenchError: a core's governor can't be restored. The other cores are restored nevertheless.
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
            remedy="run with sudo, or leave out --allow-governor",
            reason="permission",
        ) from error
    if read_text(node) != name:
        raise BenchError(str(node), f"reads {read_text(node)} after {name} was written", reason="governor")
