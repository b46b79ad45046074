"""LiteRT: the package ``ai_edge_litert``, or ``tflite_runtime`` where only that is there; `LiteRtRuntime.version` says which.

LiteRT hands a graph to XNNPACK by itself, and silently runs whatever XNNPACK doesn't take on its own slow kernels. So the
delegation of every graph is read back, and a graph with anything outside the delegate is refused.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, NoReturn

import numpy as np

from device.contract import TensorSpec
from device.contract.tensor import PIXEL_SCALE, PIXEL_ZERO_POINT, DType
from device.core.errors import InferenceError, MissingDependencyError
from device.core.plugin import Needs
from device.machine.memory import release_file_pages
from device.protocols import Array, Image
from device.runtimes import checks
from device.runtimes.base import BaseRuntime, BaseSession

_IDENTIFIER = b"TFL3"
_KIND = "TensorFlow Lite"
_SIGN_BIT = np.uint8(0x80)
_REAL_ZERO = np.float32(PIXEL_ZERO_POINT)
_REAL_STEPS = np.float32(1.0 / PIXEL_SCALE)
_DTYPES: dict[type, DType] = {np.uint8: "uint8", np.int8: "int8", np.float32: "float32"}
_BOUNDARY: dict[DType, tuple[float, int]] = {
    "uint8": (PIXEL_SCALE, PIXEL_ZERO_POINT),
    "int8": (PIXEL_SCALE, 0),
    "float32": (1.0, 0),
}
"""The scale and zero point that a file's input must have, by its type."""


class _Package(NamedTuple):
    distribution: str
    module: str

    @property
    def has_int8_kernels(self) -> bool:
        """False of tflite-runtime: it is built without XNNPACK's int8 kernels, and runs int8 networks ten times slower."""
        return self.distribution != "tflite-runtime"


_PACKAGES = (
    _Package("ai-edge-litert", "ai_edge_litert.interpreter"),
    _Package("tflite-runtime", "tflite_runtime.interpreter"),
)

_NEEDS = Needs(extra="litert")


def _find_package() -> _Package:
    for package in _PACKAGES:
        if find_spec(package.module.partition(".")[0]) is not None:
            return package
    raise MissingDependencyError(
        "runtime litert", "ai_edge_litert is not installed", remedy=_NEEDS.remedy, reason="not_installed"
    )


def _load_interpreter(package: _Package) -> Any:
    try:
        return import_module(package.module).Interpreter
    except ImportError as error:
        raise MissingDependencyError(
            "runtime litert",
            f"{package.distribution} can't be loaded ({error})",
            remedy="pip install --force-reinstall 'ghostwatt[litert]'",
            reason="not_loadable",
        ) from error


def _package_folder(interpreter_class: type) -> Path:
    return Path(str(sys.modules[interpreter_class.__module__].__file__)).parent


class LiteRtRuntime(BaseRuntime):
    """LiteRT: ``.tflite`` files, through XNNPACK."""

    name: ClassVar[str] = "litert"
    artefact: ClassVar[str] = "litert"
    needs: ClassVar[Needs] = _NEEDS

    @property
    def version(self) -> str:
        """Version of the library that runs the network, after its name."""
        package = _find_package()
        # The package's own attribute: `importlib.metadata` costs a process 3 MB.
        found = getattr(import_module(package.module.partition(".")[0]), "__version__", "of unknown version")
        return f"{package.distribution} {found}"

    def open(self, model: Path, *, input: TensorSpec, output: TensorSpec, threads: int) -> LiteRtSession:
        """Loads a network; see `device.protocols.Runtime.open`.

        Truncated and foreign files are refused. A file that is damaged further inside may load, and then give wrong scores or
        hang in the library: the bundle's hashes protect against that.
        """
        package = _find_package()
        interpreter_class = _load_interpreter(package)
        checks.check_threads(model, threads)
        checks.check_file(model, _IDENTIFIER, kind=_KIND)
        try:
            interpreter = interpreter_class(model_path=str(model), num_threads=threads)
            interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            _refuse(model, str(error))
        session = LiteRtSession(interpreter, model, threads, names=(input.name, output.name))
        checks.check_spec(model, "input", found=session.input, promised=input)
        checks.check_spec(model, "output", found=session.output, promised=output)
        _check_delegation(interpreter, model, package, self.version)
        # XNNPACK has packed its own copy of the weights, and the code that prepared the graph isn't needed to run it. Together
        # they are a fifth of the process.
        release_file_pages(model, _package_folder(interpreter_class))
        return session


def _refuse(model: Path, message: str) -> NoReturn:
    # A delegate that accepted the graph can still fail to prepare it, for example because its kernels don't support a scale.
    # LiteRT raises one type for everything: only its words tell this case.
    if "TfLiteXNNPackDelegate" in message:
        checks.refuse_undelegated(model, message)
    checks.refuse_malformed(model, f"LiteRT refused it: {message}")


