"""Who made a bundle: an SSH signature of its manifest, which holds the hash of every other file.

References:
    ssh-keygen(1), "-Y sign", "-Y find-principals", "-Y verify", and "ALLOWED SIGNERS": the file of those who may sign.
    OpenSSH's PROTOCOL.sshsig: the namespace keeps a signature for one purpose from being used for another.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

from device.core.errors import BundleError, MissingDependencyError
from device.service.layout import ALLOWED_SIGNERS_NAME, MANIFEST_NAME, REVOKED_KEYS_NAME, SIGNATURE_NAME, Layout

CONFIGURATION = Layout().configuration
"""The folder in which a board names the signers that it accepts."""

NAMESPACE = "ghostwatt-bundle"
_TIMEOUT_S = 20.0


class Trust(NamedTuple):
    """Whose signatures are accepted.

    Attributes:
        allowed_signers: file of principals and their public keys.
        revoked_keys: file of public keys that are no longer valid, or a key revocation list; None if there is none.
    """

    allowed_signers: Path
    revoked_keys: Path | None = None


def find_trust(folder: Path) -> Trust | None:
    """Reads the trust from a configuration folder; None if it names no signers and any bundle is accepted.

    Args:
        folder: may hold ``allowed_signers`` and ``revoked_keys``.
    """
    allowed, revoked = folder / ALLOWED_SIGNERS_NAME, folder / REVOKED_KEYS_NAME
    if not allowed.exists():
        return None
    return Trust(allowed, revoked if revoked.exists() else None)


def sign(root: Path, key: Path) -> Path:
    """Signs a bundle.

    Args:
        root: the bundle's folder.
        key: a private key, or a public one whose private half the SSH agent holds.

    Returns:
        The signature's file.

    Raises:
        BundleError: ``signature``: ssh-keygen refuses the key.
    """
    signature = root / SIGNATURE_NAME
    signature.unlink(missing_ok=True)
    done = _ssh_keygen("sign", "-f", str(key), "-n", NAMESPACE, str(root / MANIFEST_NAME))
    if done.returncode != 0 or not signature.exists():
        raise _refusal(
            root, f"can't be signed with {key}: {_last_line(done.stderr)}", remedy="name a private key that you may read"
        )
    return signature


def verify(root: Path, trust: Trust) -> str:
    """Checks who signed a bundle.

    Returns:
        The signer, by the name that the allowed signers' file gives.

    Raises:
        BundleError: ``unsigned``; or ``signature``: it is invalid, expired, revoked, or of an unknown key.
    """
    signature = root / SIGNATURE_NAME
    if not signature.is_file():
        raise BundleError(
            str(root),
            f"is not signed: there is no {SIGNATURE_NAME}",
            expected=f"a signature by one of {trust.allowed_signers}",
            remedy="make sign PROFILE=... KEY=...",
            reason="unsigned",
        )
    allowed = ("-f", str(trust.allowed_signers))
    found = _ssh_keygen("find-principals", "-s", str(signature), *allowed)
    signer = found.stdout.decode(errors="replace").partition("\n")[0]
    if found.returncode != 0 or not signer:
        raise _refusal(root, "is signed by a key that isn't allowed", remedy=f"add the key to {trust.allowed_signers}")
    revoked = ("-r", str(trust.revoked_keys)) if trust.revoked_keys else ()
    manifest = (root / MANIFEST_NAME).read_bytes()
    done = _ssh_keygen("verify", *allowed, "-I", signer, "-n", NAMESPACE, "-s", str(signature), *revoked, input=manifest)
    if done.returncode != 0:
        raise _refusal(
            root,
            f"has an invalid signature: {_last_line(done.stderr or done.stdout)}",
            remedy="sign it again; don't use it if you didn't change it",
        )
    return signer


def _refusal(root: Path, found: str, *, remedy: str) -> BundleError:
    return BundleError(str(root), found, remedy=remedy, reason="signature")


def _ssh_keygen(action: str, *arguments: str, input: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    program = shutil.which("ssh-keygen")
    if program is None:
        raise MissingDependencyError(
            "ssh-keygen", "isn't installed", remedy="apt install openssh-client", reason="not_installed"
        )
    # With an empty input it can't wait for a person's.
    try:
        return subprocess.run(
            [program, "-Y", action, *arguments], capture_output=True, timeout=_TIMEOUT_S, check=False, input=input or b""
        )
    except subprocess.TimeoutExpired as error:
        raise BundleError("ssh-keygen", f"gave no answer within {_TIMEOUT_S:g} s", reason="signature") from error


def _last_line(output: bytes) -> str:
    lines = output.decode(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else "ssh-keygen says nothing"
