"""The operating points to choose from."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from device.bench.result import Choice
from device.bench.runner import Candidate, describe_choice
from device.tune.aims import Aim

LADDER_FPS = (1.0, 2.0, 3.0, 5.0, 8.0, 10.0, 12.0, 15.0, 20.0, 25.0, 30.0, 40.0, 50.0, 60.0)
"""Rates to try, up to the camera's."""


class OperatingPoint(msgspec.Struct, frozen=True):
    """An operating point.

    Attributes:
        candidate: bundle, artefact and threads.
        rate_fps: maximum inferences a second; None for full speed.
        governor: cpufreq governor; None leaves it as it is.
    """

    candidate: Candidate
    rate_fps: float | None = None
    governor: str | None = None

    @property
    def choice(self) -> Choice:
        """What is run."""
        return self.candidate.choice


def build_space(
    candidates: Sequence[Candidate], aim: Aim, camera_rate_fps: float, governors: Sequence[str | None] = (None,)
) -> list[OperatingPoint]:
    """Lists the points to try for an aim. Of equally good points, the search prefers the earlier one.

    Args:
        candidates: the choices in the bundles.
        aim: determines the rates.
        camera_rate_fps: the highest rate to try.
        governors: governors to try; None leaves the governor as it is.
    """
    ladder = tuple(rate for rate in LADDER_FPS if rate <= camera_rate_fps)
    ordered = sorted(candidates, key=lambda candidate: candidate.choice.threads)
    return [
        OperatingPoint(candidate, rate, governor)
        for rate in aim.rates(ladder)
        for governor in governors
        for candidate in ordered
    ]


def describe_point(point: OperatingPoint) -> str:
    """Describes a point in a few words."""
    words = [describe_choice(point.choice), f"{point.rate_fps:g} FPS" if point.rate_fps else "full speed"]
    if point.governor:
        words.append(f"governor {point.governor}")
    return ", ".join(words)