def _check_delegation(interpreter: Any, model: Path, package: _Package, version: str) -> None:
    # The list keeps the nodes that a delegate replaced, so being listed proves nothing. But a tensor that a delegate or the
    # graph's output reads, and no delegate writes, is written by a node outside.
    nodes = interpreter._get_ops_details()
    delegates = [node for node in nodes if node["op_name"] == "DELEGATE"]
    if not delegates:
        checks.refuse_undelegated(
            model,
            f"{version} gave XNNPACK nothing of it",
            remedy="" if package.has_int8_kernels else _NEEDS.remedy,
        )
    needed = set(interpreter._interpreter.OutputIndices()).union(*(node["inputs"] for node in delegates))
    given = set().union(*(node["outputs"] for node in delegates))
    outside = {node["op_name"] for node in nodes if not (needed - given).isdisjoint(node["outputs"])}
    if len(delegates) > 1 or outside:
        names = ", ".join(sorted(outside)) or "none"
        checks.refuse_undelegated(model, f"{version} split it into {len(delegates)} delegates; operators outside: {names}")


class LiteRtSession(BaseSession):
    """A loaded network; see `device.protocols.Session`.

    Pixels are written into the interpreter's own input buffer, in one or two array operations.
    """

    def __init__(self, interpreter: Any, model: Path, threads: int, names: tuple[str, str]) -> None:
        taken = _only(interpreter.get_input_details(), model, "inputs")
        given = _only(interpreter.get_output_details(), model, "outputs")
        self._boundary = _check_boundary(taken, model)
        super().__init__(
            model,
            input=checks.pixel_spec(names[0], int(taken["shape"][1])),
            output=_output_spec(given, model, names[1]),
            threads=threads,
        )
        self._interpreter = interpreter
        self._input_view = interpreter.tensor(taken["index"])
        self._output_index = given["index"]

    def _run(self, pixels: Image) -> Array:
        try:
            self._write(pixels)
            self._interpreter.invoke()
            scores: Array = self._interpreter.get_tensor(self._output_index)
        except (ValueError, RuntimeError) as error:
            raise InferenceError(str(self._model), f"failed to run: {error}", reason="failed") from error
        return scores

    def _write(self, pixels: Image) -> None:
        # The view must be gone before `invoke`, which refuses to run while one is held.
        view = self._input_view()
        if self._boundary == "int8":
            np.bitwise_xor(pixels, _SIGN_BIT, out=view.view(np.uint8))
        elif self._boundary == "uint8":
            np.copyto(view, pixels)
        else:
            # Two vectorised passes take a third of the time of one lookup in a table.
            np.subtract(pixels, _REAL_ZERO, out=view, dtype=np.float32)
            np.divide(view, _REAL_STEPS, out=view)

    def _release(self) -> None:
        self._interpreter = self._input_view = None


def _only(details: list[dict[str, Any]], model: Path, which: str) -> dict[str, Any]:
    if len(details) != 1:
        checks.refuse_signature(model, "signature", f"{len(details)} {which}", f"one of the {which}")
    return details[0]


def _dtype(details: dict[str, Any], model: Path, which: str) -> DType:
    dtype = _DTYPES.get(details["dtype"])
    if dtype is None:
        checks.refuse_signature(model, which, f"type {details['dtype'].__name__}", ", ".join(_BOUNDARY))
    return dtype


def _quantisation(details: dict[str, Any]) -> tuple[float, int]:
    scale, zero_point = details["quantization"]
    # A real-valued tensor has scale 0 in the file.
    return (float(scale), int(zero_point)) if scale else (1.0, 0)


def _check_boundary(details: dict[str, Any], model: Path) -> DType:
    dtype = _dtype(details, model, "input")
    shape = tuple(int(size) for size in details["shape"])
    if len(shape) != 4 or shape[0] != 1 or shape[3] != 3 or shape[1] != shape[2]:
        checks.refuse_signature(model, "input", f"shape {shape}", "(1, S, S, 3)")
    scale, zero_point = _quantisation(details)
    wanted_scale, wanted_zero_point = _BOUNDARY[dtype]
    if zero_point != wanted_zero_point or not np.isclose(scale, wanted_scale, rtol=checks.SCALE_TOLERANCE, atol=0.0):
        checks.refuse_signature(
            model,
            "input",
            f"{dtype} with scale {scale:.6g}, zero point {zero_point}",
            f"scale {wanted_scale:.6g}, zero point {wanted_zero_point}",
        )
    return dtype


def _output_spec(details: dict[str, Any], model: Path, name: str) -> TensorSpec:
    dtype = _dtype(details, model, "output")
    shape = tuple(int(size) for size in details["shape"])
    if len(shape) != 2 or shape[0] != 1:
        checks.refuse_signature(model, "output", f"shape {shape}", "(1, C)")
    scale, zero_point = _quantisation(details)
    return TensorSpec(name=name, shape=shape, dtype=dtype, layout="NC", scale=scale, zero_point=zero_point)
