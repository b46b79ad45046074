"""A bundle that was just switched to proves itself, or is taken back."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping

from device.bundle.store import BundleStore
from device.core.errors import BundleError, GhostwattError, InferenceError, ModelLoadError, SelfTestError, SourceError
from device.daemon.pipeline import Observer, StageTimes
from device.protocols import Prediction

PROVEN_AFTER = 30
"""Results that a bundle must give on real frames: a second of a camera's."""


class TrialObserver:
    """Counts results on their way to the loop's observer, and ends the trial after enough of them.

    Args:
        observer: is told everything.
        store: of the bundle that runs.
        profile: likewise.
        on_proven: told in one line.
    """

    def __init__(self, observer: Observer, store: BundleStore, profile: str, on_proven: Callable[[str], None]) -> None:
        self._observer = observer
        self._store = store
        self._profile = profile
        self._on_proven = on_proven
        self._left = PROVEN_AFTER

    def on_frame(self, prediction: Prediction, times: StageTimes) -> None:
        """Counts, and passes on."""
        self._observer.on_frame(prediction, times)
        self._left -= 1
        if self._left == 0:
            self._on_proven(self._confirm())

    def _confirm(self) -> str:
        try:
            self._store.confirm(self._profile)
        except BundleError as error:
            # It runs well all the same, and may prove itself again after the next start.
            return f"the new bundle of {self._profile} gave {PROVEN_AFTER} results, which can't be noted: {error}"
        return f"the new bundle of {self._profile} has proven itself: {PROVEN_AFTER} results"

    def on_bad_frame(self, source: str, error: SourceError) -> None:
        """Passes on."""
        self._observer.on_bad_frame(source, error)

    def on_tick(self, dropped: Mapping[str, int]) -> None:
        """Passes on."""
        self._observer.on_tick(dropped)


@contextlib.contextmanager
def trial_of(store: BundleStore | None, profile: str) -> Iterator[None]:
    """Takes a new bundle back where it doesn't load, drifts or fails; whatever else ends the run isn't the bundle's fault.

    A process that dies without a word never comes to the end of this: its start stays counted.

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
