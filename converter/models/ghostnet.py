"""GhostNet in plain torch, written so that both toolchains lower it into one XNNPACK delegate.

Modules and parameters are named as in timm's ``ghostnet_*`` and in the authors' release, so that checkpoints of both load
with ``strict=True``.

References:
    Han et al., "GhostNet: More Features from Cheap Operations", CVPR 2020 (arXiv 1911.11907), table 1.
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from converter.models.layers import ConvBnAct, SqueezeExcite, initialise, make_divisible
from converter.models.variant import Variant

SE_RATIO = 0.25
HEAD_CHANNELS = 1280
DROPOUT = 0.2


class Bottleneck(NamedTuple):
    """A row of the layer table, before the width multiplier."""

    kernel_size: int
    mid_channels: int
    out_channels: int
    has_se: bool
    stride: int


Table = tuple[tuple[Bottleneck, ...], ...]

# Table 1 of the paper, with the kernel sizes of the authors' release, which the table leaves out.
PAPER_TABLE: Table = (
    (Bottleneck(3, 16, 16, False, 1),),
    (Bottleneck(3, 48, 24, False, 2),),
    (Bottleneck(3, 72, 24, False, 1),),
    (Bottleneck(5, 72, 40, True, 2),),
    (Bottleneck(5, 120, 40, True, 1),),
    (Bottleneck(3, 240, 80, False, 2),),
    (
        Bottleneck(3, 200, 80, False, 1),
        Bottleneck(3, 184, 80, False, 1),
        Bottleneck(3, 184, 80, False, 1),
        Bottleneck(3, 480, 112, True, 1),
        Bottleneck(3, 672, 112, True, 1),
    ),
    (Bottleneck(5, 672, 160, True, 2),),
    (
        Bottleneck(5, 960, 160, False, 1),
        Bottleneck(5, 960, 160, True, 1),
        Bottleneck(5, 960, 160, False, 1),
        Bottleneck(5, 960, 160, True, 1),
    ),
)

# The layer table of an article by which many people know GhostNet. It has 14 bottlenecks, squeeze-excite in the second stage,
# no kernel sizes, then 960, pool, 1280. The rows and kernel sizes here are the paper's, without its last two rows.
ARTICLE_TABLE: Table = (
    (Bottleneck(3, 16, 16, False, 1),),
    (Bottleneck(3, 48, 24, True, 2), Bottleneck(3, 72, 24, True, 1)),
    (Bottleneck(5, 72, 40, False, 2), Bottleneck(5, 120, 40, False, 1)),
    (
        Bottleneck(3, 240, 80, False, 2),
        Bottleneck(3, 200, 80, False, 1),
        Bottleneck(3, 184, 80, False, 1),
        Bottleneck(3, 184, 80, False, 1),
        Bottleneck(3, 480, 112, False, 1),
        Bottleneck(3, 672, 112, False, 1),
    ),
    (Bottleneck(5, 672, 160, False, 2), Bottleneck(5, 960, 160, False, 1), Bottleneck(5, 960, 160, False, 1)),
)


class GhostModule(nn.Module):
    """A convolution that computes a part of its channels, and derives the rest from them by cheap depthwise operations.

    Args:
        in_channels: number of input channels.
        out_channels: number of output channels.
        ratio: the 1x1 convolution computes one channel in ``ratio``.
        dw_size: kernel size of the depthwise ("cheap") operation.
        has_relu: whether both parts end in a ReLU.
    """

    def __init__(self, in_channels: int, out_channels: int, *, ratio: int, dw_size: int, has_relu: bool) -> None:
        super().__init__()
        self.out_channels = out_channels
        primary_channels = math.ceil(out_channels / ratio)
        cheap_channels = primary_channels * (ratio - 1)
        # A slice that keeps everything is exported as `aten.alias`, and each alias splits the delegate in two.
        self.surplus_channels = primary_channels + cheap_channels - out_channels
        self.primary_conv = nn.Sequential(
            nn.Conv2d(in_channels, primary_channels, 1, bias=False),
            nn.BatchNorm2d(primary_channels),
            nn.ReLU() if has_relu else nn.Identity(),
        )
        self.cheap_operation = nn.Sequential(
            nn.Conv2d(
                primary_channels,
                cheap_channels,
                dw_size,
                padding=dw_size // 2,
                groups=primary_channels,
                bias=False,
            ),
            nn.BatchNorm2d(cheap_channels),
            nn.ReLU() if has_relu else nn.Identity(),
        )

    def forward(self, x: Tensor) -> Tensor:
        primary = self.primary_conv(x)
        joined = torch.cat((primary, self.cheap_operation(primary)), dim=1)
        return joined[:, : self.out_channels] if self.surplus_channels else joined


class GhostBottleneck(nn.Module):
    """Expand by a Ghost module, shrink in space if the stride asks for it, gate, project by a Ghost module, add."""

    def __init__(
        self, in_channels: int, mid_channels: int, row: Bottleneck, out_channels: int, *, ratio: int, dw_size: int
    ) -> None:
        super().__init__()
        padding = row.kernel_size // 2
        self.ghost1 = GhostModule(in_channels, mid_channels, ratio=ratio, dw_size=dw_size, has_relu=True)
        self.conv_dw: nn.Module = nn.Identity()
        self.bn_dw: nn.Module = nn.Identity()
        if row.stride > 1:
            self.conv_dw = nn.Conv2d(
                mid_channels, mid_channels, row.kernel_size, row.stride, padding, groups=mid_channels, bias=False
            )
            self.bn_dw = nn.BatchNorm2d(mid_channels)
        self.se: nn.Module = nn.Identity()
        if row.has_se:
            self.se = SqueezeExcite(mid_channels, make_divisible(mid_channels * SE_RATIO, 4))
        self.ghost2 = GhostModule(mid_channels, out_channels, ratio=ratio, dw_size=dw_size, has_relu=False)
        self.shortcut = nn.Sequential()
        if row.stride > 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, in_channels, row.kernel_size, row.stride, padding, groups=in_channels, bias=False),
                nn.BatchNorm2d(in_channels),
                nn.Conv2d(in_channels, out_channels, 1, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        body = self.ghost2(self.se(self.bn_dw(self.conv_dw(self.ghost1(x)))))
        return body + self.shortcut(x)  # type: ignore[no-any-return]


class GhostNet(nn.Module):
    """GhostNet for classification.

    Args:
        table: stages of bottlenecks; `PAPER_TABLE` is the paper's.
        num_classes: number of classes.
        width: multiplier on every channel count but the head's 1280.
        ratio: see `GhostModule`; the paper's networks use 2.
        dw_size: see `GhostModule`; the paper's networks use 3.

    `forward` maps ``(N, 3, H, W)`` float32, normalised RGB, to ``(N, num_classes)`` float32 logits.
    """

    def __init__(self, table: Table, *, num_classes: int = 1000, width: float = 1.0, ratio: int = 2, dw_size: int = 3) -> None:
        super().__init__()
        self.num_classes = num_classes
        channels = make_divisible(16 * width, 4)
        self.conv_stem = nn.Conv2d(3, channels, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.act1 = nn.ReLU()
        stages: list[nn.Module] = []
        for rows in table:
            blocks: list[nn.Module] = []
            for row in rows:
                mid_channels = make_divisible(row.mid_channels * width, 4)
                out_channels = make_divisible(row.out_channels * width, 4)
                blocks.append(GhostBottleneck(channels, mid_channels, row, out_channels, ratio=ratio, dw_size=dw_size))
                channels = out_channels
            stages.append(nn.Sequential(*blocks))
        pooled_channels = make_divisible(table[-1][-1].mid_channels * width, 4)
        stages.append(nn.Sequential(ConvBnAct(channels, pooled_channels, 1, nn.ReLU())))
        self.blocks = nn.Sequential(*stages)
        self.conv_head = nn.Conv2d(pooled_channels, HEAD_CHANNELS, 1)
        self.act2 = nn.ReLU()
        self.classifier = nn.Linear(HEAD_CHANNELS, num_classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.act1(self.bn1(self.conv_stem(x))))
        x = torch.mean(x, dim=(2, 3), keepdim=True)
        x = torch.flatten(self.act2(self.conv_head(x)), 1)
        x = functional.dropout(x, DROPOUT, self.training)
        return self.classifier(x)  # type: ignore[no-any-return]


_OPTIONS = ("ratio", "dw_size")

VARIANTS = {
    "ghostnet_050": Variant(partial(GhostNet, PAPER_TABLE, width=0.5), _OPTIONS),
    "ghostnet_100": Variant(partial(GhostNet, PAPER_TABLE, width=1.0), _OPTIONS),
    "ghostnet_130": Variant(partial(GhostNet, PAPER_TABLE, width=1.3), _OPTIONS),
    "ghostnet_article": Variant(partial(GhostNet, ARTICLE_TABLE, width=1.0), _OPTIONS),
}
"""See `converter.models`."""
