"""Operating points: what there is to choose from."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from device.bench.result import Choice
from device.bench.runner import Candidate, describe_choice
from device.tune.aims import Aim

LADDER_FPS = (1.0, 2.0, 3.0, 5.0, 8.0, 10.0, 12.0, 15.0, 20.0, 25.0, 30.0, 40.0, 50.0, 60.0)
"""Rates to try; those above the camera's own can't come about."""


class Point(msgspec.Struct, frozen=True):
    """One operating point.

    Attributes:
        candidate: bundle, artefact and threads.
        rate_fps: inferences a second at most; None for full speed.
        governor: of cpufreq; None leaves what is set.
    """

    candidate: Candidate
    rate_fps: float | None = None
    governor: str | None = None

    @property
    def choice(self) -> Choice:
        """What of the bundle is run."""
        return self.candidate.choice


def build_space(
    candidates: Sequence[Candidate], aim: Aim, camera_rate_fps: float, governors: Sequence[str | None] = (None,)
) -> list[Point]:
    """Lists the points for an aim; where two are equally good, the earlier one is taken.

    Args:
        candidates: what the bundles hold.
        aim: says which rates matter.
        camera_rate_fps: no rate above it is tried.
        governors: to try; None leaves what is set.
    """
    ladder = tuple(rate for rate in LADDER_FPS if rate <= camera_rate_fps)
    ordered = sorted(candidates, key=lambda candidate: candidate.choice.threads)
    return [Point(candidate, rate, governor) for rate in aim.rates(ladder) for governor in governors for candidate in ordered]


def describe_point(point: Point) -> str:
    """A point in a few words."""
    words = [describe_choice(point.choice), f"{point.rate_fps:g} FPS" if point.rate_fps else "full speed"]
    if point.governor:
        words.append(f"governor {point.governor}")
    return ", ".join(words)
