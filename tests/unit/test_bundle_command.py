"""``python -m device.bundle``: what it says to people, and to programs that ask for JSON."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from device.bundle import MANIFEST_NAME, open_bundle
from device.bundle import __main__ as command
from device.bundle.signature import sign
from device.bundle.store import BundleStore
from device.core.errors import BundleError
from tests.unit.bundles import change_manifest, make_profile, write_bundle

Asks = Callable[..., Any]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    # These bundles' networks are none that a runtime takes.
    monkeypatch.setattr(command, "prove_by_self_test", lambda _: None)
    return tmp_path / "store"


@pytest.fixture
def say(store: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs the command; gives what it printed."""

    def run(*arguments: object) -> str:
        assert command.main(["--store", str(store), "--config", str(store / "etc"), *map(str, arguments)]) == 0
        return capsys.readouterr().out

    return run


@pytest.fixture
def ask(say: Callable[..., str]) -> Asks:
    """Runs the command with ``--json``; gives what one line of JSON held."""

    def run(*arguments: object) -> Any:
        said = say(*arguments, "--json")
        assert said.count("\n") == 1
        return json.loads(said)

    return run


def bundle(folder: Path, number: int) -> Path:
    """A bundle unlike those of other numbers."""
    root = folder / f"bundle-{number}"
    write_bundle(root, make_profile("eco"))
    change_manifest(root, versions={"number": str(number)})
    return root


def row(ask: Asks, sha256: str) -> Any:
    """What `list` says of a bundle."""
    (found,) = [entry for entry in ask("list") if entry["sha256"] == sha256]
    return found


def test_install_says_what_the_list_says(ask: Asks, tmp_path: Path) -> None:
    taken = ask("install", bundle(tmp_path, 1))
    assert taken == row(ask, taken["sha256"])
    assert (taken["profile"], taken["model"], taken["is_current"], taken["on_trial"]) == ("eco", "colours (none)", True, True)


def test_installed_without_a_switch_it_is_not_current(ask: Asks, tmp_path: Path) -> None:
    first = ask("install", bundle(tmp_path, 1))
    kept = ask("install", "--no-switch", bundle(tmp_path, 2))
    assert kept == row(ask, kept["sha256"])
    assert not kept["is_current"]
    assert row(ask, first["sha256"])["is_current"]


def test_installed_again_it_is_the_same(ask: Asks, tmp_path: Path) -> None:
    assert ask("install", bundle(tmp_path, 1)) == ask("install", tmp_path / "bundle-1")


def test_switch_rollback_and_restore_say_what_is_current_now(ask: Asks, store: Path, tmp_path: Path) -> None:
    one = ask("install", bundle(tmp_path, 1))["sha256"]
    BundleStore(store).confirm("eco")
    two = ask("install", "--no-switch", bundle(tmp_path, 2))["sha256"]
    switched = ask("switch", two[:12])
    assert (switched["sha256"], switched["is_current"], switched["on_trial"]) == (two, True, True)
    back = ask("rollback")
    assert (back["sha256"], back["is_current"], back["on_trial"]) == (one, True, False)
    restored = ask("restore", "--starts", "2", "--previous", one, two)
    assert (restored["sha256"], restored["is_current"], restored["on_trial"], restored["starts"]) == (two, True, True, 2)
    assert restored == row(ask, two)
    assert row(ask, one)["is_previous"]


def test_verify_says_which_bundle_it_looked_at(ask: Asks, tmp_path: Path) -> None:
    root = bundle(tmp_path, 1)
    sha256 = open_bundle(root).manifest_sha256
    assert ask("verify", root) == {"sha256": sha256, "profile": "eco", "model": "colours (none)", "signer": None}


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs ssh-keygen: apt install openssh-client")
def test_verify_says_who_signed(ask: Asks, store: Path, tmp_path: Path) -> None:
    key, root = tmp_path / "key", bundle(tmp_path, 1)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    (store / "etc").mkdir(parents=True)
    (store / "etc/allowed_signers").write_text(f"me {key.with_suffix('.pub').read_text()}")
    sign(root, key)
    assert ask("verify", root)["signer"] == "me"


def test_what_is_refused_prints_no_object(say: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = bundle(tmp_path, 1)
    (root / MANIFEST_NAME).write_text("{")
    for action in ("install", "verify"):
        with pytest.raises(BundleError):
            say(action, root, "--json")
    assert capsys.readouterr().out == ""


def test_people_are_told_in_words(say: Callable[..., str], store: Path, tmp_path: Path) -> None:
    # The first line as it is: installers of older releases read the name out of it.
    said = say("install", bundle(tmp_path, 1)).splitlines()
    assert re.fullmatch(r"installed [0-9a-f]{12}: eco, colours", said[0])
    assert said[1:] == ["eco runs it from its next start on, at first on trial"]
    BundleStore(store).confirm("eco")
    say("install", bundle(tmp_path, 2))
    name = said[0].split()[1].rstrip(":")
    assert say("rollback") == f"eco runs {name} from its next start on\n"
    assert say("restore", name) == f"eco runs {name} from its next start on, as before\n"
    assert say("switch", name) == f"eco runs {name} from its next start on\n"
    assert "whole, no signers named in" in say("verify", tmp_path / "bundle-1")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_what_root_gives_to_the_stores_owner_is_in_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, victims = tmp_path / "store", tmp_path / "victims"
    for folder in (store / "sub", victims):
        folder.mkdir(parents=True)
        for name in ("a", "b"):
            (folder / name).touch()
    os.chown(store, 12345, 12345)
    real_chown = os.chown

    def chown(path: Any, *arguments: Any, **options: Any) -> None:
        real_chown(path, *arguments, **options)
        if Path(path).name in ("a", "b") and not (store / "sub").is_symlink():
            # The owner, at the worst moment.
            (store / "sub").rename(store / "moved")
            (store / "sub").symlink_to(victims)

    monkeypatch.setattr(os, "chown", chown)
    command.give_to_owner(store)
    assert [path.stat().st_uid for path in victims.iterdir()] == [0, 0]
    assert [path.stat().st_uid for path in (store / "moved", *(store / "moved").iterdir())] == [12345] * 3


def test_a_shielded_command_proves_with_its_own_software(tmp_path: Path) -> None:
    trap = tmp_path / "here"
    (trap / "device").mkdir(parents=True)
    (trap / "device/__init__.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')\n")
    script = (
        f"import sys; sys.path.insert(0, {str(Path(command.__file__).parents[2])!r})\n"
        "from pathlib import Path; from device.bundle import open_bundle; from device.bundle.prove import prove_by_self_test\n"
        f"prove_by_self_test(open_bundle(Path({str(bundle(tmp_path, 1))!r})))\n"
    )
    subprocess.run([sys.executable, "-I", "-c", script], cwd=trap, check=False, capture_output=True, timeout=60)
    assert not (tmp_path / "sprung").exists()
