"""The error tree: what went wrong, where, what was expected, and what to do, in one line.

Every family of errors has an exit code, and every error a ``reason``, a short stable word that a program can branch on::

    try:
        bundle = open_bundle(path)
    except BundleError as error:
        if error.reason == "tampered":
            ...

The reasons of a family are a ``Literal`` beside it, so that a type checker refuses an unknown one. They are closed: a plug-in
from outside raises the families below with the reason that fits best, and says the rest in ``found`` and ``remedy``.

Exit codes below 10 are the shell's and argparse's (2 = wrong flag); 128 and above are signals.

Standard library alone: the installer runs this on a bare board.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable, Iterable
from typing import ClassVar, Generic, Literal, TypedDict, TypeVar


class ErrorFacts(TypedDict):
    """An error as data, to go from one process to another; see `GhostwattError.facts` and `read_facts`.

    Attributes:
        kind: name of its class.
        where: see `GhostwattError`, as are the next four.
        found: what was there.
        expected: what should have been there; may be empty.
        remedy: what to do now; may be empty.
        reason: a stable word for programs.
        exit_code: of a command that ends with it.
    """

    kind: str
    where: str
    found: str
    expected: str
    remedy: str
    reason: str
    exit_code: int


class GhostwattError(Exception):
    """Base of every error that a person or a program is meant to read.

    Args:
        where: the file, key, flag or device, as precisely as it is known (``rpi4.yaml:12 camera.rate_fps``).
        found: what was there.
        expected: what should have been there.
        remedy: what to do now.
        reason: a stable word for programs, see the family.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, where: str, found: str, *, reason: str, expected: str = "", remedy: str = "") -> None:
        self.where = where
        self.found = found
        self.expected = expected
        self.remedy = remedy
        self.reason = reason
        super().__init__(str(self))

    def __str__(self) -> str:
        parts = [f"{self.where}: {self.found}"]
        if self.expected:
            parts.append(f"expected {self.expected}")
        if self.remedy:
            parts.append(self.remedy)
        return "; ".join(" ".join(part.split()) for part in parts)

    def facts(self) -> ErrorFacts:
        """The error as data."""
        return {
            "kind": type(self).__name__,
            "where": self.where,
            "found": self.found,
            "expected": self.expected,
            "remedy": self.remedy,
            "reason": self.reason,
            "exit_code": self.exit_code,
        }


ReasonT = TypeVar("ReasonT", bound=str)


class _FamilyError(GhostwattError, Generic[ReasonT]):
    """A family of errors whose reasons are known."""

    reason: ReasonT

    def __init__(self, where: str, found: str, *, reason: ReasonT, expected: str = "", remedy: str = "") -> None:
        super().__init__(where, found, reason=reason, expected=expected, remedy=remedy)


UsageReason = Literal[
    "ambiguous",
    "boards",
    "device",
    "estimate",
    "flags",
    "governor",
    "images",
    "jobs",
    "malformed_address",
    "malformed_meter",
    "malformed_runtime",
    "malformed_sink",
    "malformed_source",
    "malformed_uri",
    "name",
    "no_answer",
    "no_governor",
    "no_rate",
    "no_source",
    "rate",
    "recipe",
    "rounds",
    "runtime",
    "threads",
    "too_short",
    "twice",
    "unknown_arch",
    "unknown_meter",
    "unknown_model",
    "unknown_network",
    "unknown_option",
    "unknown_recipe",
    "unknown_runtime",
    "unknown_sink",
    "unknown_source",
]
"""Reasons of a `UsageError`.

- ``ambiguous``: there are several, and no flag says which.
- ``boards``: bundles of several boards are named together.
- ``device``: torch finds no such processor here.
- ``estimate``: a meter is to be fitted by an estimate.
- ``flags``: flags contradict one another, or one is missing.
- ``governor``: the processor has no such frequency governor.
- ``images``: too few.
- ``jobs``: too few.
- ``malformed_address``: no address to listen on.
- ``malformed_meter``, ``malformed_runtime``, ``malformed_sink``, ``malformed_source``: a package from outside names no such
  plug-in.
- ``malformed_uri``: no source's or broker's address.
- ``name``: no name for a profile, or for its file.
- ``no_answer``: a person was asked for a figure and gave none.
- ``no_governor``: the processor's frequency can't be governed here.
- ``no_rate``: the source has no frame rate of its own, and none was asked for.
- ``no_source``: neither flag nor profile names a source.
- ``rate``: no rate of frames.
- ``recipe``: it rounds nothing, so that there is nothing to measure.
- ``rounds``: too few.
- ``runtime``: the bundle has nothing for this runtime.
- ``threads``: more threads than cores, or fewer than one.
- ``too_short``: ``--quick`` measures too little for ``--strict``.
- ``twice``: a source is named twice.
- ``unknown_arch``, ``unknown_meter``, ``unknown_model``, ``unknown_network``, ``unknown_option``, ``unknown_recipe``,
  ``unknown_runtime``, ``unknown_sink``, ``unknown_source``: nothing of this kind has that name.
"""


