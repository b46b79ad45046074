"""Bundles on the board, each under its own hash, and for every profile the one that runs and the one before it.

`device.service.layout.StoreLayout` says where they lie. A bundle is never changed once it is there. Every step is atomic and
durable: after a power cut a bundle is there whole or not at all, and ``current`` points to a whole one.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, get_args

import msgspec

if TYPE_CHECKING:
    from device.bundle.signature import Trust
    from device.contract import Manifest

from device.bundle.reader import Bundle, list_names, open_bundle
from device.core.durable import point_link, sync_folder, sync_tree, write_durably
from device.core.errors import BundleError, UsageError
from device.service.layout import SIGNATURE_NAME, Role, StoreLayout

KEEP = 3
"""Bundles of a profile that stay beside ``current`` and ``previous``."""

MAX_STARTS = 3
"""A bundle on trial that was started so often without proving itself is rolled back."""


class BundleTrial(msgspec.Struct, frozen=True):
    """Content of ``trial.json``: a bundle that has yet to prove itself, and how often it was started."""

    sha256: str
    starts: int = 0


class Stored(NamedTuple):
    """A bundle in the store.

    Attributes:
        sha256: of its manifest: its name.
        profile: that it was converted for.
        model: with its weights.
        is_current: it is the one that runs.
        is_previous: it is the one to go back to.
        on_trial: it is current, and has yet to prove itself.
        starts: how often it was started on trial so far.
    """

    sha256: str
    profile: str
    model: str
    is_current: bool
    is_previous: bool
    on_trial: bool
    starts: int = 0


class Start(NamedTuple):
    """Which bundle a daemon that starts must run.

    Attributes:
        root: the bundle to run.
        on_trial: it has yet to prove itself: call `BundleStore.confirm` once it has, or `BundleStore.rollback`.
        rolled_back: why another bundle runs than was switched to; empty otherwise.
        trouble: why this one keeps running though it never proved itself; empty otherwise.
    """

    root: Path
    on_trial: bool
    rolled_back: str
    trouble: str = ""


class BundleStore:
    """Keeps bundles.

    Args:
        root: the folder; made where it isn't there.

    Raises:
        BundleError: ``store`` where the folder can't be made or written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._layout = StoreLayout(root)
        try:
            self._layout.bundles.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _trouble(root, error) from error

    def install(self, source: Path, *, trust: Trust | None, prove: Callable[[Bundle], None]) -> Bundle:
        """Takes a bundle in, once it is complete, trusted and proven; switches nothing.

        Args:
            source: a bundle's folder, or an archive of one.
            trust: whose signature it must have; None accepts any bundle.
            prove: raises where the bundle can't run on this board.

        Returns:
            The bundle, in the store. If it is there already, only damaged files are copied again.

        Raises:
            BundleError: see `open_bundle`, `verify` and `unpack`. The store is as it was.
        """
        # Not the lock of the links: proving may take minutes, and a daemon must be able to start meanwhile.
        with self._locked(".installing"), self._scratch() as scratch:
            _bring(source, scratch)
            bundle = open_bundle(scratch)
            _refuse_strangers(bundle)
            if trust is not None:
                from device.bundle.signature import verify

                verify(scratch, trust)
            home = self._layout.bundle(bundle.manifest_sha256)
            is_whole = _is_whole(home)
            if not is_whole:
                prove(bundle)
                sync_tree(scratch)
            with self._locked():
                if is_whole:
                    _add_signature(scratch, home)
                elif home.exists():
                    _mend(home, scratch)
                else:
                    scratch.rename(home)
                    sync_folder(self._layout.bundles)
                return open_bundle(home)

    def switch(self, sha256: str) -> Bundle:
        """Makes a bundle the current one of its profile, on trial.

        Args:
            sha256: its name, or the beginning of it.

        Raises:
            BundleError: ``missing``: no bundle, or more than one, has that name; or it is damaged.
        """
        with self._locked():
            bundle = open_bundle(self._home(sha256))
            profile = bundle.manifest.profile.name
            current = self._layout.target(profile, "current")
            if current != bundle.manifest_sha256:
                if current is not None and not self.is_on_trial(profile):
                    # A bundle that never proved itself is not worth going back to.
                    self._point(profile, "previous", current)
                self._write_trial(profile, BundleTrial(bundle.manifest_sha256))
                self._point(profile, "current", bundle.manifest_sha256)
            # A bundle that was on trial has no link any more, but the caller may want to `restore` it.
            self._prune(profile, spared=current)
            return bundle

    def restore(self, sha256: str, *, starts: int | None, previous: str | None) -> Bundle:
        """Undoes a `switch`: the failure was perhaps not the bundle's fault.

        Args:
            sha256: of what was current.
            starts: of its trial, see `Stored.starts`; None if it had proved itself.
            previous: the bundle to go back to then; None if there was none.

        Raises:
            BundleError: ``missing``: no bundle has that name, or it is damaged. The current one stays.
        """
        with self._locked():
            bundle = open_bundle(self._home(sha256))
            profile, name = bundle.manifest.profile.name, bundle.manifest_sha256
            if starts is not None:
                self._write_trial(profile, BundleTrial(name, starts))
            self._point(profile, "current", name)
            if starts is None:
                self._end_trial(profile)
            if previous is not None and self._layout.bundle(previous).is_dir():
                self._point(profile, "previous", previous)
            else:
                self._layout.link(profile, "previous").unlink(missing_ok=True)
            return bundle

    def rollback(self, profile: str) -> Bundle:
        """Makes the previous bundle of a profile the current one; it has proven itself before.

        Raises:
            BundleError: ``missing`` where there is none; the current one stays.
        """
        with self._locked():
            return self._rollback(profile)

    def fall_back(self, profile: str) -> Bundle:
        """Rolls back from a bundle that can't run. The previous one runs even if the disk can't be written.

        Raises:
            BundleError: ``missing`` where there is none; or it is damaged too.
        """
        try:
            return self.rollback(profile)
        except BundleError as error:
            previous = self._layout.target(profile, "previous")
            if error.reason != "store" or previous is None:
                raise
            return open_bundle(self._layout.bundle(previous))

    def start(self, profile: str) -> Start:
        """Says which bundle a daemon must run, and counts the start of one that is on trial.

        If the disk can't be written (a worn card goes read-only), the current one runs, and nothing is counted.

        Raises:
            BundleError: ``missing`` where the profile has no current bundle.
        """
        try:
            return self._start(profile)
        except BundleError as error:
            current = self._layout.target(profile, "current")
            if error.reason != "store" or current is None:
                raise
            return Start(self._layout.bundle(current), False, "")

    def _start(self, profile: str) -> Start:
        with self._locked():
            current = self._layout.target(profile, "current")
            if current is None:
                raise self._nothing(profile)
            trial = self._trial(profile)
            if trial is None or trial.sha256 != current:
                return Start(self._layout.bundle(current), False, "")
            trouble = ""
            if trial.starts >= MAX_STARTS and self._layout.target(profile, "previous") is not None:
                why = f"bundle {current[:12]} was started {trial.starts} times and never proved itself"
                try:
                    bundle = self._rollback(profile)
                except BundleError as error:
                    # Perhaps the power failed each time; the previous one certainly doesn't run.
                    trouble = f"{why}; the previous one can't be used: {error}"
                else:
                    return Start(bundle.root, False, f"{why}: back to {bundle.manifest_sha256[:12]}")
            self._write_trial(profile, BundleTrial(current, trial.starts + 1))
            return Start(self._layout.bundle(current), True, "", trouble)

    def confirm(self, profile: str) -> None:
        """Ends the trial of a profile's current bundle: it has proven itself."""
        with self._locked():
            self._end_trial(profile)

    def excuse(self, profile: str) -> None:
        """Uncounts a start that ended through no fault of the bundle."""
        with self._locked():
            trial = self._trial(profile)
            if trial is not None:
                self._write_trial(profile, BundleTrial(trial.sha256, max(0, trial.starts - 1)))

    def is_on_trial(self, profile: str) -> bool:
        """True while the current bundle has yet to prove itself."""
        trial = self._trial(profile)
        return trial is not None and trial.sha256 == self._layout.target(profile, "current")

    def entries(self) -> tuple[Stored, ...]:
        """Every bundle, sorted by profile; damaged ones are left out."""
        found = []
        for home in sorted(self._layout.bundles.iterdir()):
            with contextlib.suppress(BundleError):
                found.append(self.describe(open_bundle(home)))
        return tuple(sorted(found, key=lambda stored: (stored.profile, not stored.is_current, stored.sha256)))

    def describe(self, bundle: Bundle) -> Stored:
        """The state of a bundle of this store."""
        manifest, sha256 = bundle.manifest, bundle.manifest_sha256
        profile = manifest.profile.name
        is_current = self._layout.target(profile, "current") == sha256
        on_trial = is_current and self.is_on_trial(profile)
        trial = self._trial(profile)
        return Stored(
            sha256,
            profile,
            describe_model(manifest),
            is_current,
            self._layout.target(profile, "previous") == sha256,
            on_trial,
            trial.starts if on_trial and trial is not None else 0,
        )

    def profiles(self) -> tuple[str, ...]:
        """Profiles that have a current bundle."""
        return self._layout.profiles()

    def only_profile(self) -> str:
        """The profile that has a current bundle, where just one has.

        Raises:
            UsageError: none has, or several have.
        """
        profiles = self.profiles()
        if len(profiles) != 1:
            found = f"{len(profiles)} profiles have a bundle in {self.root} ({', '.join(profiles) or 'none'})"
            raise UsageError("--profile", found, expected="one of them", reason="ambiguous")
        return profiles[0]

    # --- inside the lock ---

    def _rollback(self, profile: str) -> Bundle:
        previous = self._layout.target(profile, "previous")
        if previous is None:
            raise BundleError(
                f"{self.root} profile {profile}",
                "has no previous bundle to go back to",
                remedy="install another: python -m device.bundle install",
                reason="missing",
            )
        bundle = open_bundle(self._layout.bundle(previous))
        self._point(profile, "current", previous)
        self._end_trial(profile)
        self._layout.link(profile, "previous").unlink()
        return bundle

    def _prune(self, profile: str, *, spared: str | None) -> None:
        """Removes the oldest bundles of a profile, but not those that a link points to, nor ``spared``."""
        roles: tuple[Role, ...] = get_args(Role)
        kept = {self._layout.target(name, role) for name in self._layout.profile_names() for role in roles} | {spared}
        old = [stored.sha256 for stored in self.entries() if stored.profile == profile and stored.sha256 not in kept]
        old.sort(key=lambda sha256: self._layout.bundle(sha256).stat().st_mtime_ns)
        for sha256 in old[: max(0, len(old) - KEEP)]:
            # Renamed first: after a power cut the next install removes what is left.
            gone = self.root / f".incoming-{sha256}"
            shutil.rmtree(gone, ignore_errors=True)
            with contextlib.suppress(OSError):  # the switch is done even if an old bundle stays
                self._layout.bundle(sha256).rename(gone)
            shutil.rmtree(gone, ignore_errors=True)

    def _home(self, sha256: str) -> Path:
        found = [path for path in self._layout.bundles.iterdir() if path.name.startswith(sha256)] if sha256 else []
        if len(found) != 1:
            raise BundleError(
                str(self._layout.bundles),
                f"{len(found)} bundles are called {sha256 or 'nothing'}...",
                expected="one",
                remedy="python -m device.bundle list",
                reason="missing",
            )
        return found[0]

    def _nothing(self, profile: str) -> BundleError:
        there = ", ".join(self.profiles()) or "none"
        return BundleError(
            str(self.root),
            f"has no current bundle for profile {profile} (there are: {there})",
            remedy="python -m device.bundle install BUNDLE",
            reason="missing",
        )

    # --- links and the trial ---

    def _point(self, profile: str, role: Role, sha256: str) -> None:
        self._layout.profile(profile).mkdir(parents=True, exist_ok=True)
        point_link(self._layout.link(profile, role), self._layout.link_text(sha256))

    def _trial(self, profile: str) -> BundleTrial | None:
        try:
            return msgspec.json.decode(self._layout.trial(profile).read_bytes(), type=BundleTrial)
        except (OSError, msgspec.DecodeError):
            return None

    def _write_trial(self, profile: str, trial: BundleTrial) -> None:
        self._layout.profile(profile).mkdir(parents=True, exist_ok=True)
        write_durably(self._layout.trial(profile), msgspec.json.encode(trial))

    def _end_trial(self, profile: str) -> None:
        self._layout.trial(profile).unlink(missing_ok=True)
        sync_folder(self._layout.profile(profile))

    # --- files ---

    @contextlib.contextmanager
    def _locked(self, name: str = ".lock") -> Iterator[None]:
        """Lets one writer in at a time; an OSError becomes a BundleError."""
        try:
            with (self.root / name).open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
        except OSError as error:
            raise _trouble(self.root, error) from error

    @contextlib.contextmanager
    def _scratch(self) -> Iterator[Path]:
        """Gives a folder on the same disk, removed afterwards unless it was moved; removes those that a power cut left."""
        for left in self.root.glob(".incoming-*"):
            shutil.rmtree(left, ignore_errors=True)
        scratch = Path(tempfile.mkdtemp(prefix=".incoming-", dir=self.root))
        scratch.chmod(0o755)
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def describe_model(manifest: Manifest) -> str:
    """A bundle's model, with its weights, for a list."""
    return f"{manifest.model.name} ({manifest.model.weights})"


