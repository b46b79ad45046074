from __future__ import annotations

from pathlib import Path

import pytest

from device.bundle.store import MAX_STARTS, BundleStore
from device.core.errors import BundleError, InferenceError, SourceError
from device.daemon.trial import PROVEN_AFTER, Trial, trial_of
from device.protocols import Event, Note
from tests.unit.records import frame
from tests.unit.test_bundle_store import install, make_bundle, run_well


@pytest.fixture
def store(tmp_path: Path) -> BundleStore:
    """A store whose second bundle is on trial, and started."""
    store = BundleStore(tmp_path / "state")
    store.switch(install(store, make_bundle(tmp_path, 1)))
    run_well(store)
    store.switch(install(store, make_bundle(tmp_path, 2)))
    store.start("host")
    return store


def test_a_bundle_has_proven_itself_after_enough_results_and_is_told_of_once(store: BundleStore) -> None:
    said: list[Event] = []
    trial = Trial(store, "host", said.append)
    for index in range(PROVEN_AFTER - 1):
        trial.write(frame(index))
    assert store.is_on_trial("host")
    for index in range(50):
        trial.write(frame(index))
    assert not store.is_on_trial("host")
    assert len(said) == 1


def test_a_disk_that_cannot_be_written_does_not_stop_the_loop(store: BundleStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise BundleError("/var/lib/ghostwatt", "can't be written", reason="store")

    monkeypatch.setattr(BundleStore, "confirm", refuse)
    monkeypatch.setattr(BundleStore, "excuse", refuse)
    said: list[Event] = []
    trial = Trial(store, "host", said.append)
    with trial_of(store, "host"):
        for index in range(PROVEN_AFTER):
            trial.write(frame(index))
    (note,) = said
    assert isinstance(note, Note)
    assert "can't be noted" in note.line


def test_a_failing_network_takes_the_bundle_back(store: BundleStore, capsys: pytest.CaptureFixture[str]) -> None:
    before = store.start("host").root
    with pytest.raises(InferenceError), trial_of(store, "host"):
        raise InferenceError("session", "broken", reason="failed")
    assert store.start("host").root != before
    assert "the new bundle failed (broken)" in capsys.readouterr().err


def test_a_failure_after_the_trial_takes_nothing_back(store: BundleStore) -> None:
    store.confirm("host")
    before = store.start("host").root
    with pytest.raises(InferenceError), trial_of(store, "host"):
        raise InferenceError("session", "broken", reason="failed")
    assert store.start("host").root == before


@pytest.mark.parametrize("error", [SourceError("camera", "gone", reason="ended"), KeyboardInterrupt()])
def test_what_is_not_the_bundles_fault_is_not_counted(store: BundleStore, error: BaseException) -> None:
    for _ in range(2 * MAX_STARTS):
        with pytest.raises(type(error)), trial_of(store, "host"):
            raise error
        assert store.start("host").on_trial
