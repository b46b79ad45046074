"""What a family of networks declares of each of its variants."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import nn


class Variant(NamedTuple):
    """A network that can be built by its name.

    Attributes:
        build: takes ``num_classes`` and the options, and gives the network with fresh weights.
        options: names of the whole numbers that ``build`` takes beside ``num_classes``.
    """

    build: Callable[..., nn.Module]
    options: tuple[str, ...] = ()
