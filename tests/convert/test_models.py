from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from converter.models import classifier_name, create_model, model_names
from converter.models.counting import count_macs, count_parameters
from converter.models.layers import make_divisible
from converter.weights.checkpoints import load_strictly
from device.core.errors import UsageError

pytestmark = pytest.mark.host

STATE_DICTS = Path(__file__).parent.parent / "fixtures" / "state_dicts"


@pytest.mark.parametrize(
    ("name", "parameters_m", "macs_m"),
    [
        # GhostNet: table 6 of arXiv 1911.11907; MobileNetV3: arXiv 1905.02244, table 3.
        ("ghostnet_050", 2.6, 42),
        ("ghostnet_100", 5.2, 141),
        ("ghostnet_130", 7.3, 226),
        ("mobilenetv3_large_100", 5.4, 219),
        ("mobilenetv3_small_100", 2.5, 56),
    ],
)
def test_parameters_and_macs_are_the_papers(name: str, parameters_m: float, macs_m: float) -> None:
    model = create_model(name, num_classes=1000)
    assert count_parameters(model) / 1e6 == pytest.approx(parameters_m, rel=0.02)
    assert count_macs(model, input_px=224) / 1e6 == pytest.approx(macs_m, rel=0.03)


def test_efficientnet_lite0_is_the_published_one() -> None:
    """4.7 M parameters and 407 M multiply-adds by TensorFlow's count (README of its TPU repository), which has more in it."""
    model = create_model("efficientnet_lite0", num_classes=1000)
    assert count_parameters(model) == 4_652_008
    assert count_macs(model, input_px=224) / 1e6 == pytest.approx(407, rel=0.06)


@pytest.mark.parametrize("name", model_names())
def test_the_classifier_is_the_layer_that_gives_the_scores(name: str) -> None:
    model = create_model(name, num_classes=7)
    classifier = model.get_submodule(classifier_name(model))
    assert isinstance(classifier, nn.Linear)
    assert classifier.out_features == 7


def test_the_articles_table_has_14_bottlenecks_and_gates_in_its_second_stage() -> None:
    names = [name for name, _ in create_model("ghostnet_article", num_classes=10).named_modules()]
    bottlenecks = {name.removesuffix(".ghost1") for name in names if name.endswith(".ghost1")}
    gated = {name.removesuffix(".se.conv_reduce") for name in names if name.endswith(".se.conv_reduce")}
    assert len(bottlenecks) == 14
    assert {name.split(".")[1] for name in gated} == {"1"}


@pytest.mark.parametrize("name", model_names())
def test_every_model_gives_a_score_a_class(name: str) -> None:
    model = create_model(name, num_classes=7).eval()
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 7)


@pytest.mark.parametrize("ratio", [2, 3, 4])
@pytest.mark.parametrize("dw_size", [1, 3, 5])
def test_ghost_options(ratio: int, dw_size: int) -> None:
    model = create_model("ghostnet_050", num_classes=3, ratio=ratio, dw_size=dw_size).eval()
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 3)


@pytest.mark.parametrize("path", sorted(STATE_DICTS.glob("*.txt")), ids=lambda path: path.stem)
def test_published_checkpoints_fit_strictly(path: Path) -> None:
    """Names and shapes of the public state dicts, read off the package that publishes them."""
    lines = [line.split() for line in path.read_text().splitlines() if not line.startswith("#")]
    published = {name: torch.zeros([int(size) for size in shape[0].split("x")]) for name, *shape in lines}
    load_strictly(create_model(path.stem, num_classes=1000), published, path.name)


def test_an_unknown_model_or_option_lists_the_known() -> None:
    with pytest.raises(UsageError, match="did you mean 'ghostnet_100'"):
        create_model("gohstnet_100", num_classes=2)
    for name in ("efficientnet_lite0", "mobilenetv3_small_100"):
        with pytest.raises(UsageError, match="no option 'ratio'"):
            create_model(name, num_classes=2, ratio=3)


@pytest.mark.parametrize(
    ("channels", "divisor", "expected"), [(8.0, 4, 8), (11.0, 8, 16), (10.0, 8, 16), (33.0, 8, 32), (1.0, 8, 8)]
)
def test_make_divisible(channels: float, divisor: int, expected: int) -> None:
    assert make_divisible(channels, divisor) == expected
