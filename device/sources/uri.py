"""Opens the source that a URI (``--source``) names."""

from __future__ import annotations

import re
from collections.abc import Callable

from device.core.errors import UsageError
from device.protocols import FrameSource
from device.sources.base import SourceOptions
from device.sources.registry import SOURCES

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")


def split_uri(uri: str) -> tuple[str, str]:
    """Splits a source's URI at its first colon.

    Returns:
        The scheme in lower case, and everything after the colon, unchanged.

    Raises:
        UsageError: there is no scheme, or it has invalid characters.
    """
    scheme, colon, rest = uri.partition(":")
    if not colon or not _SCHEME.fullmatch(scheme):
        # Text before an @ may contain a password.
        shown = re.sub(r".*@", "***@", uri, flags=re.DOTALL)
        raise UsageError(
            "source",
            f"{shown!r} names no kind of source",
            expected="KIND:REST, such as images:photos, video:clip.mp4 or synthetic:640x480@30",
            reason="malformed_uri",
        )
    return scheme.lower(), rest


def open_source(uri: str, options: SourceOptions | None = None) -> FrameSource:
    """Opens the source that a URI names.

    Args:
        uri: ``KIND:REST``; the kinds are those of `device.sources.registry.SOURCES`.
        options: what to ask of the source beyond the URI.

    Raises:
        UsageError: the URI is malformed, or its kind is unknown; lists the known kinds.
        MissingDependencyError: the source needs a package that isn't installed.
        SourceError: the source doesn't exist, or is empty.
    """
    return make_opener(uri, options)()


def make_opener(uri: str, options: SourceOptions | None = None) -> Callable[[], FrameSource]:
    """Returns a function that opens the source that a URI names, as often as it is called.

    A source's class may have an ``opener(rest, options)`` that remembers what it opened, to find it again elsewhere.

    Args:
        uri: see `open_source`.
        options: see `open_source`.

    Raises:
        UsageError: see `open_source`. The function raises the other errors.
        MissingDependencyError: see `open_source`.
    """
    scheme, rest = split_uri(uri)
    source_class = SOURCES.load(scheme)
    chosen = options or SourceOptions()
    if hasattr(source_class, "opener"):
        opener: Callable[[], FrameSource] = source_class.opener(rest, chosen)
        return opener
    return lambda: source_class.from_uri(rest, chosen)


def names_camera(uri: str) -> bool:
    """Whether a URI names a camera, by the ``is_camera`` of its source's class. Opens nothing.

    Raises:
        UsageError: see `open_source`.
        MissingDependencyError: see `open_source`.
    """
    return bool(getattr(SOURCES.load(split_uri(uri)[0]), "is_camera", False))
