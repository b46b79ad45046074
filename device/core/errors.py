"""The error tree: what went wrong, where, what was expected, and what to do, in one line.

Every class has an exit code, and every error a ``reason``, a short stable word that a program can branch on::

    try:
        bundle = open_bundle(path)
    except BundleError as error:
        if error.reason == "tampered":
            ...

Exit codes below 10 are the shell's and argparse's (2 = wrong flag); 128 and above are signals.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterable
from typing import ClassVar


class GhostwattError(Exception):
    """Base of every error that a person or a program is meant to read.

    Args:
        where: the file, key, flag or device, as precisely as it is known (``rpi4.yaml:12 camera.rate_fps``).
        found: what was there.
        expected: what should have been there.
        remedy: what to do now.
        reason: a stable word for programs.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, where: str, found: str, *, expected: str = "", remedy: str = "", reason: str = "invalid") -> None:
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


class UsageError(GhostwattError):
    """A flag, or flags together, that make no sense: ``unknown_<table>``, ``malformed_uri``, ``no_source``, ``no_rate``,
    ``threads``, ``malformed_address``.
    """

    exit_code = 2


class ProfileError(GhostwattError):
    """A profile that is missing, malformed, or contradicts itself."""

    exit_code = 10


class BundleError(GhostwattError):
    """A bundle that can't be trusted: ``missing``, ``truncated``, ``tampered``, ``schema``, ``malformed``, ``labels``;
    in a store also ``archive``, ``unsigned``, ``signature``, ``store``.
    """

    exit_code = 11


class BoardError(GhostwattError):
    """The board isn't what the bundle or the profile was made for."""

    exit_code = 12


class DoctorError(GhostwattError):
    """The doctor found something that doesn't work: ``failed``. Which, and what to do, stands in its table."""

    exit_code = 13


class SourceError(GhostwattError):
    """A camera, a stream or a file that gives no frames.

    ``missing``, ``empty``, ``decode``, ``stalled``, ``ended``, ``closed``; of cameras also ``permission``, ``busy``,
    ``failed``, ``format``, ``bandwidth``, ``ambiguous``, ``frozen``, ``interrupted``; of streams ``unreachable``,
    ``unauthorised``, ``refused``, ``certificate``, ``malformed``, ``behind``.
    """

    exit_code = 20


class MissingDependencyError(GhostwattError):
    """A package, a library or a compiler that is needed isn't there.

    ``not_installed``, ``not_loadable``, ``abi``, ``32_bit``, ``compiler``, ``executorch``, ``compile``.
    """

    exit_code = 30


class ModelLoadError(GhostwattError):
    """A runtime refused a model.

    ``missing``, ``unreadable``, ``malformed``, ``version``, ``signature``, ``undelegated``, ``threads``, ``memory``.
    """

    exit_code = 31


class InferenceError(GhostwattError):
    """A loaded model failed to run, or was given the wrong array: ``type``, ``shape``, ``layout``, ``closed``, ``failed``."""

    exit_code = 32


class SelfTestError(GhostwattError):
    """The board computes something else than the host did."""

    exit_code = 33


class MeterError(GhostwattError):
    """A power meter that can't be read: ``missing``, ``permission``, ``malformed``, ``shunt``, ``ambiguous``.

    ``busy``: a kernel driver has the chip. ``chip``: another chip is there. ``setting``: it lost its setting. ``range``: more
    than it can tell. ``stalled``: no answer in time. ``charging``: a battery that isn't being drained. ``uncalibrated``: a
    current that can't be in the unit that it should be. ``address``, ``channel``: the profile. ``unauthorised``: a kind of
    login that isn't supported. ``other_board``: a power model of another board. ``implausible``: a calibration whose figures
    can't be.
    """

    exit_code = 40


class SinkError(GhostwattError):
    """Telemetry or predictions that can't be written: ``full``, ``permission``, ``damaged``, ``schema``, ``write``.

    A page for Prometheus that can't be served: ``busy``, ``permission``, ``address``. A broker that can't be told:
    ``unreachable``, ``unauthorised``, ``certificate``; of the user's netrc ``missing``, ``malformed``.
    """

    exit_code = 50


class ReportError(GhostwattError):
    """Records that no report can be made of: ``missing``, ``permission``, ``damaged``, ``schema``, ``busy``, ``unknown_run``,
    ``ambiguous``, ``empty``, ``write``.
    """

    exit_code = 51


class ConversionError(GhostwattError):
    """A conversion that would have produced a bad bundle: ``undelegated``, ``accuracy``, ``export``, ``weights``."""

    exit_code = 60


class TrainingError(GhostwattError):
    """A data set or a checkpoint that can't be trained from: ``empty``, ``one_class``, ``broken_image``, ``mismatch``."""

    exit_code = 61


class BenchError(GhostwattError):
    """A measurement that can't be trusted, or can't be made.

    ``no_power``, ``failed``, ``missing``, ``malformed``, ``permission``, ``infeasible``. ``changed``: a bundle, while it was
    measured. ``governor``: it could not be set. ``exists``: a person's own file is in the way. With ``--strict`` the code of
    the flag that was raised (`device.bench.result.FlagCode`).
    """

    exit_code = 70


class ServiceError(GhostwattError):
    """The service can't be installed, changed or removed on this board, or doesn't come up.

    ``permission``, ``systemd``, ``disk``, ``not_installed``, ``not_ready``, ``refused``. ``user``: its user can't be made or
    removed. ``python``: its package can't be compiled. ``older``: the software to install knows less than its installer. Where
    what ran before is put back, the reason of what failed.
    """

    exit_code = 80


class DeployError(GhostwattError):
    """A board that can't be deployed to: ``hosts``, ``ssh``, ``board``, ``wheels``, ``install``, ``failed``."""

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


def exit_with_one_line(main: Callable[[], int]) -> int:
    """Runs a command's ``main``; an error of ours becomes one line on stderr and its own exit code.

    ``GHOSTWATT_TRACEBACK=1`` in the environment lets the traceback through.
    """
    import os

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