class UsageError(_FamilyError[UsageReason]):
    """A flag, or flags together, that make no sense."""

    exit_code = 2


ProfileReason = Literal["contradiction", "cycle", "invalid", "missing", "unknown_key", "unknown_model", "unsupported", "yaml"]
"""Reasons of a `ProfileError`.

- ``contradiction``: two keys don't fit together.
- ``cycle``: it inherits from itself.
- ``invalid``: a value of the wrong type, out of range, or of no known name.
- ``missing``: there is no readable file of that name.
- ``unknown_key``: no such key.
- ``unknown_model``: no such model.
- ``unsupported``: the camera has no such control.
- ``yaml``: the file is no YAML, or gives a key twice.
"""


class ProfileError(_FamilyError[ProfileReason]):
    """A profile that is missing, malformed, or contradicts itself."""

    exit_code = 10


BundleReason = Literal[
    "archive",
    "labels",
    "malformed",
    "mismatch",
    "missing",
    "schema",
    "signature",
    "store",
    "tampered",
    "truncated",
    "unsigned",
]
"""Reasons of a `BundleError`.

- ``archive``: no archive of a bundle's files and nothing else.
- ``labels``: another number of labels than classes, or other labels.
- ``malformed``: a file of it can't be read as what it is.
- ``mismatch``: it was made from other weights.
- ``missing``: there is no such bundle, or a file of it is absent.
- ``schema``: the manifest is older or newer than this software understands.
- ``signature``: signed by someone who isn't allowed, or the signature doesn't hold, or it can't be signed.
- ``store``: the store can't be written.
- ``tampered``: a file has another hash than the manifest says.
- ``truncated``: a file has another size than the manifest says.
- ``unsigned``: the board takes only signed bundles.
"""


class BundleError(_FamilyError[BundleReason]):
    """A bundle that can't be trusted, or a store that can't keep it."""

    exit_code = 11


BoardReason = Literal["missing"]
"""Reasons of a `BoardError`.

- ``missing``: the kernel doesn't give a figure that it must.
"""


class BoardError(_FamilyError[BoardReason]):
    """The board isn't what the bundle or the profile was made for."""

    exit_code = 12


DoctorReason = Literal["failed"]
"""Reasons of a `DoctorError`.

- ``failed``: at least one check did.
"""


class DoctorError(_FamilyError[DoctorReason]):
    """The doctor found something that doesn't work. Its table says what, and what to do."""

    exit_code = 13


