from __future__ import annotations

import torch
from torch import nn

from converter.models import create_model
from converter.ranges import RangePenalty


class Layers(nn.Module):
    """One layer that int8 rounds once, behind its ReLU."""

    def __init__(self, largest: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1, bias=False)
        self.relu = nn.ReLU()
        self.conv.weight.data = torch.tensor([1.0, largest]).reshape(2, 1, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.relu(self.conv(x))  # type: ignore[no-any-return]


def test_a_value_far_out_costs_more() -> None:
    torch.manual_seed(0)
    images = torch.rand(4, 1, 8, 8)
    spike = images.clone()
    spike[0, 0, 0, 0] = 50.0
    _, usual = RangePenalty(Layers(1.0)).measure(images)
    _, far = RangePenalty(Layers(1.0)).measure(spike)
    assert far > usual + 0.5


def test_the_penalty_is_the_logarithm_of_range_over_deviation() -> None:
    images = torch.linspace(0, 1, 64).reshape(1, 1, 8, 8)
    logits, penalty = RangePenalty(Layers(2.0)).measure(images)
    torch.testing.assert_close(penalty, torch.log(torch.tensor(2.0) / logits.std()))


def test_following_the_gradient_narrows_the_ranges_of_a_real_network() -> None:
    torch.manual_seed(0)
    model = create_model("ghostnet_050", num_classes=3)
    ranges = RangePenalty(model)
    images = torch.rand(4, 3, 64, 64)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    penalties = []
    for _ in range(8):
        _, penalty = ranges.measure(images)
        optimiser.zero_grad()
        penalty.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        penalties.append(float(penalty.detach()))
    assert penalties[-1] < penalties[0] - 0.05
