"""Frames from image files: a folder, a glob, or one file."""

from __future__ import annotations

import glob
import os
from pathlib import Path
from typing import ClassVar, NoReturn, Self

from device.core.errors import SourceError, UsageError
from device.core.plugin import Needs, import_package
from device.protocols import Frame
from device.sources.base import OPENCV, BaseSource, SourceOptions
from device.sources.pace import Pace, choose_rate_fps

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
"""Suffixes of the files that are read from a folder, in upper or lower case. A file named explicitly may have any suffix."""


class ImagesSource(BaseSource):
    """Image files in order of their paths, read as fast as they are asked for or at a rate.

    Files are listed once, when the source opens, and decoded when they are due. With a rate the source is live: files fall
    due on the clock from the first `read` on, and those that a slow reader misses aren't opened, but count in `Frame.index`.

    Args:
        pattern: a folder (searched recursively), a file, or a glob, in which ``**`` matches any folders.
        options: ``loop`` and ``clock`` are used, and with ``realtime`` also ``rate_fps``.

    Raises:
        UsageError: the pattern is empty, or ``realtime`` is set without a rate.
        SourceError: ``missing`` if nothing is there, ``empty`` if there is no image.
    """

    needs: ClassVar[Needs] = OPENCV
    is_recorded: ClassVar[bool] = True

    def __init__(self, pattern: str, options: SourceOptions | None = None) -> None:
        options = options or SourceOptions()
        uri = f"images:{pattern}"
        rate_fps = choose_rate_fps(uri, options.rate_fps) if options.realtime else None
        import_package("device.image.opencv", self.needs, "source images")
        super().__init__(uri, is_live=options.realtime, rate_fps=rate_fps)
        self._clock = options.clock
        self._pace = None if rate_fps is None else Pace(uri, rate_fps, self._clock, self._require_open)
        self._loop = options.loop
        self._files = list_images(pattern)
        self._next = 0

    @classmethod
    def from_uri(cls, rest: str, options: SourceOptions) -> Self:
        """Opens ``images:REST``."""
        return cls(rest, options)

    def read(self, timeout_s: float) -> Frame | None:
        """Decodes the next file, once it is due. See `FrameSource.read`."""
        self._require_open()
        if self._is_over():
            return None
        due_ns: int | None = None
        if self._pace is not None:
            self._next, due_ns = self._pace.wait(self._next, timeout_s)
            if self._is_over():
                return None
        path = self._files[self._next % len(self._files)]
        index = self._next
        self._next += 1
        try:
            from device.image.opencv import decode_image

            pixels = decode_image(path)
        except SourceError as error:
            # A file that was removed after the listing costs one frame, like a damaged one, and doesn't end the run.
            raise SourceError(
                error.where, error.found, expected=error.expected, remedy=error.remedy, reason="decode"
            ) from error
        stamp_ns = self._clock.now_ns() if due_ns is None else due_ns
        return Frame(pixels=pixels, timestamp_ns=stamp_ns, index=index, origin=_printable(path))

    def _is_over(self) -> bool:
        return not self._loop and self._next >= len(self._files)


def list_images(pattern: str) -> list[Path]:
    """Finds the images that a pattern names, sorted, without duplicates.

    Raises:
        UsageError: the pattern is empty.
        SourceError: ``missing`` if nothing is there, ``empty`` if there is no image.
    """
    if not pattern:
        raise UsageError(
            "source", "images: names no folder", expected="images:DIR, images:FILE or images:'GLOB'", reason="malformed_uri"
        )
    # A file's name may contain brackets: a path that exists is never treated as a glob.
    found = [pattern] if os.path.lexists(pattern) else glob.glob(pattern, recursive=True)
    if not found and not glob.has_magic(pattern):
        raise SourceError(pattern, "no such file or folder", expected="a folder of images, or a glob", reason="missing")
    images: set[Path] = set()
    for name in found:
        path = Path(name)
        images.update(_walk(path) if path.is_dir() else [path] if path.is_file() else [])
    if not images:
        raise SourceError(
            pattern, "no image in it", expected=f"files ending in {' '.join(sorted(IMAGE_SUFFIXES))}", reason="empty"
        )
    return sorted(images)


def _walk(folder: Path) -> list[Path]:
    # A leading dot marks a hidden file, or the companion that macOS leaves beside each photograph on an SD card.
    return [
        Path(parent, name)
        for parent, _, names in os.walk(folder, onerror=_refuse)
        for name in names
        if Path(name).suffix.lower() in IMAGE_SUFFIXES and not name.startswith(".")
    ]


def _refuse(error: OSError) -> NoReturn:
    raise SourceError(
        str(error.filename), error.strerror or str(error), expected="a folder that can be read", reason="missing"
    ) from error


def _printable(path: Path) -> str:
    # A name that isn't UTF-8 can't be written as JSON.
    return os.fsencode(path).decode(errors="replace")
