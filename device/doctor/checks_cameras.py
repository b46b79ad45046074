"""Cameras: what each kind of source finds on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from device.core.errors import GhostwattError
from device.doctor.check import Check, CheckContext, Verdict, of_error
from device.sources.base import BaseSource, Diagnosis
from device.sources.registry import SOURCES


def source_kinds() -> tuple[str, ...]:
    """Every kind of source, ours and outsiders'."""
    return SOURCES.names()


def camera_check(kind: str) -> Callable[[CheckContext], Iterable[Check]]:
    """Makes the check of one kind of source; it gives no row where the kind has nothing to look for."""

    def check(context: CheckContext) -> Iterator[Check]:
        is_wanted = context.profile is not None and any(uri.startswith(f"{kind}:") for uri in context.profile.camera.uris)
        try:
            source_class: type[BaseSource] = SOURCES.load(kind)
        except GhostwattError as error:
            yield of_error(f"camera {kind}", error, "fail" if is_wanted else "warn")
            return
        for diagnosis in source_class.diagnose(context.root, context.command):
            yield judge(diagnosis, is_wanted=is_wanted)

    return check


def judge(diagnosis: Diagnosis, *, is_wanted: bool) -> Check:
    """Makes a row of what a source found.

    Args:
        diagnosis: what it found.
        is_wanted: the profile reads a camera of this kind.
    """
    subject, state, finding, remedy = diagnosis
    if state == "absent":
        finding, remedy = (f"{finding}, but the profile's camera is one", remedy) if is_wanted else (finding, "")
    verdicts: dict[str, Verdict] = {
        "ok": "ok",
        "doubtful": "warn",
        "broken": "fail" if is_wanted else "warn",
        "absent": "fail" if is_wanted else "unsupported",
        "unsupported": "unsupported",
    }
    return Check(f"camera {subject}", verdicts[state], finding, remedy)
