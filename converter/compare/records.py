"""The record of a comparison: ``compare.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from converter.compare.networks import PublishedAccuracy
from converter.work.machine import MeasuredMachine
from device.core.durable import write_durably
from device.core.errors import ConversionError

SCHEMA = 1
JSON_NAME = "compare.json"
ARM_NAME = "arm.json"

ClaimOutcome = Literal["holds", "holds in part", "does not hold", "undecided", "not measured"]


class RoundPercentiles(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Percentiles over the rounds of a measurement."""

    p10: float
    p50: float
    p90: float


class Timing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Latency of one artefact.

    Attributes:
        latency_s: over the rounds.
        ratio: over the rounds, of latency to that of the reference network in the same round; None without the reference.
        rounds_s: median latency in each round.
    """

    latency_s: RoundPercentiles
    ratio: RoundPercentiles | None
    rounds_s: tuple[float, ...]


class ArtefactFigures(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One network in one format.

    Attributes:
        runtime: that runs it.
        failure: why there are no figures; None if there are.
        size_bytes: of the file.
        sha256: of the file.
        timing: on this machine.
        arm_instructions: processor -> instructions of one inference; empty if they weren't counted.
    """

    runtime: str
    failure: str | None = None
    size_bytes: int | None = None
    sha256: str | None = None
    timing: Timing | None = None
    arm_instructions: dict[str, int] = {}


class NetworkFigures(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One network.

    Attributes:
        network: its name.
        description: for people.
        parameters: number of learnable parameters, with ``num_classes`` of the comparison.
        macs: multiply-accumulates of one inference.
        published: published accuracy, if any.
        artefacts: one for each runtime.
    """

    network: str
    description: str
    parameters: int
    macs: int
    published: PublishedAccuracy | None
    artefacts: tuple[ArtefactFigures, ...]

    def artefact(self, runtime: str) -> ArtefactFigures:
        """Gives the figures of a runtime; without figures if it was left out."""
        return next((one for one in self.artefacts if one.runtime == runtime), ArtefactFigures(runtime, failure="left out"))


class ClaimVerdict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What became of a claim.

    Attributes:
        claim: in words.
        network: that it was checked on.
        claimed: the article's figure.
        measured: the measured figure, in words.
        outcome: of the check.
    """

    claim: str
    network: str
    claimed: str
    measured: str
    outcome: ClaimOutcome


class Comparison(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All counted and measured figures.

    Attributes:
        schema: of this record.
        measured_at_utc: ISO 8601.
        machine: that measured.
        runtimes: that were measured, in order.
        reference: network that ratios are to.
        input_px: side of the image.
        num_classes: of every classifier.
        rounds: number of measured rounds; fewer than requested if the run was interrupted.
        runs: inferences of one network in one round.
        notes: remarks to show with the figures.
        rows: one for each network.
        verdicts: on the article's claims.
    """

    schema: int
    measured_at_utc: str
    machine: MeasuredMachine
    runtimes: tuple[str, ...]
    reference: str
    input_px: int
    num_classes: int
    rounds: int
    runs: int
    notes: tuple[str, ...]
    rows: tuple[NetworkFigures, ...]
    verdicts: tuple[ClaimVerdict, ...]


ArmCounts = dict[str, dict[str, int]]
"""sha256 of an artefact -> processor -> instructions of one inference."""


def encode(comparison: Comparison) -> bytes:
    """Gives the bytes of ``compare.json``."""
    return msgspec.json.format(msgspec.json.encode(comparison), indent=2) + b"\n"


def read_comparison(folder: Path) -> Comparison:
    """Reads the comparison of an earlier run.

    Raises:
        ConversionError: there is none, or it is malformed.
    """
    path = folder / JSON_NAME
    try:
        return msgspec.json.decode(path.read_bytes(), type=Comparison)
    except FileNotFoundError as error:
        raise ConversionError(str(path), "is not there", remedy="make compare writes it", reason="missing") from error
    except (OSError, msgspec.DecodeError) as error:
        raise ConversionError(
            str(path), f"can't be read ({error})", remedy="remove it, and make compare", reason="malformed"
        ) from error


def read_arm_counts(folder: Path) -> ArmCounts:
    """Reads the ARM instructions that were counted so far, if any.

    Raises:
        ConversionError: the file is malformed.
    """
    path = folder / ARM_NAME
    try:
        return msgspec.json.decode(path.read_bytes(), type=ArmCounts)
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.DecodeError) as error:
        raise ConversionError(
            str(path), f"can't be read ({error})", remedy="remove it, and count again", reason="malformed"
        ) from error


def write_arm_counts(folder: Path, counts: ArmCounts) -> None:
    """Writes the counts, atomically."""
    replace_file(folder / ARM_NAME, msgspec.json.format(msgspec.json.encode(counts), indent=2) + b"\n")


def with_arm_counts(row: NetworkFigures, counts: ArmCounts) -> NetworkFigures:
    """Adds counted instructions to the artefacts that they were counted on."""
    artefacts = tuple(msgspec.structs.replace(one, arm_instructions=counts.get(one.sha256 or "", {})) for one in row.artefacts)
    return msgspec.structs.replace(row, artefacts=artefacts)


def replace_file(path: Path, data: bytes) -> None:
    """Replaces a file atomically, and creates its folder if necessary."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, data)
