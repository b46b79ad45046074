"""Opens the source that a URI (``--source``) names."""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec

from device.core.errors import UsageError
from device.core.plugin import NoOptions
from device.protocols import FrameSource
from device.sources.base import BaseSource, SourceOptions
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

    Args:
        uri: see `open_source`.
        options: see `open_source`.

    Raises:
        UsageError: see `open_source`. The function raises the other errors.
    """
    source_class, rest = find_source_class(uri)
    return source_class.opener(rest, options or SourceOptions())


def names_camera(uri: str) -> bool:
    """Whether a URI names a camera or a stream. Opens nothing.

    Raises:
        UsageError: see `open_source`.
    """
    return find_source_class(uri)[0].is_live


def find_source_class(uri: str) -> tuple[type[BaseSource], str]:
    """Finds the class of a URI's kind; also returns what follows the first colon.

    Raises:
        UsageError: see `open_source`.
    """
    kind, rest = split_uri(uri)
    return SOURCES.load(kind), rest


def option_structs() -> dict[str, type[msgspec.Struct]]:
    """The options that only one kind takes: the kind, which is also the key in the profile's ``camera``, and the struct."""
    options = {kind: SOURCES.load(kind).Options for kind in SOURCES.own_names()}
    return {kind: struct for kind, struct in options.items() if struct is not NoOptions}
