"""The checks that all runtimes share: of a model's file, of its signature, and of the array that a session is given."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NoReturn

import numpy as np

from device.contract import TensorSpec
from device.contract.tensor import PIXEL_SCALE, PIXEL_ZERO_POINT
from device.core.errors import InferenceError, ModelLoadError
from device.protocols import Image

IDENTIFIER_OFFSET = 4
IDENTIFIER_BYTES = 4

_CONVERT_AGAIN = "convert the network again"
SCALE_TOLERANCE = 1e-5
"""Relative. Files keep scales as float32, manifests as decimal text."""


def check_file(model: Path, identifier: bytes, *, kind: str) -> None:
    """Refuses a file that can't be a model of this format, before a library reads it.

    Args:
        model: the artefact.
        identifier: of the FlatBuffers schema: two letters for the format, two characters for its version.
        kind: the format's name, for the message.

    Raises:
        ModelLoadError: ``missing``, ``unreadable``, ``malformed``, or ``version``.

    References:
        FlatBuffers, "File identification": four characters at offset 4.
    """
    try:
        with model.open("rb") as file:
            head = file.read(IDENTIFIER_OFFSET + IDENTIFIER_BYTES)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ModelLoadError(str(model), "is not there", expected=f"a {kind} file", reason="missing") from error
    except OSError as error:
        raise ModelLoadError(
            str(model), f"can't be read ({error.strerror})", expected=f"a {kind} file", reason="unreadable"
        ) from error
    found = head[IDENTIFIER_OFFSET:]
    if found == identifier:
        return
    if len(found) == IDENTIFIER_BYTES and found[:2] == identifier[:2] and found[2:].isalnum():
        raise ModelLoadError(
            str(model),
            f"has version {found.decode()}",
            expected=identifier.decode(),
            remedy=f"{_CONVERT_AGAIN} with the converter of this release",
            reason="version",
        )
    refuse_malformed(model, f"is no {kind} file: {head!r} at its start")


def refuse_malformed(model: Path, found: str) -> NoReturn:
    """Raises `ModelLoadError` ``malformed``."""
    raise ModelLoadError(str(model), found, remedy=f"copy the bundle again, or {_CONVERT_AGAIN}", reason="malformed")


def refuse_undelegated(model: Path, found: str, *, remedy: str = "") -> NoReturn:
    """Raises `ModelLoadError` ``undelegated``."""
    raise ModelLoadError(
        str(model),
        f"is not wholly inside the XNNPACK delegate: {found}",
        expected="one delegate that takes the whole network",
        remedy=remedy or f"{_CONVERT_AGAIN}; its report names the operators outside",
        reason="undelegated",
    )


def refuse_signature(model: Path, which: str, found: str, expected: str) -> NoReturn:
    """Raises `ModelLoadError` ``signature``."""
    raise ModelLoadError(
        str(model), f"{which}: {found}", expected=expected, remedy="take model and manifest from one bundle", reason="signature"
    )


def pixel_spec(name: str, side_px: int) -> TensorSpec:
    """The spec of raw pixels, which every session takes."""
    return TensorSpec(
        name=name,
        shape=(1, side_px, side_px, 3),
        dtype="uint8",
        layout="NHWC",
        scale=PIXEL_SCALE,
        zero_point=PIXEL_ZERO_POINT,
    )


def check_spec(model: Path, which: str, *, found: TensorSpec, promised: TensorSpec) -> None:
    """Compares a file's tensor with what the manifest promises. Names aren't compared: converters choose them freely.

    Args:
        model: the artefact, for the message.
        which: ``input`` or ``output``, for the message.
        found: what the file has.
        promised: what the manifest says.

    Raises:
        ModelLoadError: ``signature``.
    """
    same_scale = math.isclose(found.scale, promised.scale, rel_tol=SCALE_TOLERANCE)
    same_rest = (found.shape, found.dtype, found.layout, found.zero_point) == (
        promised.shape,
        promised.dtype,
        promised.layout,
        promised.zero_point,
    )
    if not (same_scale and same_rest):
        refuse_signature(model, which, _describe(found), _describe(promised))


def check_threads(model: Path, threads: int) -> None:
    """Refuses a thread count below 1.

    Raises:
        ModelLoadError: ``threads``.
    """
    if threads < 1:
        raise ModelLoadError(str(model), f"{threads} threads", expected="1 or more", reason="threads")


def check_pixels(pixels: Image, spec: TensorSpec) -> None:
    """Refuses an array that isn't what the session takes.

    Raises:
        InferenceError: ``type``, ``shape`` or ``layout``.
    """
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8:
        found = getattr(pixels, "dtype", type(pixels).__name__)
        raise InferenceError("pixels", f"are {found}", expected="an array of uint8", reason="type")
    if pixels.shape != spec.shape:
        raise InferenceError("pixels", f"have shape {pixels.shape}", expected=str(spec.shape), reason="shape")
    if not pixels.flags.c_contiguous:
        raise InferenceError(
            "pixels", "are not contiguous in memory", expected="C order", remedy="copy them first", reason="layout"
        )


def refuse_closed(model: Path) -> NoReturn:
    """Raises `InferenceError` ``closed``."""
    raise InferenceError(str(model), "the session is closed", remedy="open another", reason="closed")


def _describe(spec: TensorSpec) -> str:
    return f"{spec.layout} {spec.shape} {spec.dtype}, scale {spec.scale:.6g}, zero point {spec.zero_point}"
