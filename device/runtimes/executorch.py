"""ExecuTorch through our own C interface (``device/runtimes/native``): no torch in the process.

ExecuTorch has one thread pool per process. All open sessions therefore have the same number of threads; another number is
refused until they are closed.
"""

from __future__ import annotations

import ctypes
import platform
import struct
from functools import cached_property
from pathlib import Path
from typing import ClassVar, NoReturn

import numpy as np

from device.contract import TensorSpec
from device.contract.tensor import DType
from device.core.errors import InferenceError, MissingDependencyError, ModelLoadError, ModelReason
from device.core.plugin import Needs
from device.protocols import Array, Image
from device.runtimes import checks
from device.runtimes.base import BaseRuntime, BaseSession

_ABI_VERSION = 1
_LIBRARY = "libghostwatt_executorch.so"
_IDENTIFIER = b"ET12"
_KIND = "ExecuTorch"
_MAX_RANK = 4
_MESSAGE_BYTES = 512
_DTYPES: tuple[DType, ...] = ("uint8", "int8", "float32")

_REASONS: dict[str, ModelReason] = {
    "Undelegated": "undelegated",
    "Signature": "signature",
    "ThreadsBusy": "threads",
    "NoThreadPool": "threads",
    "OutOfMemory": "memory",
    "MemoryAllocationFailed": "memory",
    "DelegateMemoryAllocationFailed": "memory",
    "DelegateInvalidCompatibility": "version",
    "NotSupported": "version",
}
"""The native side's status -> an error's reason. Every other status of a failed load is ``malformed``."""


class _Tensor(ctypes.Structure):
    _fields_ = (("dtype", ctypes.c_int32), ("rank", ctypes.c_int32), ("shape", ctypes.c_int32 * _MAX_RANK))


class _Description(ctypes.Structure):
    _fields_ = (
        ("input", _Tensor),
        ("output", _Tensor),
        ("side_px", ctypes.c_int32),
        ("is_channels_last", ctypes.c_int32),
        ("threads", ctypes.c_int32),
    )


class _Library:
    """The functions of ``ghostwatt_executorch.h``. Calls release the GIL."""

    def __init__(self, directory: Path) -> None:
        library = _load_library(directory)
        self.version = library.gw_executorch_version
        self.version.restype = ctypes.c_char_p
        self.status_name = library.gw_status_name
        self.status_name.restype = ctypes.c_char_p
        self.open = library.gw_open
        self.open.argtypes = (ctypes.c_char_p, ctypes.c_int32, ctypes.POINTER(ctypes.c_void_p), ctypes.c_char_p)
        self.describe = library.gw_describe
        self.describe.argtypes = (ctypes.c_void_p, ctypes.POINTER(_Description))
        self.describe.restype = None
        self.run = library.gw_run
        self.run.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)
        self.close = library.gw_close
        self.close.argtypes = (ctypes.c_void_p,)
        self.close.restype = None

    def name_of(self, status: int) -> str:
        name: bytes = self.status_name(status)
        return name.decode()


def _load_library(directory: Path) -> ctypes.CDLL:
    path = directory / _LIBRARY
    if struct.calcsize("P") != 8:
        raise MissingDependencyError(
            "runtime executorch", "this is a 32-bit Python", expected="64 bits", remedy="install a 64-bit OS", reason="32_bit"
        )
    if not path.is_file():
        raise MissingDependencyError(
            "runtime executorch", f"{path} is not there", remedy="build it: make native", reason="not_installed"
        )
    try:
        library = ctypes.CDLL(str(path))
        version = library.gw_abi_version()
    except (OSError, AttributeError) as error:
        raise MissingDependencyError(
            "runtime executorch",
            f"{path} can't be loaded ({error})",
            remedy=f"build it for this machine: make native ARCH={platform.machine()}",
            reason="not_loadable",
        ) from error
    if version != _ABI_VERSION:
        raise MissingDependencyError(
            "runtime executorch",
            f"{path} has interface version {version}",
            expected=str(_ABI_VERSION),
            remedy="build it again: make native",
            reason="abi",
        )
    return library


