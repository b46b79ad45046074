"""PublishedCheckpoint checkpoints, from a hub on this machine: only the hub itself is a fake, the client is the real one."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from converter.weights import published
from converter.weights.published import PUBLISHED, HubFile, PackageFile, find_by_sha256, find_imagenet
from device.core.errors import ConversionError, GhostwattError, MissingDependencyError
from tests.unit.hub import FakeHub

constants = pytest.importorskip("huggingface_hub.constants", reason="needs the hub's client: pip install 'ghostwatt[host]'")

MODEL = "ghostnet_100"
CONTENT = b"weights of a network" * 1000


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub that has the file, and an empty cache."""
    with FakeHub() as fake:
        monkeypatch.setattr(constants, "ENDPOINT", fake.endpoint)
        template = fake.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        entry = msgspec.structs.replace(PUBLISHED[MODEL], sha256=hashlib.sha256(CONTENT).hexdigest())
        monkeypatch.setitem(published.PUBLISHED, MODEL, entry)
        serve(fake, CONTENT)
        yield fake


def serve(hub: FakeHub, content: bytes) -> None:
    place = PUBLISHED[MODEL].place
    assert isinstance(place, HubFile)
    hub.files[f"{place.repository}/resolve/{place.revision}/{place.file}"] = content


def refusal(model: str = MODEL) -> GhostwattError:
    with pytest.raises(GhostwattError) as caught:
        find_imagenet(model)
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_checkpoint_is_fetched_once_and_then_needs_no_connection(hub: FakeHub) -> None:
    path = find_imagenet(MODEL)
    assert path.read_bytes() == CONTENT
    hub.stop()
    asked = len(hub.requests)
    assert find_imagenet(MODEL) == path
    assert len(hub.requests) == asked


def test_without_a_connection_a_line_says_what_to_download_and_how_to_pass_it(hub: FakeHub) -> None:
    hub.stop()
    error = refusal()
    place = PUBLISHED[MODEL].place
    assert isinstance(place, HubFile)
    assert error.reason == "fetch"
    assert error.where == "timm/ghostnet_100.in1k on the Hugging Face hub"
    assert f"/{place.repository}/resolve/{place.revision}/model.safetensors" in error.remedy
    assert "--weights FILE" in error.remedy


def test_offline_mode_is_said_and_asks_nobody(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in refusal().found
    assert hub.requests == []


def test_a_file_that_was_damaged_in_the_cache_is_fetched_again(hub: FakeHub) -> None:
    path = find_imagenet(MODEL)
    path.resolve().write_bytes(CONTENT[:100])
    assert find_imagenet(MODEL).read_bytes() == CONTENT


def test_a_damaged_file_without_a_connection_is_named(hub: FakeHub) -> None:
    path = find_imagenet(MODEL)
    path.resolve().write_bytes(CONTENT[:100])
    hub.stop()
    error = refusal()
    assert error.where == str(path)
    assert error.found.startswith("is damaged, and can't be fetched")


def test_another_file_than_the_published_one_is_refused(hub: FakeHub) -> None:
    serve(hub, b"something else")
    error = refusal()
    assert error.reason == "weights"
    assert hashlib.sha256(b"something else").hexdigest()[:12] in error.found


def test_a_download_that_breaks_off_is_refused(hub: FakeHub) -> None:
    hub.keep_bytes = 500
    assert refusal().reason == "fetch"


def test_a_hub_that_has_no_such_file_says_so(hub: FakeHub) -> None:
    hub.files.clear()
    assert "404" in refusal().found


def test_a_variant_without_weights_names_those_that_have_some() -> None:
    error = refusal("ghostnet_050")
    assert isinstance(error, ConversionError)
    for model in PUBLISHED:
        assert model in error.expected


def test_a_package_that_is_not_installed_says_what_to_install() -> None:
    with pytest.raises(MissingDependencyError, match=r"pip install 'ghostwatt\[lite0\]'"):
        PackageFile("no_such_package", "weights.pth", "lite0", "no-such-package==1").find()


def test_a_damaged_package_says_how_to_install_it_anew(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="--force-reinstall"):
        PackageFile("package", "weights.pth", "lite0", "package==1").find_again(tmp_path)


def test_a_file_is_recognised_by_its_content() -> None:
    for model, entry in PUBLISHED.items():
        assert find_by_sha256(entry.sha256) == (model, entry)
    assert find_by_sha256("0" * 64) is None


def test_every_entry_is_pinned() -> None:
    for entry in PUBLISHED.values():
        assert re.fullmatch("[0-9a-f]{64}", entry.sha256)
        if isinstance(entry.place, HubFile):
            assert re.fullmatch("[0-9a-f]{40}", entry.place.revision)
