"""The exporter to LiteRT's format. `converter.exporters.tflite` lowers; it is imported when it is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from converter.exporters import Exporter, Lowering, Pixels
from converter.quantise.recipes import Recipe

if TYPE_CHECKING:
    from torch import fx


class LiteRtExporter(Exporter):
    """Writes ``.tflite`` files."""

    title = "LiteRT"
    suffix = "tflite"
    packages = ("ai-edge-litert", "ai-edge-quantizer", "litert-torch")

    def lower(self, network: fx.GraphModule, pixels: Pixels, recipe: Recipe) -> Lowering:
        """See `converter.exporters.Exporter`."""
        from converter.exporters import tflite

        return tflite.lower(network, pixels, recipe)