SourceReason = Literal[
    "ambiguous",
    "bandwidth",
    "behind",
    "busy",
    "certificate",
    "closed",
    "decode",
    "empty",
    "ended",
    "failed",
    "format",
    "frozen",
    "interrupted",
    "malformed",
    "missing",
    "permission",
    "refused",
    "stalled",
    "unauthorised",
    "unreachable",
]
"""Reasons of a `SourceError`.

- ``ambiguous``: several cameras have this name.
- ``bandwidth``: the USB bus has no room for this format.
- ``behind``: frames come faster than they can be decoded.
- ``busy``: another program holds the camera.
- ``certificate``: the server's isn't trusted.
- ``closed``: it was read after `close`.
- ``decode``: this one picture is damaged; the next may be well.
- ``empty``: no picture in it.
- ``ended``: the camera or the stream is gone.
- ``failed``: the system says no more than that it doesn't work.
- ``format``: it delivers nothing that can be decoded here.
- ``frozen``: the same picture again and again.
- ``interrupted``: it is being opened again; another source may deliver meanwhile.
- ``malformed``: the stream breaks its protocol, or the netrc file can't be read.
- ``missing``: no such camera, file or folder.
- ``permission``: this user may not open it.
- ``refused``: the server says no.
- ``stalled``: no frame in time.
- ``unauthorised``: it wants a user and a password, or others.
- ``unreachable``: no connection comes about.
"""


class SourceError(_FamilyError[SourceReason]):
    """A camera, a stream or a file that gives no frames."""

    exit_code = 20


DependencyReason = Literal["32_bit", "abi", "compile", "compiler", "executorch", "not_installed", "not_loadable", "wheel"]
"""Reasons of a `MissingDependencyError`.

- ``32_bit``: there is none for a 32-bit Python.
- ``abi``: it was built for another version of what it is used with.
- ``compile``: the compiler failed.
- ``compiler``: there is none.
- ``executorch``: its wheel can't be had, or isn't the one that is needed.
- ``not_installed``: it isn't there.
- ``not_loadable``: it is there, and can't be loaded.
- ``wheel``: a wheel is absent, there twice, damaged, or made for another Python.
"""


class MissingDependencyError(_FamilyError[DependencyReason]):
    """A package, a library or a compiler that is needed isn't there."""

    exit_code = 30


ModelReason = Literal["malformed", "memory", "missing", "signature", "threads", "undelegated", "unreadable", "version"]
"""Reasons of a `ModelLoadError`.

- ``malformed``: no model of this runtime.
- ``memory``: not enough for it.
- ``missing``: there is no such file.
- ``signature``: its inputs or outputs aren't those that the manifest promises.
- ``threads``: the runtime can't have so many.
- ``undelegated``: part of it would run outside of XNNPACK, many times slower.
- ``unreadable``: the file can't be read.
- ``version``: of a format that this runtime doesn't know.
"""


class ModelLoadError(_FamilyError[ModelReason]):
    """A runtime refused a model."""

    exit_code = 31


InferenceReason = Literal["closed", "failed", "layout", "shape", "type"]
"""Reasons of an `InferenceError`.

- ``closed``: the session was closed before.
- ``failed``: the runtime failed.
- ``layout``: the array isn't contiguous.
- ``shape``: the array has another shape than the input.
- ``type``: the array has another type than the input.
"""


class InferenceError(_FamilyError[InferenceReason]):
    """A loaded model failed to run, or was given the wrong array."""

    exit_code = 32


SelfTestReason = Literal["drift", "refused"]
"""Reasons of a `SelfTestError`.

- ``drift``: the scores differ from the host's.
- ``refused``: the self-test's process failed, crashed, or hung.
"""


class SelfTestError(_FamilyError[SelfTestReason]):
    """The board computes something else than the host did."""

    exit_code = 33


MeterReason = Literal[
    "address",
    "ambiguous",
    "busy",
    "charging",
    "chip",
    "implausible",
    "malformed",
    "missing",
    "options",
    "other_board",
    "permission",
    "range",
    "setting",
    "shunt",
    "stalled",
    "unauthorised",
    "uncalibrated",
]
"""Reasons of a `MeterError`.

- ``address``: the profile's makes no sense for this meter.
- ``ambiguous``: several meters fit.
- ``busy``: a kernel driver has the chip.
- ``charging``: the battery isn't being drained.
- ``chip``: another chip is there.
- ``implausible``: the figures of a power model can't be true.
- ``malformed``: its answer, or a file that it needs, makes no sense.
- ``missing``: no such meter, or it gives no figure.
- ``options``: the profile gives it a key that it doesn't take, a wrong value, or too few keys.
- ``other_board``: the power model was measured on another board.
- ``permission``: this user may not read it.
- ``range``: more than it can measure.
- ``setting``: it lost its configuration, as after a brown-out.
- ``shunt``: the profile's resistance is absent, superfluous, or not the kernel's.
- ``stalled``: no answer in time.
- ``unauthorised``: it wants a kind of login that isn't supported.
- ``uncalibrated``: the current can't be in the unit that the kernel documents.
"""


