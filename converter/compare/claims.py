"""Judges the article's claims by the figures. The functions are pure, so tests can show every outcome.

The article claims 3.8 M parameters, and 23 ms where MobileNetV3-Small takes 38 ms. Milliseconds of another machine can't be
checked here, but it can be checked which network is faster, and by what factor.
"""

from __future__ import annotations

from collections.abc import Sequence

from converter.compare.latency import ratio_spread
from converter.compare.networks import ARTICLE, REFERENCE, RIVAL
from converter.compare.records import ClaimOutcome, ClaimVerdict, NetworkFigures, RoundPercentiles
from converter.exporters import runtime_title

CLAIMED_PARAMETERS_M = 3.8
CLAIMED_LATENCY_MS = 23.0
CLAIMED_RIVAL_LATENCY_MS = 38.0

# The claims are rounded to 0.1 M and to 1 ms. A figure agrees with a claim if it rounds to it.
PARAMETERS_ROUNDING_M = 0.05
LATENCY_ROUNDING_MS = 0.5
LARGEST_CLAIMED_RATIO = (CLAIMED_LATENCY_MS + LATENCY_ROUNDING_MS) / (CLAIMED_RIVAL_LATENCY_MS - LATENCY_ROUNDING_MS)

SUBJECTS = {ARTICLE: "article's table as reconstructed", REFERENCE: "paper's table"}
"""Networks that the article may mean, its own first."""


def judge(rows: Sequence[NetworkFigures], runtimes: Sequence[str]) -> tuple[ClaimVerdict, ...]:
    """Checks every claim on every network that it may mean.

    Args:
        rows: of the comparison; other networks were not measured.
        runtimes: whose latencies to check.
    """
    by_name = {row.network: row for row in rows}
    rival = by_name.get(RIVAL)
    verdicts = [judge_parameters(by_name.get(name), name) for name in SUBJECTS]
    verdicts += [judge_speed(by_name.get(name), rival, name, runtime) for name in SUBJECTS for runtime in runtimes]
    return tuple(verdicts)


def judge_parameters(row: NetworkFigures | None, network: str) -> ClaimVerdict:
    """Checks the claimed number of parameters."""
    if row is None:
        return _verdict("parameters", network, f"{CLAIMED_PARAMETERS_M} M", "not counted", "not measured")
    counted_m = row.parameters / 1e6
    agrees = abs(counted_m - CLAIMED_PARAMETERS_M) <= PARAMETERS_ROUNDING_M
    measured = f"counted {counted_m:.2f} M ({SUBJECTS[network]})"
    return _verdict("parameters", network, f"{CLAIMED_PARAMETERS_M} M", measured, "holds" if agrees else "does not hold")


def judge_speed(row: NetworkFigures | None, rival: NetworkFigures | None, network: str, runtime: str) -> ClaimVerdict:
    """Checks the claimed advantage over MobileNetV3-Small in one runtime, by the ratio in each round."""
    claim = f"faster than MobileNetV3-Small, {runtime_title(runtime)}"
    claimed = (
        f"{CLAIMED_LATENCY_MS:.0f} against {CLAIMED_RIVAL_LATENCY_MS:.0f} ms, "
        f"{CLAIMED_LATENCY_MS / CLAIMED_RIVAL_LATENCY_MS:.2f}x"
    )
    own = row.artefact(runtime) if row else None
    other = rival.artefact(runtime) if rival else None
    if own is None or other is None or own.timing is None or other.timing is None:
        return _verdict(claim, network, claimed, "no latency of both", "not measured")
    ratio = ratio_spread(own.timing.rounds_s, other.timing.rounds_s)
    own_ms, other_ms = own.timing.latency_s.p50 * 1e3, other.timing.latency_s.p50 * 1e3
    measured = (
        f"measured {own_ms:.2f} against {other_ms:.2f} ms, {ratio.p50:.2f}x "
        f"({ratio.p10:.2f} to {ratio.p90:.2f}; {SUBJECTS[network]})"
    )
    for cpu in sorted(own.arm_instructions.keys() & other.arm_instructions.keys()):
        measured += f"; {own.arm_instructions[cpu] / other.arm_instructions[cpu]:.2f}x the instructions on {cpu}"
    return _verdict(claim, network, claimed, measured, _speed_outcome(ratio))


def _speed_outcome(ratio: RoundPercentiles) -> ClaimOutcome:
    """Judges the ratio. ``holds in part`` means faster, but by less than claimed."""
    if ratio.p10 > 1.0:
        return "does not hold"
    if ratio.p90 >= 1.0:
        return "undecided"
    return "holds" if ratio.p10 <= LARGEST_CLAIMED_RATIO else "holds in part"


def _verdict(claim: str, network: str, claimed: str, measured: str, outcome: ClaimOutcome) -> ClaimVerdict:
    return ClaimVerdict(claim, network, claimed, measured, outcome)


def format_verdict(verdict: ClaimVerdict) -> str:
    """Formats a verdict as one line."""
    return f"{verdict.claim}: claimed {verdict.claimed}; {verdict.measured}: {verdict.outcome}"
