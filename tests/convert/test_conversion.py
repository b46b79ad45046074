"""The whole way from the shipped checkpoint to labels, as a person goes it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from converter import stages
from converter.__main__ import main
from converter.data.photographs import read_pack, spread, write_pack
from converter.data.samples import main as unpack_samples
from converter.evaluate.verify import require_floor
from converter.profiles import load_profile
from converter.quantise.recipes import find_recipe
from converter.report.page import main as write_page_again
from converter.work import jobs
from device.bundle import Bundle, open_bundle
from device.core.errors import ConversionError
from tests.conftest import Share
from tests.daemon.conftest import PROJECT, daemon, environment
from tests.surface.collect_converter import artefact_hashes, artefact_sizes, host_facts
from tests.surface.golden import Golden

pytestmark = [pytest.mark.host, pytest.mark.slow]

HASHED = {"model.tflite", "model.pte", "labels.txt", "golden.npz", "report.json"}
TIMED = {"report.html", "latency.json"}
"""Hold how long an inference took on the host, which is never twice the same."""


def convert(out: Path, cache: Path, *flags: str) -> Bundle:
    assert main(["--profile", "rpi4", "--out", str(out), "--cache", str(cache), *flags]) == 0
    return open_bundle(out)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("conversion")


@pytest.fixture(scope="module")
def bundle(share: Share) -> Bundle:
    """The shipped weights, lowered once for all tests here."""
    folder = share("conversion", lambda folder: convert(folder / "rpi4", folder / "cache"))
    return open_bundle(folder / "rpi4")


@pytest.fixture(scope="module")
def cache(bundle: Bundle) -> Path:
    """Where that conversion left what it lowered."""
    return bundle.root.with_name("cache")


@pytest.fixture(scope="module")
def photographs(work: Path) -> Path:
    assert unpack_samples(["--out", str(work / "photographs")]) == 0
    return work / "photographs"


def test_the_bundle_holds_all_that_a_board_needs(bundle: Bundle) -> None:
    assert {path.name for path in bundle.root.iterdir()} == HASHED | TIMED | {"manifest.json"}
    assert bundle.manifest.profile.name == "rpi4"
    assert {entry.name for entry in bundle.manifest.files} == HASHED
    assert bundle.manifest.model.parameters > 3e6


def test_the_artefacts_are_the_same_bytes_as_ever(bundle: Bundle, golden: Golden) -> None:
    golden.check_on("artefacts", host_facts(), artefact_sizes(bundle.root), artefact_hashes(bundle.root))


@pytest.mark.parametrize("runtime", ["litert", "executorch"])
def test_each_artefact_is_one_delegate_and_above_its_recipes_floor(bundle: Bundle, runtime: str) -> None:
    artefact = bundle.artefact(runtime)
    assert artefact.delegates == 1
    assert artefact.undelegated_ops == ()
    floor = find_recipe(artefact.recipe)
    assert artefact.sqnr_db >= floor.min_sqnr_db
    assert artefact.top1_agreement >= floor.min_top1_agreement
    assert artefact.input.dtype == "uint8"
    assert artefact.input.layout == "NHWC"


def test_the_report_says_what_the_manifest_says(bundle: Bundle) -> None:
    report: dict[str, Any] = json.loads(bundle.path("report.json").read_bytes())
    assert report["artefacts"][0]["artefact"]["runtime"] == bundle.manifest.profile.runtime.name
    page = bundle.path("report.html").read_text()
    for item in report["artefacts"]:
        artefact = bundle.artefact(item["artefact"]["runtime"])
        assert item["artefact"]["sqnr_db"] == artefact.sqnr_db
        assert item["size_bytes"] == bundle.path(artefact.file).stat().st_size
        assert artefact.file in page
        assert sum(item["operators"].values()) > 100
        assert item["judgement"]["score"]["images"] == report["verification"]["images"]
    layers = [layer["sqnr_db"] for layer in report["sensitivity"]["layers"]]
    assert len(layers) > 50
    assert layers == sorted(layers)


def test_the_page_is_small_and_made_again_from_what_lies_beside_it(bundle: Bundle, work: Path) -> None:
    root = work / "page"
    shutil.copytree(bundle.root, root)
    page = (root / "report.html").read_bytes()
    assert len(page) < 300_000
    (root / "report.html").unlink()
    assert write_page_again(["--bundle", str(root)]) == 0
    assert (root / "report.html").read_bytes() == page
    before = (root / "latency.json").read_bytes()
    assert write_page_again(["--bundle", str(root), "--measure"]) == 0
    assert (root / "latency.json").read_bytes() != before
    assert open_bundle(root).manifest_sha256 == bundle.manifest_sha256


def test_a_second_conversion_lowers_nothing_and_gives_the_same_bytes(
    bundle: Bundle, cache: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("an export that was cached was run again")

    monkeypatch.setattr(jobs, "_start", refuse)
    assert convert(work / "again", cache).manifest_sha256 == bundle.manifest_sha256


def test_a_conversion_from_nothing_gives_the_same_bytes(bundle: Bundle, work: Path) -> None:
    again = convert(work / "cold", work / "other-cache")
    assert {entry.name: entry.sha256 for entry in again.manifest.files} == {
        entry.name: entry.sha256 for entry in bundle.manifest.files
    }
    assert again.manifest_sha256 == bundle.manifest_sha256


def request(cache: Path, out: Path) -> stages.Request:
    return stages.Request(
        profile=load_profile("rpi4"),
        model="ghostnet_100",
        weights="clothing",
        out=out,
        cache=cache / "artefacts",
    )


def test_the_weights_temperature_travels_into_the_bundle(
    bundle: Bundle, cache: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = work / "tempered"
    original = stages.load(request(cache, out))
    assert bundle.manifest.model.temperature == original.checkpoint.card.temperature
    card = msgspec.structs.replace(original.checkpoint.card, temperature=1.75)
    tempered = msgspec.structs.replace(original, checkpoint=msgspec.structs.replace(original.checkpoint, card=card))
    key = stages.export_key
    monkeypatch.setattr(stages, "load", lambda _: tempered)
    # What was lowered for the other tests will do: no temperature is in it.
    monkeypatch.setattr(stages, "export_key", lambda runtime, asked, _, images: key(runtime, asked, original, images))
    stages.convert(request(cache, out), lambda *_: None)
    found = open_bundle(out)
    assert found.manifest.model.temperature == 1.75
    assert found.manifest.profile.model.unknown_below == load_profile("rpi4").profile.model.unknown_below
    for runtime, logits in bundle.golden().logits.items():
        assert (found.golden().logits[runtime] == logits).all()


def test_an_interrupted_conversion_leaves_the_old_bundle_whole(
    bundle: Bundle, cache: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = work / "interrupted"
    shutil.copytree(bundle.root, out)

    def interrupt(_: Path) -> Bundle:
        raise KeyboardInterrupt

    monkeypatch.setattr(stages, "open_bundle", interrupt)
    with pytest.raises(KeyboardInterrupt):
        stages.convert(request(cache, out), lambda *_: None)
    assert open_bundle(out).manifest_sha256 == bundle.manifest_sha256
    assert not list(work.glob(".interrupted*"))


def test_an_artefact_below_the_recipes_floor_fails_the_conversion(
    bundle: Bundle, cache: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = work / "refused"
    demanding = msgspec.structs.replace(find_recipe("int8"), min_sqnr_db=90.0)
    monkeypatch.setattr(
        stages, "require_floor", lambda runtime, found, _, layers: require_floor(runtime, found, demanding, layers)
    )
    with pytest.raises(ConversionError, match=r"SQNR .* expected at least 90\.0 dB") as caught:
        stages.convert(request(cache, out), lambda *_: None)
    assert caught.value.reason == "accuracy"
    report = json.loads(bundle.path("report.json").read_bytes())
    assert report["sensitivity"]["layers"][0]["name"] in str(caught.value)
    assert not out.exists()


def test_both_runtimes_name_the_same_clothes_without_torch_in_80_mb(bundle: Bundle, photographs: Path, tmp_path: Path) -> None:
    labels: dict[str, list[str]] = {}
    for runtime in ("litert", "executorch"):
        predictions = tmp_path / f"{runtime}.jsonl"
        run = daemon(
            "--bundle", bundle.root, "--source", f"images:{photographs}", "--runtime", runtime, "--threads", "1",
            "--predictions", predictions, "--json",
        )  # fmt: skip
        assert run.code == 0, run.err
        assert run.summary["peak_rss_bytes"] < 80e6
        labels[runtime] = [json.loads(line)["labels"][0] for line in predictions.read_text().splitlines()]
        self_test = daemon("--bundle", bundle.root, "--runtime", runtime, "--threads", "1", "--self-test")
        assert self_test.code == 0, self_test.err
    pairs = list(zip(labels["litert"], labels["executorch"], strict=True))
    assert len(pairs) == 128
    # Each runtime's rounding differs: both may leave fp32 by the recipe's share, on other photographs.
    assert sum(one == other for one, other in pairs) >= 0.98 * len(pairs)


def command(*flags: str) -> subprocess.CompletedProcess[str]:
    arguments = [sys.executable, "-m", "converter", *flags]
    return subprocess.run(
        arguments, capture_output=True, text=True, check=False, cwd=PROJECT, env=environment() | {"COLUMNS": "200"}
    )


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (("--profile", "rpi44"), 10, "did you mean 'rpi4'?"),
        (("--profile", "rpi4", "--model", "gohstnet_100"), 10, "did you mean 'ghostnet_100'?"),
        (("--profile", "rpi4", "--weights", "clothign"), 60, "did you mean 'clothing'?"),
        (("--profile", "rpi4", "--model", "ghostnet_130"), 60, "there are: none"),
        (("--profile", "rpi4", "--calibration", "/nowhere"), 60, "/nowhere: is not a folder"),
        ((), 2, "--profile is missing"),
    ],
)
def test_a_wrong_name_lists_the_right_ones(flags: tuple[str, ...], code: int, words: str) -> None:
    done = command(*flags)
    assert done.returncode == code, done.stderr
    assert words in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_the_list_names_profiles_models_and_weights() -> None:
    out = command("--list").stdout
    for word in ("rpi4-eco", "android-arm64", "mobilenetv3_small_100", "clothing"):
        assert word in out


def test_a_pack_gives_equal_bytes_and_keeps_its_halves_apart(photographs: Path, tmp_path: Path) -> None:
    from converter.data.datasets import read_labelled_folder
    from device.contract import Preprocessing

    folder = read_labelled_folder(photographs)
    halves = {"calibration": spread(folder.samples, 20), "verification": folder.samples[-20:]}
    for name in ("one.zip", "two.zip"):
        write_pack(tmp_path / name, halves, folder.classes)
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    images = read_pack(tmp_path / "one.zip", "verification", folder.classes, Preprocessing(input_px=64))
    assert images.pixels.shape == (20, 64, 64, 3)
    assert images.labels is not None
    assert set(images.labels.tolist()) <= set(range(len(folder.classes)))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not really", b"\xff" * 64])
def test_a_damaged_pack_is_refused(tmp_path: Path, content: bytes) -> None:
    from device.contract import Preprocessing

    path = tmp_path / "pack.zip"
    path.write_bytes(content)
    with pytest.raises(ConversionError):
        read_pack(path, "calibration", ("a",), Preprocessing())
