"""Deploys to one board or to many: probe, send, install, and a result for each."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Literal, NamedTuple

from converter.deploy.payload import BundleFacts, Kind, Payload, kind_of, make_payload
from converter.deploy.probe import BoardProbe, probe, require_fit
from converter.deploy.transport import Transport
from device.core.errors import DeployError, GhostwattError

AT_ONCE = 8
"""Boards at the same time; more would only share the host's network."""

State = Literal["installed", "unchanged", "planned", "failed", "not tried"]


class Target(NamedTuple):
    """A board, and the bundle that it gets."""

    transport: Transport
    bundle: BundleFacts


class BoardResult(NamedTuple):
    """The outcome for one board.

    Attributes:
        host: as the user wrote it.
        profile: that it runs, or was to run.
        state: in one word.
        detail: one line: what runs there, or what went wrong.
        duration_s: of the whole deployment.
    """

    host: str
    profile: str
    state: State
    detail: str
    duration_s: float

    @property
    def is_well(self) -> bool:
        """True unless it failed or wasn't tried."""
        return self.state not in ("failed", "not tried")


class RolloutSettings(NamedTuple):
    """Settings of a rollout, the same for every board.

    Attributes:
        extras: to install beside those that the profile needs.
        signers: file of the signers whose bundles the boards accept from now on; None leaves that to them.
        folder: where payloads are kept.
        is_dry: change nothing on any board.
    """

    extras: tuple[str, ...]
    signers: Path | None
    folder: Path
    is_dry: bool = False


class Rollout:
    """Deploys bundles and software to boards.

    Args:
        settings: of every board.
        say: called with a line about each step, from any thread.
        make: makes a payload.
    """

    def __init__(
        self, settings: RolloutSettings, say: Callable[[str], None], make: Callable[..., Payload] = make_payload
    ) -> None:
        self._wishes = settings
        self._say = say
        self._make = make
        self._lock = Lock()
        self._payloads: dict[tuple[Kind, str], Payload] = {}

    def to_all(self, targets: Sequence[Target], *, canary: bool) -> list[BoardResult]:
        """Deploys to every board.

        Args:
            targets: at least one.
            canary: the first alone; the others only if it came up.
        """
        first = [self.to_one(targets[0])] if canary else []
        rest = targets[len(first) :]
        if not all(result.is_well for result in first):
            said = f"{targets[0].transport.name}, the first, failed"
            for target in rest:
                target.transport.close()
            return first + [
                BoardResult(target.transport.name, target.bundle.profile, "not tried", said, 0.0) for target in rest
            ]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return first + list(pool.map(self.to_one, rest))

    def to_one(self, target: Target) -> BoardResult:
        """Deploys to one board; an error becomes its result."""
        started_s = time.monotonic()
        name, profile = target.transport.name, target.bundle.profile
        try:
            state, detail = self._deploy(target)
        except GhostwattError as error:
            state, detail = "failed", str(error).removeprefix(f"{name}: ")
        except OSError as error:
            # Payloads are made in the checkout, and some of it may be root's after a sudo.
            state, detail = "failed", f"{error.filename or 'payload'}: {error.strerror or error}"
        except Exception as error:
            # An unforeseen error of one board must not cost the results of the others.
            state, detail = "failed", repr(error)
        finally:
            target.transport.close()
        result = BoardResult(name, profile, state, detail, time.monotonic() - started_s)
        self._say(f"{name}: {state} in {result.duration_s:.0f} s")
        return result

    def _deploy(self, target: Target) -> tuple[State, str]:
        transport, bundle = target
        board = probe(transport)
        require_fit(board, transport.name, bundle.arch)
        kind = kind_of(board, bundle, transport.name, self._wishes.extras)
        payload = self._payload(kind, bundle)
        plan = f"{payload.release}, {bundle.profile} {bundle.sha256[:12]}"
        if board.release == payload.release and self._runs(target, board):
            return "unchanged", plan
        if self._wishes.is_dry:
            return "planned", f"{plan}: {payload.size_bytes / 1e6:.0f} MB to send; has {board.release or 'nothing'}"
        self._say(f"{transport.name}: sending {payload.size_bytes / 1e6:.0f} MB")
        folder = self._send(transport, payload)
        self._say(f"{transport.name}: installing")
        return "installed", self._install(target, board, payload, folder) or plan

    def _payload(self, kind: Kind, bundle: BundleFacts) -> Payload:
        with self._lock:
            key = (kind, bundle.sha256)
            if key not in self._payloads:
                self._payloads[key] = self._make(kind, bundle, signers=self._wishes.signers, folder=self._wishes.folder)
            return self._payloads[key]

    def _runs(self, target: Target, board: BoardProbe) -> bool:
        """True if the board runs exactly this bundle, and is well."""
        if self._wishes.signers is not None:
            return False
        done = target.transport.run(f"{_sudo(board)}/usr/local/bin/ghostwatt service status --json")
        try:
            (profile,) = json.loads(done.out)["profiles"]
            found = (profile["profile"], profile["bundle"], profile["ActiveState"])
        except (ValueError, KeyError, TypeError):
            return False
        return found == (target.bundle.profile, target.bundle.sha256, "active")

    def _send(self, transport: Transport, payload: Payload) -> str:
        # Not /tmp, which is memory on some boards.
        script = 'd=$(mktemp -d /var/tmp/ghostwatt.XXXXXX) && { tar -x -C "$d" || { rm -rf "$d"; exit 1; }; } && echo "$d"'
        done = transport.run(script, stdin=payload.archive)
        if done.code or not done.out.strip():
            raise DeployError(transport.name, f"did not receive everything ({done.last_line})", reason="install")
        return done.out.strip()

    def _install(self, target: Target, board: BoardProbe, payload: Payload, folder: str) -> str:
        """Installs what was sent; returns what the board's installer printed."""
        there = shlex.quote(folder)
        flags = ["--system-packages"] if payload.release.endswith("-system") else []
        flags += ["--signers", f"{folder}/signers"] if self._wishes.signers is not None else []
        python = f"env PYTHONPATH={there}/wheels/{payload.wheel} python3 -sP -m device.service"
        install = f"{_sudo(board)}{python} install --wheels {there}/wheels --bundle {there}/bundle {shlex.join(flags)}"
        done = target.transport.run(f"trap 'rm -rf {there}' EXIT; {install}")
        if done.code:
            raise DeployError(target.transport.name, done.last_line, reason="install")
        return "; ".join(done.out.strip().splitlines())


def _sudo(board: BoardProbe) -> str:
    return "" if board.is_root else "sudo -n "
