"""The bundle, and whether the runtimes take its networks."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterable, Iterator

import msgspec

from device.core.programs import HUNG, Done
from device.doctor.attempt import Attempt
from device.doctor.check import Check, Patient, Verdict, of_error
from device.runtimes.registry import RUNTIMES

ATTEMPT_TIMEOUT_S = 60.0
"""A Zero 2 W takes some ten seconds to load a runtime and run eight images."""


def check_bundle(patient: Patient) -> Iterator[Check]:
    """Whether there is a bundle, whole and unchanged."""
    if patient.bundle:
        model = patient.bundle.manifest.model
        yield Check(
            "bundle", "ok", f"{patient.bundle.root}: {model.name} for {patient.bundle.manifest.profile.name}, all files whole"
        )
    elif patient.bundle_error:
        # Without one there may be none yet; one that is there and damaged is another matter.
        verdict: Verdict = "warn" if patient.bundle_error.reason == "missing" else "fail"
        yield of_error("bundle", patient.bundle_error, verdict)


def runtime_check(name: str) -> Callable[[Patient], Iterable[Check]]:
    """What checks one runtime."""

    def check(patient: Patient) -> Iterator[Check]:
        bundle = patient.bundle
        has_network = bundle is not None and any(artefact.runtime == name for artefact in bundle.manifest.artefacts)
        tried = [str(bundle.root)] if bundle and has_network else []
        done = patient.command([sys.executable, "-m", "device.doctor.attempt", name, *tried], ATTEMPT_TIMEOUT_S)
        is_wanted = patient.profile is not None and patient.profile.runtime.name == name
        yield _judge(name, done, "fail" if is_wanted else "warn", has_bundle=bundle is not None)

    return check


def runtime_names() -> tuple[str, ...]:
    """Every runtime of ours."""
    return RUNTIMES.own_names()


def _judge(name: str, done: Done, verdict: Verdict, *, has_bundle: bool) -> Check:
    label = f"runtime {name}"
    if done.code == 0:
        found = msgspec.json.decode(done.out, type=Attempt)
        if found.self_test is None:
            why = "the bundle has no network for it" if has_bundle else "no bundle"
            return Check(label, "ok", f"{found.version}; not tried: {why}")
        test = found.self_test
        return Check(
            label, "ok", f"{found.version} takes the network; {test.images} images as on the host (off by {test.max_error:.2g})"
        )
    if done.code < 0:
        fix = "it was built for another processor: install the wheel for this one, or choose the other runtime"
        return Check(label, verdict, f"the library brought its process down ({_signal(-done.code)})", fix)
    if done.code == HUNG:
        return Check(label, verdict, done.err, "try it by hand: python -m device.run --self-test")
    # The error's last part is what to do.
    found_text, _, fix = done.last_line.rpartition("; ")
    return Check(label, verdict, found_text or done.last_line, fix if found_text else "")


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
