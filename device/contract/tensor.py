"""What goes into a network and what comes out of it."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

DType = Literal["uint8", "int8", "float32"]
Layout = Literal["NHWC", "NC"]
Fit = Literal["crop", "letterbox", "stretch"]
Interpolation = Literal["area", "bilinear", "bicubic"]

Fraction = Annotated[float, Meta(gt=0.0, le=1.0)]
InputPx = Annotated[int, Meta(ge=32, le=1024, description="Side of the square that the network sees, in pixels.")]

PIXEL_ZERO_POINT = 128
PIXEL_SCALE = 1.0 / 127.5
"""Every artefact's input, as real numbers, is ``(pixel - 128) / 127.5``. So an int8 boundary takes ``pixel ^ 0x80`` with
scale 1/127.5 and zero point 0, exactly, and zero padding inside the network means mid-grey."""


class TensorSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An input or an output of a session.

    Attributes:
        name: the tensor's name in the artefact.
        shape: with the batch axis first; every axis is fixed.
        dtype: of the array that `Session.run` takes or gives.
        layout: ``NHWC`` for pixels, ``NC`` for scores.
        scale: ``real = (value - zero_point) * scale``; 1 and 0 where the array holds the real value itself.
        zero_point: see ``scale``.
    """

    name: str
    shape: tuple[int, ...]
    dtype: DType
    layout: Layout
    scale: float = 1.0
    zero_point: int = 0


class Preprocessing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a frame becomes the network's input: it belongs to the weights, and travels with them into the bundle.

    The default mean and deviation make the network's input equal to the artefact's (see `PIXEL_SCALE`): nothing is left to
    normalise. ImageNet's need one operation a pixel inside the artefact.

    Attributes:
        input_px: side of the square that the network sees.
        fit: ``crop`` takes the central square, ``letterbox`` pads to a square, ``stretch`` ignores the aspect.
        crop_fraction: with ``crop``, the square's side as a share of the frame's short side.
        interpolation: for enlarging; what shrinks is averaged over areas, whatever stands here (`device.image.opencv.resize`).
        mean: per channel (R, G, B), of pixels scaled to 0..1. Folded into the artefact: the board subtracts nothing.
        std: likewise.
    """

    input_px: InputPx = 224
    fit: Fit = "crop"
    crop_fraction: Fraction = 0.875
    interpolation: Interpolation = "area"
    mean: tuple[float, float, float] = (128 / 255, 128 / 255, 128 / 255)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
