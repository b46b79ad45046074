"""Layers that the model families share, in a form that both toolchains lower into one delegate.

State-dict names are those of timm's EfficientNet blocks, so that published checkpoints load strictly.

References:
    * Squeeze-and-excitation: Hu et al., CVPR 2018 (arXiv 1709.01507).
    * Hard sigmoid and hard swish: Howard et al., "Searching for MobileNetV3", ICCV 2019 (arXiv 1905.02244).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def make_divisible(channels: float, divisor: int) -> int:
    """Rounds a channel count to the nearest multiple of ``divisor``, never more than 10 % down.

    Args:
        channels: the wanted channel count, not necessarily whole.
        divisor: the result is a multiple of it, and at least as large.

    References:
        TensorFlow models, ``research/slim/nets/mobilenet/mobilenet.py``, where this rule comes from.
    """
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    if rounded < 0.9 * channels:
        rounded += divisor
    return rounded


class HardSigmoid(nn.Module):
    """``relu6(x + 3) / 6``.

    Spelt out because ``nn.Hardsigmoid`` leaves scalar copies outside the XNNPACK delegate.
    """

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu6(x + 3.0) * (1.0 / 6.0)


class HardSwish(nn.Module):
    """``x / 6 * relu6(x + 3)``, spelt out for the reason given at `HardSigmoid`.

    The order matters: the TFLite converter fuses ``x * (relu6(x + 3) / 6)`` to HARD_SWISH, which XNNPACK lacks in int8.
    """

    def forward(self, x: Tensor) -> Tensor:
        return x * (1.0 / 6.0) * functional.relu6(x + 3.0)


class SqueezeExcite(nn.Module):
    """Scales every channel by a gate computed from the channel means.

    Args:
        channels: number of input and output channels.
        reduced_channels: channels of the bottleneck between the two 1x1 convolutions.
    """

    def __init__(self, channels: int, reduced_channels: int) -> None:
        super().__init__()
        self.conv_reduce = nn.Conv2d(channels, reduced_channels, 1)
        self.act1 = nn.ReLU()
        self.conv_expand = nn.Conv2d(reduced_channels, channels, 1)
        self.gate = HardSigmoid()

    def forward(self, x: Tensor) -> Tensor:
        means = torch.mean(x, dim=(2, 3), keepdim=True)
        return x * self.gate(self.conv_expand(self.act1(self.conv_reduce(means))))  # type: ignore[no-any-return]


class ConvBnAct(nn.Module):
    """Convolution, batch norm, activation; the names are timm's ``ConvBnAct``."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, act: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.act1 = act

    def forward(self, x: Tensor) -> Tensor:
        return self.act1(self.bn1(self.conv(x)))  # type: ignore[no-any-return]


def initialise(model: nn.Module) -> None:
    """Initialises all convolutions and linear layers in place, for training from scratch.

    References:
        He et al., "Delving Deep into Rectifiers", ICCV 2015: normal with the fan-out of the group.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
            nn.init.normal_(module.weight, std=(2.0 / fan_out) ** 0.5)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
