"""The bundle, and whether the runtimes run its networks."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterable, Iterator

import msgspec

from device.bundle import Bundle
from device.core.errors import GhostwattError, read_facts
from device.core.programs import HUNG, Done
from device.doctor.attempt import Attempt
from device.doctor.check import Check, CheckContext, Verdict, of_error
from device.runtimes.registry import RUNTIMES

ATTEMPT_TIMEOUT_S = 60.0
"""A Zero 2 W takes some ten seconds to load a runtime and run eight images."""


def check_bundle(context: CheckContext) -> Iterator[Check]:
    """Whether there is a bundle, whole and unchanged."""
    if context.bundle:
        model = context.bundle.manifest.model
        yield Check(
            "bundle", "ok", f"{context.bundle.root}: {model.name} for {context.bundle.manifest.profile.name}, all files whole"
        )
    elif context.bundle_error:
        # Without one there may be none yet; one that is there and damaged is another matter.
        verdict: Verdict = "warn" if context.bundle_error.reason == "missing" else "fail"
        yield of_error("bundle", context.bundle_error, verdict)


def runtime_check(name: str) -> Callable[[CheckContext], Iterable[Check]]:
    """Makes the check of one runtime."""

    def check(context: CheckContext) -> Iterator[Check]:
        bundle = context.bundle
        tried = [str(bundle.root)] if bundle and _runs(name, bundle) else []
        done = context.command([sys.executable, "-m", "device.doctor.attempt", name, *tried], ATTEMPT_TIMEOUT_S)
        is_wanted = context.profile is not None and context.profile.runtime.name == name
        yield _judge(name, done, "fail" if is_wanted else "warn", has_bundle=bundle is not None)

    return check


def runtime_names(context: CheckContext) -> tuple[str, ...]:
    """Every runtime, ours and outsiders', and the one that the profile names, even if it isn't installed."""
    wanted = {context.profile.runtime.name} if context.profile else set()
    return tuple(sorted({*RUNTIMES.names(), *wanted}))


def _runs(name: str, bundle: Bundle) -> bool:
    """Whether a bundle has a network for a runtime; one that can't be loaded says why when it is tried."""
    try:
        artefact = RUNTIMES.load(name).artefact
    except GhostwattError:
        return False
    return any(found.runtime == artefact for found in bundle.manifest.artefacts)


def _judge(name: str, done: Done, verdict: Verdict, *, has_bundle: bool) -> Check:
    label = f"runtime {name}"
    if done.code < 0:
        fix = "it was built for another processor: install the wheel for this one, or choose the other runtime"
        return Check(label, verdict, f"the library brought its process down ({_signal(-done.code)})", fix)
    if done.code == HUNG:
        return Check(label, verdict, done.err, "try it by hand: python -m device.run --self-test")
    try:
        # A library may print before it.
        found = msgspec.json.decode(done.out.strip().rpartition("\n")[2], type=Attempt)
    except msgspec.DecodeError:
        return Check(label, verdict, done.last_line, "try it by hand: python -m device.run --self-test")
    if found.failure is not None:
        return of_error(label, read_facts(found.failure), verdict)
    if found.self_test is None:
        why = "the bundle has no network for it" if has_bundle else "no bundle"
        return Check(label, "ok", f"{found.version}; not tried: {why}")
    test = found.self_test
    return Check(
        label, "ok", f"{found.version} takes the network; {test.images} images as on the host (off by {test.max_error:.2g})"
    )


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
