"""Fakes of the lowest layer: a source of given frames, a session that computes something simple, meters that are told."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from device.contract import TensorSpec
from device.core.clock import ManualClock
from device.core.errors import InferenceError, SourceError
from device.core.resources import Resource
from device.protocols import Array, Frame, Image, MeterTotal, PowerFigure, SourceSpec, ThermalSample

SIDE_PX = 32
LABELS = ("dark", "red", "green", "blue")
INPUT = TensorSpec(name="pixels", shape=(1, SIDE_PX, SIDE_PX, 3), dtype="uint8", layout="NHWC", scale=1 / 127.5, zero_point=128)
OUTPUT = TensorSpec(name="scores", shape=(1, 4), dtype="float32", layout="NC")


def coloured(colour: str, side_px: int = SIDE_PX) -> Image:
    """A picture in one of `LABELS`' colours."""
    image = np.zeros((side_px, side_px, 3), np.uint8)
    if colour != "dark":
        image[..., LABELS.index(colour) - 1] = 255
    return image


class ListSource(Resource):
    """Gives frames, or raises errors, from a list."""

    def __init__(
        self,
        items: Iterable[Image | SourceError],
        *,
        is_live: bool = False,
        clock: ManualClock | None = None,
        uri: str = "list:",
    ) -> None:
        self._items = list(items)
        self._spec = SourceSpec(uri=uri, is_live=is_live)
        self._clock = clock or ManualClock()
        self._next = 0

    @property
    def spec(self) -> SourceSpec:
        return self._spec

    def read(self, timeout_s: float) -> Frame | None:
        if self._next == len(self._items):
            return None
        item = self._items[self._next]
        self._next += 1
        if isinstance(item, SourceError):
            raise item
        return Frame(item, self._clock.now_ns(), self._next - 1, f"{self._next - 1}.png")


class ColourSession(Resource):
    """Scores a picture by its mean colour, so that every label can be provoked."""

    input = INPUT
    output = OUTPUT
    threads = 1

    def __init__(self, clock: ManualClock | None = None, duration_s: float = 0.0) -> None:
        self._clock = clock
        self._duration_s = duration_s
        self.runs = 0

    def run(self, pixels: Image) -> Array:
        if pixels.shape != self.input.shape:
            raise InferenceError("session", f"input of shape {pixels.shape}", expected=str(self.input.shape), reason="shape")
        self.runs += 1
        if self._clock:
            self._clock.advance(self._duration_s)
        mean = pixels.reshape(-1, 3).mean(axis=0) / 255.0
        return np.asarray([[0.5, *(3.0 * mean)]], np.float32)


class ScriptedPower:
    """A power reader that gives what it was told."""

    overhead_cpu_s = 0.25

    def __init__(
        self,
        figures: Sequence[PowerFigure | None],
        total: PowerFigure | None,
        *,
        others: Sequence[MeterTotal] = (),
        error: str | None = None,
    ) -> None:
        self._figures = list(figures)
        self._total = total
        self._others = tuple(others)
        self._error = error

    def take(self) -> PowerFigure | None:
        return self._figures.pop(0) if self._figures else None

    def total(self) -> PowerFigure | None:
        return self._total

    def figures(self) -> tuple[MeterTotal, ...]:
        total = self._total
        if total is None:
            return self._others
        headline = MeterTotal(
            source=total.source,
            scope=total.scope,
            is_estimate=total.is_estimate,
            resolution_w=0.002,
            power_w=total.power_w,
            energy_j=total.energy_j,
            covered_s=total.covered_s,
            sample_rate_hz=10.0,
            samples=10,
            failed=0,
            error=None,
        )
        return (headline, *self._others)

    def error(self) -> str | None:
        return self._error


class FixedThermals:
    """Thermals that never change."""

    def __init__(self, sample: ThermalSample) -> None:
        self._sample = sample

    def read(self) -> ThermalSample:
        return self._sample