class ExecuTorchRuntime(BaseRuntime):
    """ExecuTorch: ``.pte`` files, through XNNPACK.

    Args:
        library_dir: the folder of ``libghostwatt_executorch.so`` and the libraries that it needs; by default where ``make
            native`` puts them for this machine.
    """

    name: ClassVar[str] = "executorch"
    artefact: ClassVar[str] = "executorch"
    needs: ClassVar[Needs] = Needs(install="build the native library: make native")

    def __init__(self, library_dir: Path | None = None) -> None:
        self._library_dir = library_dir or Path(__file__).parent / "native" / "lib" / platform.machine()

    @cached_property
    def _library(self) -> _Library:
        return _Library(self._library_dir)

    @property
    def version(self) -> str:
        """Version of the library that runs the network, after its name."""
        version: bytes = self._library.version()
        return f"executorch {version.decode()}"

    def open(self, model: Path, *, input: TensorSpec, output: TensorSpec, threads: int) -> ExecuTorchSession:
        """Loads a program; see `device.protocols.Runtime.open`.

        The program's tables are verified before they are read: truncated, foreign and inconsistent files are refused.
        ExecuTorch 1.5 trusts the rest, the delegate's arguments and data, and may crash on damage there: the bundle's hashes
        protect against that.
        """
        library = self._library
        checks.check_threads(model, threads)
        checks.check_file(model, _IDENTIFIER, kind=_KIND)
        handle = ctypes.c_void_p()
        message = ctypes.create_string_buffer(_MESSAGE_BYTES)
        status = library.open(bytes(model), threads, ctypes.byref(handle), message)
        if status != 0:
            _refuse(model, library.name_of(status), message.value.decode(errors="replace").rstrip("."))
        session = ExecuTorchSession(library, handle, model, (input, output))
        try:
            checks.check_spec(model, "input", found=session.input, promised=input)
            checks.check_spec(model, "output", found=session.output, promised=output)
        except ModelLoadError:
            session.close()
            raise
        return session


def _refuse(model: Path, status: str, message: str) -> NoReturn:
    reason = _REASONS.get(status, "malformed")
    if reason == "undelegated":
        checks.refuse_undelegated(model, message)
    if reason == "signature":
        checks.refuse_signature(model, "signature", message, "one image in, one row of scores out")
    if reason == "malformed":
        checks.refuse_malformed(model, f"ExecuTorch refused it: {status} ({message})")
    raise ModelLoadError(str(model), f"ExecuTorch could not load it: {status} ({message})", reason=reason)


class ExecuTorchSession(BaseSession):
    """A loaded program; see `device.protocols.Session`.

    The native side converts pixels to the program's own boundary (float32 or 8 bits, channels first or last) in one pass,
    straight into the memory that the program reads.
    """

    def __init__(
        self, library: _Library, handle: ctypes.c_void_p, model: Path, promised: tuple[TensorSpec, TensorSpec]
    ) -> None:
        description = _Description()
        library.describe(handle, ctypes.byref(description))
        super().__init__(
            model,
            input=checks.pixel_spec(promised[0].name, description.side_px),
            output=_output_spec(description.output, promised[1]),
            threads=int(description.threads),
        )
        self._library = library
        self._handle = handle
        self._message = ctypes.create_string_buffer(_MESSAGE_BYTES)
        self._scores: Array = np.zeros(self._output.shape, self._output.dtype)
        self._scores_address = self._scores.ctypes.data

    def _run(self, pixels: Image) -> Array:
        status = self._library.run(self._handle, pixels.ctypes.data, self._scores_address, self._message)
        if status != 0:
            text = self._message.value.decode(errors="replace")
            raise InferenceError(str(self._model), f"failed to run: {self._library.name_of(status)} ({text})", reason="failed")
        return self._scores

    def _release(self) -> None:
        self._library.close(self._handle)

    def __del__(self) -> None:
        self.close()


def _output_spec(tensor: _Tensor, promised: TensorSpec) -> TensorSpec:
    dtype = _DTYPES[tensor.dtype]
    is_real = dtype == "float32"
    return TensorSpec(
        name=promised.name,
        shape=tuple(tensor.shape[: tensor.rank]),
        dtype=dtype,
        layout="NC",
        # A program doesn't record the scale of an integer output: only the manifest has it.
        scale=1.0 if is_real else promised.scale,
        zero_point=0 if is_real else promised.zero_point,
    )
