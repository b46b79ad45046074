"""The exporter to ExecuTorch's format. `converter.exporters.pte` lowers; it is imported when it is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from converter.exporters import Exporter, Lowering, Pixels
from converter.quantise.recipes import Recipe

if TYPE_CHECKING:
    from torch import fx


class ExecuTorchExporter(Exporter):
    """Writes ``.pte`` files."""

    title = "ExecuTorch"
    suffix = "pte"
    packages = ("executorch", "torchao")

    def lower(self, network: fx.GraphModule, pixels: Pixels, recipe: Recipe) -> Lowering:
        """See `converter.exporters.Exporter`."""
        from converter.exporters import pte

        return pte.lower(network, pixels, recipe)
