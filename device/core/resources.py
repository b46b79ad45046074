"""The context-manager half of everything that opens."""

from __future__ import annotations

from types import TracebackType
from typing import Self


class Resource:
    """Base of sources, sessions, meters and sinks: ``with`` closes. Subclasses override `close`, and allow it twice."""

    def close(self) -> None:
        """Releases everything."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
