"""The networks of the comparison, and their published accuracy.

The article's claims are about its own layer table. It is compared with the paper's three widths, with a network for each value
of the Ghost options, and with both MobileNetV3.
"""

from __future__ import annotations

import msgspec

from device.core.errors import UsageError, nearest

GHOSTNET_PAPER = "Han et al., GhostNet, CVPR 2020 (arXiv 1911.11907)"
MOBILENETV3_README = "TensorFlow models, research/slim/nets/mobilenet/README.md; network: Howard et al. (arXiv 1905.02244)"

REFERENCE = "ghostnet_100"
"""The network that latency ratios are to."""

ARTICLE = "ghostnet_article"
RIVAL = "mobilenetv3_small_100"
"""The network that, by the article, GhostNet is faster than."""


class PublishedAccuracy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Published fp32 accuracy on ImageNet's validation images, not measured here.

    Attributes:
        top1: share, 0..1.
        top5: share, 0..1; None if it wasn't published.
        source: of the figures.
    """

    top1: float
    top5: float | None
    source: str


class ComparedNetwork(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A network of the comparison.

    Attributes:
        name: of the row.
        model: as `converter.models` knows it.
        description: for people.
        options: of the model; empty for the paper's.
        published: None if no accuracy was published.
    """

    name: str
    model: str
    description: str
    options: dict[str, int] = {}
    published: PublishedAccuracy | None = None


NETWORKS = (
    ComparedNetwork(
        "ghostnet_050",
        "ghostnet_050",
        "GhostNet 0.5x, the paper's table",
        published=PublishedAccuracy(0.662, 0.866, GHOSTNET_PAPER),
    ),
    ComparedNetwork(
        "ghostnet_100",
        "ghostnet_100",
        "GhostNet 1.0x, the paper's table",
        published=PublishedAccuracy(0.739, 0.914, GHOSTNET_PAPER),
    ),
    ComparedNetwork(
        "ghostnet_130",
        "ghostnet_130",
        "GhostNet 1.3x, the paper's table",
        published=PublishedAccuracy(0.757, 0.927, GHOSTNET_PAPER),
    ),
    ComparedNetwork("ghostnet_article", "ghostnet_article", "GhostNet 1.0x, the article's table as reconstructed"),
    ComparedNetwork("ghostnet_100_ratio3", "ghostnet_100", "GhostNet 1.0x, ratio 3", {"ratio": 3}),
    ComparedNetwork("ghostnet_100_ratio4", "ghostnet_100", "GhostNet 1.0x, ratio 4", {"ratio": 4}),
    ComparedNetwork("ghostnet_100_dw1", "ghostnet_100", "GhostNet 1.0x, cheap operations of 1x1", {"dw_size": 1}),
    ComparedNetwork("ghostnet_100_dw5", "ghostnet_100", "GhostNet 1.0x, cheap operations of 5x5", {"dw_size": 5}),
    ComparedNetwork(
        "mobilenetv3_small_100",
        "mobilenetv3_small_100",
        "MobileNetV3-Small",
        published=PublishedAccuracy(0.675, None, MOBILENETV3_README),
    ),
    ComparedNetwork(
        "mobilenetv3_large_100",
        "mobilenetv3_large_100",
        "MobileNetV3-Large",
        published=PublishedAccuracy(0.752, None, MOBILENETV3_README),
    ),
)

QUICK = (REFERENCE, ARTICLE, RIVAL)
"""The networks that the article's claims need."""


def find_networks(names: tuple[str, ...]) -> tuple[ComparedNetwork, ...]:
    """Finds networks by their names; gives them in the order of the table.

    Raises:
        UsageError: a name is unknown; says which there are.
    """
    known = {network.name: network for network in NETWORKS}
    for name in names:
        if name not in known:
            raise UsageError(
                "--models", f"{name!r} is not in the comparison", expected=nearest(name, known), reason="unknown_network"
            )
    return tuple(network for network in NETWORKS if network.name in names)