class MeterError(_FamilyError[MeterReason]):
    """A power meter that can't be read."""

    exit_code = 40


SinkReason = Literal[
    "address",
    "busy",
    "certificate",
    "damaged",
    "full",
    "malformed",
    "missing",
    "permission",
    "refused",
    "schema",
    "unauthorised",
    "unreachable",
    "write",
]
"""Reasons of a `SinkError`.

- ``address``: this machine has no such address to listen on.
- ``busy``: another program has the port.
- ``certificate``: the server's isn't trusted, or the trusted ones can't be read.
- ``damaged``: the file isn't a telemetry store.
- ``full``: the disk is.
- ``malformed``: the netrc file can't be read.
- ``missing``: the netrc file isn't there.
- ``permission``: this user may not write there, or listen there.
- ``refused``: the server refuses the event, or redirects it.
- ``schema``: the store is newer than this software understands.
- ``unauthorised``: the server refuses this user.
- ``unreachable``: no connection to the server.
- ``write``: the system refuses to write.
"""


class SinkError(_FamilyError[SinkReason]):
    """Records that can't be written, served or sent."""

    exit_code = 50


ReportReason = Literal["ambiguous", "busy", "damaged", "empty", "missing", "permission", "schema", "unknown_run", "write"]
"""Reasons of a `ReportError`.

- ``ambiguous``: several runs begin so.
- ``busy``: the store was opened for writing while it was read.
- ``damaged``: the file can't be read as what it is.
- ``empty``: no run has anything to show.
- ``missing``: there is no such file.
- ``permission``: this user may not read it.
- ``schema``: the store is older or newer than this software understands.
- ``unknown_run``: no such run.
- ``write``: the report can't be written.
"""


class ReportError(_FamilyError[ReportReason]):
    """Records that no report can be made of."""

    exit_code = 51


ConversionReason = Literal[
    "accuracy", "calibration", "empty", "export", "fetch", "labels", "malformed", "missing", "undelegated", "weights"
]
"""Reasons of a `ConversionError`.

- ``accuracy``: the artefact is too far from the network that it was made of.
- ``calibration``: no photographs, or not those that ranges can be taken from.
- ``empty``: a folder holds no photographs.
- ``export``: the runtime's toolchain failed.
- ``fetch``: published weights can't be fetched.
- ``labels``: another number of labels than classes.
- ``malformed``: an earlier result can't be read.
- ``missing``: there is no earlier result.
- ``undelegated``: part of the artefact would run outside of XNNPACK.
- ``weights``: there are none of that name, or they are damaged, or don't fit the model.
"""


class ConversionError(_FamilyError[ConversionReason]):
    """A conversion that would have produced a bad bundle."""

    exit_code = 60


TrainingReason = Literal["broken_image", "broken_images", "empty", "mismatch", "missing", "one_class"]
"""Reasons of a `TrainingError`.

- ``broken_image``: no image can be decoded.
- ``broken_images``: too many images can't be decoded.
- ``empty``: no classes, or a class without images.
- ``mismatch``: other classes than the checkpoint's, other settings than the run's, or no split for validation.
- ``missing``: there is no such folder.
- ``one_class``: nothing to tell apart.
"""


class TrainingError(_FamilyError[TrainingReason]):
    """A data set or a checkpoint that can't be trained from."""

    exit_code = 61


