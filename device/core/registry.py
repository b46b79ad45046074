"""Lazy tables of implementations: name -> ``module:Class``, and what to install where the import fails.

Nothing is imported until it is asked for by name. Packages from outside add to a table by an entry point in the group
``ghostwatt.<table>`` (``ghostwatt.sources``, ``ghostwatt.runtimes``, ``ghostwatt.meters``, ``ghostwatt.sinks``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from device.core.errors import MissingDependencyError, UsageError, nearest

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint


class Entry(NamedTuple):
    """Where an implementation is, and what to do when its import fails.

    Attributes:
        target: ``module:Class``.
        install_hint: what to do when the import fails.
        needs: keys that a profile must give it.
        takes: keys that a profile may give it.
    """

    target: str
    install_hint: str = ""
    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()


class Registry:
    """One table.

    Args:
        kind: what the table holds, in the singular ("runtime"), for messages and for the entry points' group.
        entries: name -> entry.
    """

    def __init__(self, kind: str, entries: Mapping[str, Entry]) -> None:
        self.kind = kind
        self._entries = dict(entries)

    def own_names(self) -> tuple[str, ...]:
        """Names of our own; looks at nothing that is installed."""
        return tuple(sorted(self._entries))

    def names(self) -> tuple[str, ...]:
        """Every name that `load` takes, ours and outsiders'."""
        return tuple(sorted({point.name for point in self._outsiders()} | set(self._entries)))

    def find_entry(self, name: str) -> Entry | None:
        """What is known of an implementation without importing it; None for an outsider's, and for a name that isn't there."""
        return self._entries.get(name)

    def load(self, name: str) -> Any:
        """Imports an implementation.

        Raises:
            UsageError: no such name; says which there are.
            MissingDependencyError: it needs a package that isn't installed; says which.
        """
        if name in self._entries:
            return self._load_own(name)
        for point in self._outsiders():
            if point.name == name:
                return point.load()
        raise UsageError(
            self.kind, f"{name!r} is not known", expected=nearest(name, self.names()), reason=f"unknown_{self.kind}"
        )

    def _outsiders(self) -> Iterable[EntryPoint]:
        # Imported here: it costs 4 MB, and a board that runs our own has no use for it.
        from importlib.metadata import entry_points

        return entry_points(group=f"ghostwatt.{self.kind}s")

    def _load_own(self, name: str) -> Any:
        entry = self._entries[name]
        module_name, _, attribute = entry.target.partition(":")
        try:
            return getattr(import_module(module_name), attribute)
        except ImportError as error:
            raise MissingDependencyError(
                f"{self.kind} {name}",
                f"can't be imported ({error})",
                remedy=entry.install_hint,
                reason="not_installed",
            ) from error
