"""The aims that a user can choose, as scores: higher is better, None doesn't meet the aim."""

from __future__ import annotations

from typing import ClassVar, Protocol

import msgspec

RATE_TOLERANCE = 0.02
"""Share by which a requested rate may be missed, since a late inference isn't made up for."""


class Aim(Protocol):
    """An aim. ``needs_power`` and ``rates`` determine what is measured for it."""

    @property
    def slug(self) -> str:
        """Short name, for the profile's name."""

    @property
    def title(self) -> str:
        """Description, for display."""

    @property
    def needs_power(self) -> bool:
        """Whether the aim requires a power figure."""

    def rates(self, ladder: tuple[float, ...]) -> tuple[float | None, ...]:
        """The rates to try, in inferences a second, out of a ladder of rates; None is full speed."""

    def score(self, rate_fps: float, power_w: float | None, limit_fps: float | None = None) -> float | None:
        """Scores a point. The score must not decrease with a higher rate at equal power, nor with less power.

        Args:
            rate_fps: inferences a second; infinite if unknown.
            power_w: None if there is no figure.
            limit_fps: the point's rate limit; None for full speed.
        """


class MostFrames(msgspec.Struct, frozen=True):
    """The highest rate."""

    slug: ClassVar[str] = "fps"
    title: ClassVar[str] = "most inferences a second"
    needs_power: ClassVar[bool] = False

    def rates(self, ladder: tuple[float, ...]) -> tuple[float | None, ...]:  # noqa: ARG002
        """Full speed only, since no limit makes anything faster."""
        return (None,)

    def score(self, rate_fps: float, power_w: float | None, limit_fps: float | None = None) -> float | None:  # noqa: ARG002
        """Inferences a second."""
        return rate_fps


class LeastEnergy(msgspec.Struct, frozen=True):
    """The least energy per inference, including idle power."""

    slug: ClassVar[str] = "efficiency"
    title: ClassVar[str] = "least energy an inference (gross)"
    needs_power: ClassVar[bool] = True

    def rates(self, ladder: tuple[float, ...]) -> tuple[float | None, ...]:
        """All rates: if the machine saves much power between inferences, a lower rate may take less energy."""
        return (None, *ladder)

    def score(self, rate_fps: float, power_w: float | None, limit_fps: float | None = None) -> float | None:  # noqa: ARG002
        """Negative joules per inference."""
        return None if power_w is None else -power_w / rate_fps


class LeastPowerAtRate(msgspec.Struct, frozen=True):
    """The least power at a given rate.

    Attributes:
        rate_fps: the required rate.
    """

    rate_fps: float
    needs_power: ClassVar[bool] = True

    @property
    def slug(self) -> str:
        """``15fps``."""
        return f"{_plain(self.rate_fps)}fps"

    @property
    def title(self) -> str:
        """Description, for display."""
        return f"least power at {self.rate_fps:g} inferences a second"

    def rates(self, ladder: tuple[float, ...]) -> tuple[float | None, ...]:  # noqa: ARG002
        """Only the required rate."""
        return (self.rate_fps,)

    def score(self, rate_fps: float, power_w: float | None, limit_fps: float | None = None) -> float | None:  # noqa: ARG002
        """Negative watts; None below the required rate."""
        if power_w is None or rate_fps < self.rate_fps * (1 - RATE_TOLERANCE):
            return None
        return -power_w


class MostFramesWithinPower(msgspec.Struct, frozen=True):
    """The highest rate within a power limit.

    Attributes:
        power_w: the limit.
    """

    power_w: float
    needs_power: ClassVar[bool] = True

    @property
    def slug(self) -> str:
        """``3w``."""
        return f"{_plain(self.power_w)}w"

    @property
    def title(self) -> str:
        """Description, for display."""
        return f"most inferences a second within {self.power_w:g} W"

    def rates(self, ladder: tuple[float, ...]) -> tuple[float | None, ...]:
        """All rates."""
        return (None, *ladder)

    def score(self, rate_fps: float, power_w: float | None, limit_fps: float | None = None) -> float | None:
        """Inferences a second; None above the power limit. A rate limit that was reached counts in full, ignoring jitter."""
        if power_w is None or power_w > self.power_w:
            return None
        is_kept = limit_fps is not None and rate_fps >= limit_fps * (1 - RATE_TOLERANCE)
        return limit_fps if is_kept else rate_fps


def _plain(number: float) -> str:
    """Formats a number for a profile's name: ``2.5`` becomes ``2-5``."""
    return f"{number:g}".replace(".", "-").replace("+", "")
