from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from device.bundle import GOLDEN_NAME, LABELS_NAME, MANIFEST_NAME, find_bundle, open_bundle
from device.bundle.selftest import run_self_test
from device.contract import MANIFEST_SCHEMA, OLDEST_MANIFEST_SCHEMA
from device.core.errors import BundleError, SelfTestError
from device.protocols import Array, Image
from tests.unit.bundles import change_manifest, make_profile, write_bundle
from tests.unit.fakes import LABELS, ColourSession


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_bundle(tmp_path / "bundle")
    return tmp_path / "bundle"


def edit_manifest(root: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((root / MANIFEST_NAME).read_bytes())
    edit(manifest)
    (root / MANIFEST_NAME).write_text(json.dumps(manifest))


def refusal(root: Path) -> BundleError:
    with pytest.raises(BundleError) as caught:
        open_bundle(root)
    assert "\n" not in str(caught.value)
    return caught.value


def test_opens_a_whole_bundle(root: Path) -> None:
    bundle = open_bundle(root)
    assert bundle.labels == LABELS
    assert bundle.artefact("litert").file == "model.tflite"
    assert bundle.golden().pixels.shape == (4, 32, 32, 3)


def test_equal_input_gives_equal_bytes(root: Path, tmp_path: Path) -> None:
    write_bundle(tmp_path / "again")
    names = sorted(path.name for path in root.iterdir())
    assert [(root / name).read_bytes() for name in names] == [(tmp_path / "again" / name).read_bytes() for name in names]


def test_missing_folder_says_what_to_do(tmp_path: Path) -> None:
    error = refusal(tmp_path / "nowhere")
    assert error.reason == "missing"
    assert "make convert" in str(error)


@pytest.mark.parametrize("name", [LABELS_NAME, GOLDEN_NAME, "model.tflite"])
def test_a_missing_file_is_named(root: Path, name: str) -> None:
    (root / name).unlink()
    error = refusal(root)
    assert error.reason == "missing"
    assert name in str(error)


@pytest.mark.parametrize("name", [LABELS_NAME, GOLDEN_NAME, "model.tflite"])
def test_a_truncated_file_is_named(root: Path, name: str) -> None:
    (root / name).write_bytes((root / name).read_bytes()[:-1])
    error = refusal(root)
    assert error.reason == "truncated"
    assert name in str(error)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
@given(position=st.floats(0, 1, exclude_max=True), mask=st.integers(1, 255))
def test_any_changed_byte_of_the_artefact_is_noticed(root: Path, position: float, mask: int) -> None:
    path = root / "model.tflite"
    whole = path.read_bytes()
    index = int(position * len(whole))
    path.write_bytes(whole[:index] + bytes([whole[index] ^ mask]) + whole[index + 1 :])
    try:
        assert refusal(root).reason == "tampered"
    finally:
        path.write_bytes(whole)


def test_a_future_schema_asks_for_an_upgrade(root: Path) -> None:
    # A future manifest may have keys that this version doesn't know: the number must be looked at first.
    edit_manifest(root, lambda manifest: manifest.update(schema=MANIFEST_SCHEMA + 1, novelty=True))
    error = refusal(root)
    assert error.reason == "schema"
    assert "upgrade" in str(error)


def test_a_schema_from_before_the_first_asks_for_a_conversion(root: Path) -> None:
    edit_manifest(root, lambda manifest: manifest.update(schema=OLDEST_MANIFEST_SCHEMA - 1))
    error = refusal(root)
    assert error.reason == "schema"
    assert "convert the bundle again" in str(error)


def test_a_bundle_from_before_temperatures_opens_and_rejects_nothing(root: Path) -> None:
    def age(manifest: dict[str, Any]) -> None:
        manifest["schema"] = 1
        del manifest["model"]["temperature"]
        del manifest["profile"]["model"]["unknown_below"]

    edit_manifest(root, age)
    manifest = open_bundle(root).manifest
    assert manifest.model.temperature == 1.0
    assert manifest.profile.model.unknown_below is None


@pytest.mark.parametrize("temperature", [0.0, -1.0, None, "hot"])
def test_a_temperature_that_is_none_is_refused(root: Path, temperature: object) -> None:
    edit_manifest(root, lambda manifest: manifest["model"].update(temperature=temperature))
    error = refusal(root)
    assert error.reason == "malformed"
    assert "temperature" in str(error)


def test_an_unknown_key_is_refused(root: Path) -> None:
    edit_manifest(root, lambda manifest: manifest.update(novelty=True))
    assert "novelty" in str(refusal(root))


def test_a_file_name_that_leads_outside_is_refused(root: Path) -> None:
    edit_manifest(root, lambda manifest: manifest["files"][0].update(name="../labels.txt"))
    assert refusal(root).reason == "malformed"


def test_a_file_without_a_hash_is_refused(root: Path) -> None:
    edit_manifest(root, lambda manifest: manifest["files"].pop())
    assert refusal(root).reason == "malformed"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100, deadline=None)
