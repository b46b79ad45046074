"""What all seams share: arrays, and whatever must be closed."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]
Image = NDArray[np.uint8]


class Closeable(Protocol):
    """Something that holds a device, a file or memory until it is closed."""

    def close(self) -> None:
        """Releases everything. May be called twice, and from another thread than the one that reads."""

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...
