"""Base class of everything that is opened and closed."""

from __future__ import annotations

from types import TracebackType
from typing import Self


class Resource:
    """Base of sources, sessions, meters and sinks: a context manager that closes. Subclasses override `close`, which may be
    called twice.
    """

    def close(self) -> None:
        """Releases everything."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
