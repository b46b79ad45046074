"""What a person may want, as a score: higher is better, None is not what was asked for."""

from __future__ import annotations

from typing import ClassVar, Protocol

import msgspec

RATE_TOLERANCE = 0.02
"""Share by which a rate that was asked for may be missed: a late inference isn't made up for."""


class Aim(Protocol):
    """One aim. ``needs_power`` and ``rates`` say what has to be measured for it."""

    @property
    def slug(self) -> str:
        """For the profile's name."""

    @property
    def title(self) -> str:
        """For people."""

    @property
    def needs_power(self) -> bool:
        """Whether it means nothing without a figure of power."""

    def rates(self, ladder: tuple[float, ...]) -> tuple[float | None, ...]:
        """Which of these rates, in inferences a second, can matter; None is full speed."""

    def score(self, rate_fps: float, power_w: float | None, limit_fps: float | None = None) -> float | None:
        """How good a point is; never falls with more inferences a second at equal power, nor with less power.

        Args:
            rate_fps: inferences a second; may be infinite where nothing is known yet.
            power_w: None where there is no figure.
            limit_fps: the rate that the point was held to; None where it ran at full speed.
        """


class MostFrames(msgspec.Struct, frozen=True):
    """As many frames a second as can be."""

    slug: ClassVar[str] = "fps"
    title: ClassVar[str] = "most inferences a second"
    needs_power: ClassVar[bool] = False

    def rates(self, ladder: tuple[float, ...]) -> tuple[float | None, ...]:  # noqa: ARG002
        """Full speed alone: no limit makes anything faster."""
        return (None,)

    def score(self, rate_fps: float, power_w: float | None, limit_fps: float | None = None) -> float | None:  # noqa: ARG002
        """Inferences a second."""
        return rate_fps


class LeastEnergy(msgspec.Struct, frozen=True):
    """The least energy an inference, idle included."""

    slug: ClassVar[str] = "efficiency"
    title: ClassVar[str] = "least energy an inference (gross)"
    needs_power: ClassVar[bool] = True

    def rates(self, ladder: tuple[float, ...]) -> tuple[float | None, ...]:
        """All of them: where the machine saves much between inferences, slower may cost less."""
        return (None, *ladder)

    def score(self, rate_fps: float, power_w: float | None, limit_fps: float | None = None) -> float | None:  # noqa: ARG002
        """Joules an inference, with a minus."""
        return None if power_w is None else -power_w / rate_fps


class LeastPowerAtRate(msgspec.Struct, frozen=True):
    """So many frames a second, at the least power.

    Attributes:
        rate_fps: the frames a second.
    """

    rate_fps: float
    needs_power: ClassVar[bool] = True

    @property
    def slug(self) -> str:
        """``15fps``."""
        return f"{_plain(self.rate_fps)}fps"

    @property
    def title(self) -> str:
        """For people."""
        return f"least power at {self.rate_fps:g} inferences a second"

    def rates(self, ladder: tuple[float, ...]) -> tuple[float | None, ...]:  # noqa: ARG002
        """That rate alone."""
        return (self.rate_fps,)

    def score(self, rate_fps: float, power_w: float | None, limit_fps: float | None = None) -> float | None:  # noqa: ARG002
        """Watts, with a minus; None below the rate."""
        if power_w is None or rate_fps < self.rate_fps * (1 - RATE_TOLERANCE):
            return None
        return -power_w


class MostFramesWithinPower(msgspec.Struct, frozen=True):
    """So many watts at most, and as many frames a second as they allow.

    Attributes:
        power_w: the watts.
    """

    power_w: float
    needs_power: ClassVar[bool] = True

    @property
    def slug(self) -> str:
        """``3w``."""
        return f"{_plain(self.power_w)}w"

    @property
    def title(self) -> str:
        """For people."""
        return f"most inferences a second within {self.power_w:g} W"

    def rates(self, ladder: tuple[float, ...]) -> tuple[float | None, ...]:
        """All of them."""
        return (None, *ladder)

    def score(self, rate_fps: float, power_w: float | None, limit_fps: float | None = None) -> float | None:
        """Inferences a second; None above the power. A limit that was kept counts as such: how nearly it was kept is chance."""
        if power_w is None or power_w > self.power_w:
            return None
        is_kept = limit_fps is not None and rate_fps >= limit_fps * (1 - RATE_TOLERANCE)
        return limit_fps if is_kept else rate_fps


def _plain(number: float) -> str:
    """A number as a profile's name may have it: ``2.5`` is ``2-5``."""
    return f"{number:g}".replace(".", "-").replace("+", "")
