"""Exporters: a network in, an artefact out, wholly inside one delegate.

An exporter is a class that declares its format, and imports its toolchain only when it lowers. To add one: its module, a line
in `EXPORTERS`, a test. A package from outside adds one by the entry point group ``ghostwatt.exporters``, under the name of the
runtime that runs its artefacts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from converter.exporters.quiet import quiet
from converter.quantise.recipes import Precision, Recipe, find_recipe
from converter.work.cache import installed_versions
from device.contract import TensorSpec
from device.contract.tensor import PIXEL_SCALE, PIXEL_ZERO_POINT
from device.core.durable import write_durably
from device.core.errors import ConversionError, MissingDependencyError
from device.core.plugin import Needs, Plugin
from device.core.registry import Registry

if TYPE_CHECKING:
    from torch import fx

Pixels = NDArray[np.uint8]

INPUT_LIMITS = (-PIXEL_ZERO_POINT * PIXEL_SCALE, (255 - PIXEL_ZERO_POINT) * PIXEL_SCALE)
"""Range of an artefact's input. Each of its 256 steps is one pixel value, so the input loses nothing by quantisation."""

EXPORTERS = Registry(
    "exporter",
    {
        "executorch": "converter.exporters.executorch:ExecuTorchExporter",
        "litert": "converter.exporters.litert:LiteRtExporter",
    },
)
"""Name of the runtime, as `device.runtimes.registry.RUNTIMES` has it -> the exporter to its format."""

_LOWERING_PACKAGES = ("numpy", "torch")  # that every exporter uses


class Exported(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An artefact that was written.

    Attributes:
        file: its name, without the folder.
        input: what a session of it takes.
        output: what a session of it gives.
        delegates: number of delegate partitions in the graph.
        undelegated_ops: names of the operators outside of them; empty, or the export would have failed.
        operators: operators inside of them, as the format calls them: name -> count.
    """

    file: str
    input: TensorSpec
    output: TensorSpec
    delegates: int
    undelegated_ops: tuple[str, ...]
    operators: dict[str, int]


class Lowering(NamedTuple):
    """A network as its toolchain lowered it.

    Attributes:
        serialise: gives the bytes of the artefact; not called if an operator stands outside the delegate.
        output: what a session of the artefact gives.
        delegates: see `Exported`.
        undelegated_ops: see `Exported`.
        operators: see `Exported`.
    """

    serialise: Callable[[], bytes]
    output: TensorSpec
    delegates: int
    undelegated_ops: tuple[str, ...]
    operators: dict[str, int]


class Exporter(Plugin, ABC):
    """Writes one format. Equal arguments give equal bytes.

    A subclass declares the class variables and implements `lower`. Its module must import without its toolchain: tables are
    made of exporters, and importing a toolchain takes seconds.

    Attributes:
        title: of the format, for people.
        suffix: of the artefact's file, without the dot.
        packages: distributions whose versions shape the artefact, beside numpy and torch.
        default_recipes: precision of a profile -> name of the recipe that it stands for in this format, chosen by measurement.
    """

    needs = Needs(extra="host")
    title: ClassVar[str]
    suffix: ClassVar[str]
    packages: ClassVar[tuple[str, ...]]
    default_recipes: ClassVar[Mapping[Precision, str]] = {"int8": "int8", "fp32": "fp32"}

    @abstractmethod
    def lower(self, network: fx.GraphModule, pixels: Pixels, recipe: Recipe) -> Lowering:
        """Quantises and lowers a network, which is left as it is.

        Args:
            network: from `converter.quantise.folding.fold`.
            pixels: ``(N, S, S, 3)`` uint8: images to calibrate on; S is the input size.
            recipe: how to quantise.

        Raises:
            ImportError: the toolchain isn't installed.
            Exception: the toolchain can't lower this network.
        """

    def export(self, network: fx.GraphModule, pixels: Pixels, *, recipe: Recipe, out: Path) -> Exported:
        """Quantises and lowers a network, checks that all of it is inside one delegate, and writes the artefact.

        Args:
            network: see `lower`.
            pixels: see `lower`.
            recipe: see `lower`.
            out: the artefact's file; replaced atomically.

        Raises:
            ConversionError: ``undelegated`` if an operator stands outside the delegate, or there are several delegates;
                ``export`` if the toolchain fails.
            MissingDependencyError: the toolchain isn't installed.
        """
        with quiet():  # the toolchains print while they are imported, too
            try:
                lowering = self.lower(network, pixels, recipe)
            except ImportError as error:
                raise MissingDependencyError(
                    f"exporter to {self.title}",
                    f"can't be imported ({error})",
                    remedy=self.needs.remedy,
                    reason="not_installed",
                ) from error
            except Exception as error:  # the toolchains have no error class of their own
                raise ConversionError(
                    out.name, f"{self.title} can't export it ({type(error).__name__}: {str(error)[:200]})", reason="export"
                ) from error
            _require_one_delegate(out, lowering.delegates, lowering.undelegated_ops)
            write_durably(out, lowering.serialise())
        side_px = pixels.shape[1]
        return Exported(
            file=out.name,
            input=TensorSpec("pixels", (1, side_px, side_px, 3), "uint8", "NHWC", PIXEL_SCALE, PIXEL_ZERO_POINT),
            output=lowering.output,
            delegates=lowering.delegates,
            undelegated_ops=lowering.undelegated_ops,
            operators=lowering.operators,
        )


def exporter_names() -> tuple[str, ...]:
    """Names of the runtimes that artefacts can be made for: ours, sorted, and those of packages from outside."""
    return EXPORTERS.names()


def load_exporter(runtime: str) -> Exporter:
    """Gives the exporter to a runtime's format.

    Raises:
        UsageError: there is no exporter of that name.
    """
    return cast("Exporter", EXPORTERS.load(runtime)())


def runtime_title(runtime: str) -> str:
    """Gives a runtime's name for people; the name itself if its exporter isn't there, as for an old record."""
    return load_exporter(runtime).title if runtime in exporter_names() else runtime


def default_recipe(precision: Precision, runtime: str) -> Recipe:
    """The recipe that a profile's precision stands for in a runtime's format."""
    return find_recipe(load_exporter(runtime).default_recipes[precision])


def toolchain_versions() -> dict[str, str]:
    """Versions of everything that shapes the artefacts, by distribution; packages that aren't installed are left out."""
    packages = {package for name in exporter_names() for package in load_exporter(name).packages}
    return installed_versions(sorted(packages.union(_LOWERING_PACKAGES)))


def _require_one_delegate(out: Path, delegates: int, undelegated_ops: tuple[str, ...]) -> None:
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
