"""The inputs and outputs of networks, and the preprocessing of frames."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

DType = Literal["uint8", "int8", "float32"]
Layout = Literal["NHWC", "NC"]
Fit = Literal["crop", "letterbox", "stretch"]
Interpolation = Literal["area", "bilinear", "bicubic"]

Fraction = Annotated[float, Meta(gt=0.0, le=1.0)]
InputPx = Annotated[int, Meta(ge=32, le=1024, description="Side of the square that the network sees, in pixels.")]

PIXEL_ZERO_POINT = 128
PIXEL_SCALE = 1.0 / 127.5
"""The real value of every artefact's input is ``(pixel - 128) / 127.5``. An int8 boundary therefore takes exactly
``pixel ^ 0x80``, with scale 1/127.5 and zero point 0, and zero padding inside the network means mid-grey."""


class TensorSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An input or an output of a session.

    Attributes:
        name: the tensor's name in the artefact.
        shape: fixed, with the batch axis first.
        dtype: of the array that `Session.run` takes or returns.
        layout: ``NHWC`` for pixels, ``NC`` for scores.
        scale: ``real = (value - zero_point) * scale``; 1, with a zero point of 0, if the array contains the real values.
        zero_point: see ``scale``.
    """

    name: str
    shape: tuple[int, ...]
    dtype: DType
    layout: Layout
    scale: float = 1.0
    zero_point: int = 0


def dequantise(output: NDArray[np.generic], spec: TensorSpec) -> NDArray[np.float32]:
    """Converts a session's output to real scores.

    Args:
        output: ``(1, C)`` of ``spec.dtype``.
        spec: the session's output.

    Returns:
        ``(C,)`` float32, a copy.
    """
    real: NDArray[np.float32] = output[0].astype(np.float32)
    if spec.scale != 1.0 or spec.zero_point != 0:
        real = (real - np.float32(spec.zero_point)) * np.float32(spec.scale)
    return real


class Preprocessing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a frame becomes the network's input. Belongs to the weights, and is copied into the bundle with them.

    With the default mean and deviation, the network's input equals the artefact's (see `PIXEL_SCALE`), and needs no
    normalisation. Those of ImageNet take one operation per pixel inside the artefact.

    Attributes:
        input_px: side of the network's square input.
        fit: ``crop`` takes the central square, ``letterbox`` pads to a square, ``stretch`` ignores the aspect ratio.
        crop_fraction: with ``crop``, the side of the square as a share of the frame's short side.
        interpolation: for scaling up; scaling down always averages over areas (`device.image.opencv.resize`).
        mean: per channel (R, G, B), of pixels scaled to 0..1. Folded into the artefact; the board subtracts nothing.
        std: standard deviation, of the same pixels as ``mean``. Folded into the artefact.
    """

    input_px: InputPx = 224
    fit: Fit = "crop"
    crop_fraction: Fraction = 0.875
    interpolation: Interpolation = "area"
    mean: tuple[float, float, float] = (128 / 255, 128 / 255, 128 / 255)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