BenchReason = Literal[
    "battery_charging",
    "changed",
    "exists",
    "failed",
    "frequency_moved",
    "governor",
    "infeasible",
    "interrupted",
    "malformed",
    "missing",
    "no_power",
    "other_load",
    "permission",
    "stolen_time",
    "throttled",
    "too_short",
]
"""Reasons of a `BenchError`.

- ``changed``: a bundle was changed while it was measured.
- ``exists``: a person's own file is in the way.
- ``failed``: nothing could be measured.
- ``governor``: the processor's frequency governor isn't what it should be.
- ``infeasible``: nothing that was measured meets the aim.
- ``malformed``: the file is no result of a benchmark.
- ``missing``: there is no readable file.
- ``no_power``: the aim needs a figure of power, and there is none.
- ``permission``: this user may not write there.

With ``--strict`` also the flag that was raised first, see `device.bench.result.FlagCode`: ``battery_charging``,
``frequency_moved``, ``governor``, ``interrupted``, ``other_load``, ``stolen_time``, ``throttled``, ``too_short``.
"""


class BenchError(_FamilyError[BenchReason]):
    """A measurement that can't be trusted, or can't be made."""

    exit_code = 70


ServiceReason = Literal["disk", "not_installed", "not_ready", "older", "permission", "python", "refused", "systemd", "user"]
"""Reasons of a `ServiceError`. Where what ran before is put back, it is the reason of what failed.

- ``disk``: it is full, or can't be written.
- ``not_installed``: the profile has no bundle on this board.
- ``not_ready``: the daemon doesn't come up.
- ``older``: the software to install doesn't understand its installer.
- ``permission``: it is for root.
- ``python``: the package can't be compiled.
- ``refused``: the bundle is.
- ``systemd``: there is none, or it refuses.
- ``user``: the daemon's user can't be made or removed.
"""


class ServiceError(_FamilyError[ServiceReason]):
    """The service can't be installed, changed or removed on this board, or doesn't come up."""

    exit_code = 80


DeployReason = Literal["board", "failed", "hosts", "install", "ssh", "wheels"]
"""Reasons of a `DeployError`.

- ``board``: it isn't fit: another processor, too old a system, no room.
- ``failed``: at least one board did; the table says why.
- ``hosts``: the list of boards makes no sense.
- ``install``: the board's installer failed, or what was sent didn't arrive.
- ``ssh``: the board can't be reached, or doesn't let us in.
- ``wheels``: pip finds none for this kind of board.
"""


class DeployError(_FamilyError[DeployReason]):
    """A board that can't be deployed to."""

    exit_code = 81


_SHOWN_NAMES = 20
"""Of a list too long for one line: ImageNet has a thousand labels."""


def nearest(name: str, names: Iterable[str]) -> str:
    """Says which names there are, and which one was probably meant.

    Returns:
        ``did you mean 'litert'? (there are: executorch, litert)``, without the question where nothing is near. Of very many
        names, the first few.
    """
    known = sorted(names)
    close = difflib.get_close_matches(name, known, n=1)
    question = f"did you mean {close[0]!r}? " if close else ""
    more = f" and {len(known) - _SHOWN_NAMES} more" if len(known) > 2 * _SHOWN_NAMES else ""
    shown = known[:_SHOWN_NAMES] if more else known
    return f"{question}(there are: {', '.join(shown) or 'none'}{more})"


def read_facts(facts: ErrorFacts) -> GhostwattError:
    """The error that another process described, of the same class."""
    families: dict[str, type[GhostwattError]] = {family.__name__: family for family in _FamilyError.__subclasses__()}
    family = families.get(facts["kind"], GhostwattError)
    return family(facts["where"], facts["found"], expected=facts["expected"], remedy=facts["remedy"], reason=facts["reason"])


def exit_with_one_line(main: Callable[[], int]) -> int:
    """Runs a command's ``main``; an error of ours becomes one line on stderr and its own exit code.

    ``GHOSTWATT_TRACEBACK=1`` in the environment lets the traceback through.
    """
    try:
        return main()
    except GhostwattError as error:
        if os.environ.get("GHOSTWATT_TRACEBACK") == "1":
            raise
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        # The reader of our output (`| head`) went away; that is no failure of ours.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
