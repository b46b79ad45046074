"""MobileNetV3: the network that GhostNet is compared with.

Modules and parameters are named as in timm's ``mobilenetv3_*_100``.

References:
    Howard et al., "Searching for MobileNetV3", ICCV 2019 (arXiv 1905.02244), tables 1 and 2.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from converter.models.layers import ConvBnAct, HardSwish, SqueezeExcite, initialise, make_divisible
from converter.models.variant import Variant

SE_RATIO = 0.25
DROPOUT = 0.2


class BlockRow(NamedTuple):
    """A row of the layer table. A row whose ``mid_channels`` is its input's is a depthwise-separable block."""

    kernel_size: int
    mid_channels: int
    out_channels: int
    has_se: bool
    has_hard_swish: bool
    stride: int


class MobileNetTable(NamedTuple):
    """The whole network: stages of rows, the last 1x1 convolution, the head."""

    stages: tuple[tuple[BlockRow, ...], ...]
    last_channels: int
    head_channels: int


LARGE_TABLE = MobileNetTable(
    stages=(
        (BlockRow(3, 16, 16, False, False, 1),),
        (BlockRow(3, 64, 24, False, False, 2), BlockRow(3, 72, 24, False, False, 1)),
        (BlockRow(5, 72, 40, True, False, 2), BlockRow(5, 120, 40, True, False, 1), BlockRow(5, 120, 40, True, False, 1)),
        (
            BlockRow(3, 240, 80, False, True, 2),
            BlockRow(3, 200, 80, False, True, 1),
            BlockRow(3, 184, 80, False, True, 1),
            BlockRow(3, 184, 80, False, True, 1),
        ),
        (BlockRow(3, 480, 112, True, True, 1), BlockRow(3, 672, 112, True, True, 1)),
        (BlockRow(5, 672, 160, True, True, 2), BlockRow(5, 960, 160, True, True, 1), BlockRow(5, 960, 160, True, True, 1)),
    ),
    last_channels=960,
    head_channels=1280,
)

SMALL_TABLE = MobileNetTable(
    stages=(
        (BlockRow(3, 16, 16, True, False, 2),),
        (BlockRow(3, 72, 24, False, False, 2), BlockRow(3, 88, 24, False, False, 1)),
        (BlockRow(5, 96, 40, True, True, 2), BlockRow(5, 240, 40, True, True, 1), BlockRow(5, 240, 40, True, True, 1)),
        (BlockRow(5, 120, 48, True, True, 1), BlockRow(5, 144, 48, True, True, 1)),
        (BlockRow(5, 288, 96, True, True, 2), BlockRow(5, 576, 96, True, True, 1), BlockRow(5, 576, 96, True, True, 1)),
    ),
    last_channels=576,
    head_channels=1024,
)


def _activation(row: BlockRow) -> nn.Module:
    return HardSwish() if row.has_hard_swish else nn.ReLU()


def _gate(row: BlockRow) -> nn.Module:
    if not row.has_se:
        return nn.Identity()
    return SqueezeExcite(row.mid_channels, make_divisible(row.mid_channels * SE_RATIO, 8))


def _depthwise(channels: int, row: BlockRow) -> nn.Conv2d:
    padding = row.kernel_size // 2
    return nn.Conv2d(channels, channels, row.kernel_size, row.stride, padding, groups=channels, bias=False)


class DepthwiseSeparable(nn.Module):
    """Depthwise, gate, 1x1: the first block of the network."""

    def __init__(self, in_channels: int, row: BlockRow) -> None:
        super().__init__()
        self.has_skip = row.stride == 1 and in_channels == row.out_channels
        self.conv_dw = _depthwise(in_channels, row)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.act1 = _activation(row)
        self.se = _gate(row)
        self.conv_pw = nn.Conv2d(in_channels, row.out_channels, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(row.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act1(self.bn1(self.conv_dw(x)))
        y = self.bn2(self.conv_pw(self.se(y)))
        return x + y if self.has_skip else y  # type: ignore[no-any-return]


class MobileNetBlock(nn.Module):
    """1x1 up, depthwise, gate, 1x1 down."""

    def __init__(self, in_channels: int, row: BlockRow) -> None:
        super().__init__()
        self.has_skip = row.stride == 1 and in_channels == row.out_channels
        self.conv_pw = nn.Conv2d(in_channels, row.mid_channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(row.mid_channels)
        self.act1 = _activation(row)
        self.conv_dw = _depthwise(row.mid_channels, row)
        self.bn2 = nn.BatchNorm2d(row.mid_channels)
        self.act2 = _activation(row)
        self.se = _gate(row)
        self.conv_pwl = nn.Conv2d(row.mid_channels, row.out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(row.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act1(self.bn1(self.conv_pw(x)))
        y = self.se(self.act2(self.bn2(self.conv_dw(y))))
        y = self.bn3(self.conv_pwl(y))
        return x + y if self.has_skip else y  # type: ignore[no-any-return]


class MobileNetV3(nn.Module):
    """MobileNetV3 for classification, width 1.0.

    Args:
        table: `LARGE_TABLE` or `SMALL_TABLE`.
        num_classes: number of classes.

    `forward` maps ``(N, 3, H, W)`` float32, normalised RGB, to ``(N, num_classes)`` float32 logits.
    """

    def __init__(self, table: MobileNetTable, *, num_classes: int = 1000) -> None:
        super().__init__()
        self.num_classes = num_classes
        channels = 16
        self.conv_stem = nn.Conv2d(3, channels, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.act1 = HardSwish()
        stages: list[nn.Module] = []
        for rows in table.stages:
            blocks: list[nn.Module] = []
            for row in rows:
                is_first = not stages and not blocks
                blocks.append(DepthwiseSeparable(channels, row) if is_first else MobileNetBlock(channels, row))
                channels = row.out_channels
            stages.append(nn.Sequential(*blocks))
        stages.append(nn.Sequential(ConvBnAct(channels, table.last_channels, 1, HardSwish())))
        self.blocks = nn.Sequential(*stages)
        self.conv_head = nn.Conv2d(table.last_channels, table.head_channels, 1)
        self.act2 = HardSwish()
        self.classifier = nn.Linear(table.head_channels, num_classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.act1(self.bn1(self.conv_stem(x))))
        x = torch.mean(x, dim=(2, 3), keepdim=True)
        x = torch.flatten(self.act2(self.conv_head(x)), 1)
        x = functional.dropout(x, DROPOUT, self.training)
        return self.classifier(x)  # type: ignore[no-any-return]


VARIANTS = {
    "mobilenetv3_large_100": Variant(partial(MobileNetV3, LARGE_TABLE)),
    "mobilenetv3_small_100": Variant(partial(MobileNetV3, SMALL_TABLE)),
}
"""See `converter.models`."""
