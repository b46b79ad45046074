from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from device.bundle import MANIFEST_NAME
from device.bundle.signature import NAMESPACE, Trust, find_trust, sign, verify
from device.core.errors import BundleError, MissingDependencyError
from device.service.layout import SIGNATURE_NAME
from tests.unit.bundles import write_bundle

pytestmark = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs ssh-keygen: apt install openssh-client")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    write_bundle(tmp_path / "bundle")
    return tmp_path / "bundle"


def make_key(folder: Path, name: str) -> Path:
    key = folder / name
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", key], check=True)
    return key


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return make_key(tmp_path, "maker")


def allow(folder: Path, *keys: Path, options: str = "") -> Trust:
    lines = [f"{key.name}@example.org {options}{key.with_name(key.name + '.pub').read_text()}" for key in keys]
    (folder / "allowed_signers").write_text("".join(lines))
    found = find_trust(folder)
    assert found is not None
    return found


def refusal(root: Path, trust: Trust) -> BundleError:
    with pytest.raises(BundleError) as caught:
        verify(root, trust)
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_signed_bundle_names_its_signer(bundle: Path, key: Path, tmp_path: Path) -> None:
    assert sign(bundle, key) == bundle / SIGNATURE_NAME
    assert verify(bundle, allow(tmp_path, key)) == "maker@example.org"


def test_without_signers_named_nothing_is_asked_for(tmp_path: Path) -> None:
    assert find_trust(tmp_path) is None


def test_an_unsigned_bundle_is_refused(bundle: Path, key: Path, tmp_path: Path) -> None:
    assert refusal(bundle, allow(tmp_path, key)).reason == "unsigned"


def test_a_signature_of_someone_else_is_refused(bundle: Path, key: Path, tmp_path: Path) -> None:
    sign(bundle, make_key(tmp_path, "stranger"))
    error = refusal(bundle, allow(tmp_path, key))
    assert error.reason == "signature"
    assert "isn't allowed" in str(error)


def test_a_changed_manifest_is_refused(bundle: Path, key: Path, tmp_path: Path) -> None:
    sign(bundle, key)
    manifest = bundle / MANIFEST_NAME
    manifest.write_bytes(manifest.read_bytes() + b" ")
    assert refusal(bundle, allow(tmp_path, key)).reason == "signature"


def test_a_revoked_key_is_refused(bundle: Path, key: Path, tmp_path: Path) -> None:
    sign(bundle, key)
    (tmp_path / "revoked_keys").write_text(key.with_name("maker.pub").read_text())
    assert refusal(bundle, allow(tmp_path, key)).reason == "signature"


def test_an_expired_key_is_refused(bundle: Path, key: Path, tmp_path: Path) -> None:
    sign(bundle, key)
    assert refusal(bundle, allow(tmp_path, key, options='valid-before="20200101" ')).reason == "signature"


def test_a_signature_for_another_purpose_is_refused(bundle: Path, key: Path, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-Y", "sign", "-f", key, "-n", "git", bundle / MANIFEST_NAME], check=True)
    assert NAMESPACE != "git"
    assert refusal(bundle, allow(tmp_path, key)).reason == "signature"


@pytest.mark.parametrize(
    "junk", [b"", b"-----BEGIN SSH SIGNATURE-----\nAAAA\n-----END SSH SIGNATURE-----\n", b"\x00\xff" * 500]
)
def test_junk_is_no_signature(bundle: Path, key: Path, tmp_path: Path, junk: bytes) -> None:
    (bundle / SIGNATURE_NAME).write_bytes(junk)
    assert refusal(bundle, allow(tmp_path, key)).reason == "signature"


def test_a_damaged_list_of_signers_trusts_nobody(bundle: Path, key: Path, tmp_path: Path) -> None:
    sign(bundle, key)
    (tmp_path / "allowed_signers").write_text("nonsense\n")
    assert refusal(bundle, Trust(tmp_path / "allowed_signers")).reason == "signature"


def test_a_damaged_list_of_revoked_keys_trusts_nobody(bundle: Path, key: Path, tmp_path: Path) -> None:
    sign(bundle, key)
    (tmp_path / "revoked_keys").write_text("nonsense\n")
    assert refusal(bundle, allow(tmp_path, key)).reason == "signature"


def test_a_key_that_cannot_sign_is_told(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "nokey").write_text("x")
    with pytest.raises(BundleError, match="can't be signed with"):
        sign(bundle, tmp_path / "nokey")
    assert not (bundle / SIGNATURE_NAME).exists()


def test_without_ssh_keygen_it_says_what_to_install(
    bundle: Path, key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign(bundle, key)
    trust = allow(tmp_path, key)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingDependencyError, match="apt install openssh-client"):
        verify(bundle, trust)


def test_a_keygen_that_hangs_is_one_line(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/ssh-keygen"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr("device.bundle.signature._TIMEOUT_S", 0.1)
    (bundle / SIGNATURE_NAME).write_text("x")
    with pytest.raises(BundleError, match="ssh-keygen: gave no answer"):
        verify(bundle, Trust(tmp_path / "allowed_signers"))