@given(junk=st.binary(max_size=200))
def test_junk_for_a_manifest_is_refused(root: Path, junk: bytes) -> None:
    (root / MANIFEST_NAME).write_bytes(junk)
    assert refusal(root).reason in {"malformed", "schema"}


def test_bytes_that_are_no_utf8_in_a_manifests_text_are_refused(root: Path) -> None:
    manifest = root / MANIFEST_NAME
    manifest.write_bytes(manifest.read_bytes().replace(b"a board for tests", b"a board\x93for tests"))
    assert refusal(root).reason == "malformed"


def test_golden_images_that_would_fill_the_memory_are_refused(root: Path) -> None:
    np.savez_compressed(root / GOLDEN_NAME, pixels=np.zeros((1, 9000, 9000, 3), np.uint8))
    change_manifest(root)
    assert (root / GOLDEN_NAME).stat().st_size < 1 << 20
    with pytest.raises(BundleError, match="unpacks to 243"):
        open_bundle(root).golden()


@pytest.mark.parametrize("place", [0.2, 0.5])
def test_damaged_golden_images_are_one_line(root: Path, place: float) -> None:
    bundle = open_bundle(root)
    data = bytearray((root / GOLDEN_NAME).read_bytes())
    at = int(place * len(data))
    data[at : at + 16] = b"\xff" * 16
    (root / GOLDEN_NAME).write_bytes(data)
    with pytest.raises(BundleError, match="can't be read"):
        bundle.golden()


def test_a_wrong_number_of_labels_is_refused(root: Path) -> None:
    edit_manifest(root, lambda manifest: manifest["model"].update(num_classes=5))
    error = refusal(root)
    assert error.reason == "labels"
    assert "expected 5" in str(error)


def test_an_artefact_for_another_runtime_lists_what_there_is(root: Path) -> None:
    with pytest.raises(BundleError, match="there are: litert"):
        open_bundle(root).artefact("executorch")


class TestFinding:
    @pytest.fixture
    def build(self, tmp_path: Path) -> Path:
        pi4 = ("raspberrypi,4-model-b",)
        write_bundle(tmp_path / "host", make_profile("host"))
        write_bundle(tmp_path / "a-eco", make_profile("a-eco", inherits="rpi4", compatible=pi4, arch="aarch64"))
        write_bundle(tmp_path / "rpi4", make_profile("rpi4", compatible=pi4, arch="aarch64"))
        return tmp_path

    def test_a_board_is_recognised_by_its_device_tree(self, build: Path) -> None:
        assert find_bundle(build, ("raspberrypi,4-model-b", "brcm,bcm2711"), "aarch64").name == "rpi4"

    def test_a_machine_without_a_device_tree_is_a_host(self, build: Path) -> None:
        assert find_bundle(build, (), "x86_64").name == "host"

    def test_another_board_is_told_what_there_is(self, build: Path) -> None:
        with pytest.raises(BundleError, match=r"raspberrypi,5-model-b \(there are: a-eco, host, rpi4\)"):
            find_bundle(build, ("raspberrypi,5-model-b", "brcm,bcm2712"), "aarch64")

    def test_a_broken_neighbour_is_no_obstacle(self, build: Path) -> None:
        (build / "a-eco" / MANIFEST_NAME).write_text("{")
        assert find_bundle(build, (), "x86_64").name == "host"


def test_self_test_passes_where_the_scores_are_the_hosts(root: Path) -> None:
    assert run_self_test(ColourSession(), open_bundle(root), "litert").images == 4


@pytest.mark.parametrize("drift", [0.01, float("nan")])
def test_self_test_refuses_other_scores(root: Path, drift: float) -> None:
    class Drifting(ColourSession):
        def run(self, pixels: Image) -> Array:
            return np.add(super().run(pixels), drift)

    with pytest.raises(SelfTestError):
        run_self_test(Drifting(), open_bundle(root), "litert")
