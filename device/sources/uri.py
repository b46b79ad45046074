"""From ``--source``'s URI to an open source."""

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
        The scheme in lower case, and everything behind the colon, unchanged.

    Raises:
        UsageError: there is no scheme, or it holds characters that no scheme has.
    """
    scheme, colon, rest = uri.partition(":")
    if not colon or not _SCHEME.fullmatch(scheme):
        # What stands before an @ may be a password.
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
        UsageError: the URI is malformed, or its kind is unknown; says which there are.
        MissingDependencyError: the source needs a package that isn't installed.
        SourceError: the source isn't there, or holds nothing.
    """
    return make_opener(uri, options)()


def make_opener(uri: str, options: SourceOptions | None = None) -> Callable[[], FrameSource]:
    """Makes a function that opens the source that a URI names, and opens it again.

    A source's class may have an ``opener(rest, options)`` that remembers what it opened, so as to find it again elsewhere.

    Args:
        uri: see `open_source`.
        options: likewise.

    Raises:
        UsageError: see `open_source`; the function raises the rest.
        MissingDependencyError: likewise.
    """
    scheme, rest = split_uri(uri)
    source_class = SOURCES.load(scheme)
    chosen = options or SourceOptions()
    if hasattr(source_class, "opener"):
        opener: Callable[[], FrameSource] = source_class.opener(rest, chosen)
        return opener
    return lambda: source_class.from_uri(rest, chosen)


def names_camera(uri: str) -> bool:
    """Tells cameras from files before they are open: the class of a camera's kind has ``is_camera``.

    Raises:
        UsageError: see `open_source`.
        MissingDependencyError: likewise.
    """
    return bool(getattr(SOURCES.load(split_uri(uri)[0]), "is_camera", False))
