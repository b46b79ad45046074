"""A bundle that was just switched to proves itself, or is taken back."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from device.bundle.store import BundleStore
from device.core.errors import BundleError, GhostwattError, InferenceError, ModelLoadError, SelfTestError
from device.protocols import Emit, FrameDone, Kinds, Note

PROVEN_AFTER = 30
"""Results that a bundle must give on real frames: a second of a camera's."""


class Trial:
    """Counts results, and ends the trial after `PROVEN_AFTER` of them.

    Args:
        store: of the bundle that runs.
        profile: of the bundle.
        emit: takes a `Note` when the trial ends.
    """

    takes: Kinds = (FrameDone,)

    def __init__(self, store: BundleStore, profile: str, emit: Emit) -> None:
        self._store = store
        self._profile = profile
        self._emit = emit
        self._left = PROVEN_AFTER

    def write(self, _event: FrameDone) -> None:
        """Counts a result."""
        self._left -= 1
        if self._left == 0:
            self._emit(Note(self._confirm()))

    def _confirm(self) -> str:
        try:
            self._store.confirm(self._profile)
        except BundleError as error:
            # It works all the same, and can prove itself after the next start.
            return f"the new bundle of {self._profile} gave {PROVEN_AFTER} results, which can't be noted: {error}"
        return f"the new bundle of {self._profile} has proven itself: {PROVEN_AFTER} results"


@contextlib.contextmanager
def trial_of(store: BundleStore | None, profile: str) -> Iterator[None]:
    """Takes a new bundle back where it doesn't load, drifts or fails; nothing else that ends the run is the bundle's fault.

    A process that is killed never leaves this context: its start stays counted.

    Args:
        store: of a bundle on trial; None for any other.
        profile: of the bundle.
    """
    try:
        yield
    except (ModelLoadError, InferenceError, SelfTestError) as error:
        if store is not None and store.is_on_trial(profile):
            _take_back(store, profile, error)
        raise
    except (GhostwattError, KeyboardInterrupt):
        _excuse(store, profile)
        raise
    else:
        _excuse(store, profile)


def _excuse(store: BundleStore | None, profile: str) -> None:
    if store is not None:
        with contextlib.suppress(BundleError):  # on a disk that can't be written no start was counted either
            store.excuse(profile)


def _take_back(store: BundleStore, profile: str, error: GhostwattError) -> None:
    try:
        bundle = store.rollback(profile)
    except BundleError as nothing:
        print(f"warning: {nothing}", file=sys.stderr)
    else:
        print(f"warning: the new bundle failed ({error.found}): back to {bundle.manifest_sha256[:12]}", file=sys.stderr)