def _bring(source: Path, scratch: Path) -> None:
    if not source.is_dir():
        if not source.is_file():
            raise BundleError(str(source), "is not there", expected="a bundle's folder, or an archive of one", reason="missing")
        # Imported here: the daemon needs no archives.
        from device.bundle.archive import unpack

        unpack(source, scratch)
        return
    manifest = open_bundle(source).manifest
    for name in list_names(manifest):
        path = source / name
        if path.is_symlink():
            raise BundleError(str(path), "is a link", expected="a plain file", reason="archive")
        if path.exists():
            shutil.copyfile(path, scratch / name)


def _is_whole(home: Path) -> bool:
    try:
        open_bundle(home)
    except BundleError:
        return False
    return True


def _mend(home: Path, scratch: Path) -> None:
    """Replaces the files of a damaged bundle one by one, so that a whole file stays whole at any moment."""
    for path in sorted(scratch.iterdir()):
        path.replace(home / path.name)
    sync_folder(home)


def _add_signature(scratch: Path, home: Path) -> None:
    """Adds the signature to a bundle that was taken in without one."""
    signature = scratch / SIGNATURE_NAME
    if signature.exists():
        write_durably(home / SIGNATURE_NAME, signature.read_bytes())


def _refuse_strangers(bundle: Bundle) -> None:
    known = list_names(bundle.manifest)
    for path in bundle.root.iterdir():
        if path.name not in known:
            raise BundleError(
                path.name,
                "is in the archive, but not in its manifest",
                remedy="pack the bundle's files alone",
                reason="archive",
            )


def _trouble(root: Path, error: OSError) -> BundleError:
    return BundleError(
        str(root),
        f"can't be written ({error.strerror or error})",
        remedy="free some space, or check who owns it",
        reason="store",
    )
