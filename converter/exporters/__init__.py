"""Exporters: a network in, an artefact out, wholly inside one delegate. One file a format; each imports its own toolchain."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray
from torch import fx

from converter.quantise.recipes import Recipe
from device.contract import TensorSpec
from device.contract.tensor import PIXEL_SCALE, PIXEL_ZERO_POINT
from device.core.errors import ConversionError, UsageError, nearest

Pixels = NDArray[np.uint8]

INPUT_LIMITS = (-PIXEL_ZERO_POINT * PIXEL_SCALE, (255 - PIXEL_ZERO_POINT) * PIXEL_SCALE)
"""Of the artefact's input: with 256 steps, a step is a pixel value, and nothing is rounded."""

Step = Callable[[str], None]
"""Told the name of each step as it begins."""


class Exported(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An artefact that was written.

    Attributes:
        file: its name, without the folder.
        input: what a session of it takes.
        output: what a session of it gives.
        delegates: how many delegate partitions the graph has.
        undelegated_ops: names of operators outside of them; empty, or the export would have failed.
        operators: inside of them, as the format calls them: name -> how many.
    """

    file: str
    input: TensorSpec
    output: TensorSpec
    delegates: int
    undelegated_ops: tuple[str, ...]
    operators: dict[str, int]


class Exporter(Protocol):
    """Writes one format. Equal arguments give equal bytes."""

    @property
    def runtime(self) -> str:
        """Name of the runtime that runs the artefact, as `device.core.registry` knows it."""

    @property
    def suffix(self) -> str:
        """Of the artefact's file, without the dot."""

    def export(
        self, network: fx.GraphModule, pixels: Pixels, *, recipe: Recipe, out: Path, step: Step | None = None
    ) -> Exported:
        """Quantises and lowers a network.

        Args:
            network: from `converter.quantise.folding.fold`; left as it is.
            pixels: ``(N, S, S, 3)`` uint8: images to calibrate on; S is the input size.
            recipe: how to quantise.
            out: the artefact's file; written atomically.
            step: told of progress.

        Raises:
            ConversionError: ``undelegated`` where an operator stands outside the delegate, or there are several delegates;
                ``export`` where the toolchain gives up.
        """


def load_exporter(runtime: str) -> Exporter:
    """Imports the exporter of a runtime's format; the import of its toolchain takes seconds.

    Raises:
        UsageError: no exporter of that name.
    """
    if runtime == "executorch":
        from converter.exporters.executorch import ExecuTorchExporter

        return ExecuTorchExporter()
    if runtime == "litert":
        from converter.exporters.litert import LiteRtExporter

        return LiteRtExporter()
    raise UsageError(
        "runtime", f"{runtime!r} has no exporter", expected=nearest(runtime, ("executorch", "litert")), reason="unknown_runtime"
    )


def require_one_delegate(out: Path, delegates: int, undelegated_ops: tuple[str, ...]) -> None:
    """Refuses an artefact that isn't wholly inside one delegate.

    Raises:
        ConversionError: names what stands outside.
    """
    if delegates == 1 and not undelegated_ops:
        return
    outside = ", ".join(undelegated_ops) or "nothing"
    raise ConversionError(
        out.name,
        f"{delegates} delegates, outside of them: {outside}",
        expected="the whole graph inside one XNNPACK delegate",
        remedy="write the operator in a form that XNNPACK has; usual causes: a slice that keeps everything, nn.Hardsigmoid",
        reason="undelegated",
    )
