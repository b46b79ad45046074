from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from converter.models import create_model
from converter.train.noise import QuantisationNoise

pytestmark = pytest.mark.host

DB = 10.0 / math.log(10.0)


class Single(nn.Module):
    """One layer behind one ReLU, with an outlier in its input's range on demand."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1, bias=False)
        self.act = nn.ReLU()
        self.classifier = nn.Linear(8, 4, bias=False)
        self.gain = gain
        torch.manual_seed(1)
        nn.init.normal_(self.conv.weight)
        nn.init.normal_(self.classifier.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.mean(self.act(self.conv(x * self.gain)), dim=(2, 3)))  # type: ignore[no-any-return]


def images(outlier: float = 0.0) -> Tensor:
    made = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    made[:, 0, 0, 0] += outlier
    return made


def noise_db(model: nn.Module, batch: Tensor) -> float:
    torch.manual_seed(0)
    return float(QuantisationNoise(model).measure(batch)[1].detach()) * DB


def test_the_logits_are_those_of_the_network_itself() -> None:
    model = create_model("ghostnet_050", num_classes=5).train()
    batch = torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    logits, noise = QuantisationNoise(model, images=8).measure(batch)
    assert logits.shape == (8, 5)
    assert torch.isfinite(noise)
    torch.nn.functional.cross_entropy(logits, torch.zeros(8, dtype=torch.long)).backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_the_noise_is_that_of_eight_bits() -> None:
    """A step of range / 255 has the noise step ** 2 / 12: some 40 dB under a bell curve's power, a little more for the sum."""
    assert -55.0 < noise_db(Single(), images()) < -30.0


def test_scale_does_not_matter_but_outliers_do() -> None:
    plain = noise_db(Single(), images())
    assert noise_db(Single(gain=100.0), images()) == pytest.approx(plain, abs=0.5)
    assert noise_db(Single(), images(outlier=60.0)) > plain + 4.0


def test_training_against_the_noise_lowers_it() -> None:
    torch.manual_seed(0)
    model = Single()
    batch = images(outlier=20.0)
    before = noise_db(model, batch)
    noise, optimiser = QuantisationNoise(model), torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimiser.zero_grad()
        noise.measure(batch)[1].backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    assert noise_db(model, batch) < before - 3.0


def test_dropout_drops_the_same_in_both() -> None:
    """Else the difference between two masks would count as noise, and drown it."""

    class Dropping(Single):
        def forward(self, x: Tensor) -> Tensor:
            x = torch.mean(self.act(self.conv(x)), dim=(2, 3))
            return self.classifier(nn.functional.dropout(x, 0.5, self.training))  # type: ignore[no-any-return]

    assert noise_db(Dropping(), images()) < -30.0
    assert np.isfinite(noise_db(Dropping(), images()))
