"""``python -m device.bundle``: takes bundles in, and switches between them."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from device.bundle.archive import pack
from device.bundle.prove import prove_by_self_test
from device.bundle.reader import Bundle, open_bundle
from device.bundle.signature import CONFIGURATION, find_trust, sign, verify
from device.bundle.store import BundleStore, Stored, describe_model
from device.core.errors import exit_with_one_line
from device.core.state import find_state_folder


def build_parser() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = argparse.ArgumentParser(
        prog="python -m device.bundle",
        description="Keeps this board's bundles: takes in what is whole, trusted and proven, and switches between them.",
    )
    parser.add_argument(
        "--store", type=Path, default=find_state_folder(), metavar="DIR", help="where bundles are kept (default: %(default)s)"
    )
    parser.add_argument(
        "--config",
        type=Path,
        default=CONFIGURATION,
        metavar="DIR",
        help="where allowed_signers and revoked_keys lie: with them, unsigned bundles are refused (default: %(default)s)",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    install = actions.add_parser("install", help="take a bundle in, and switch to it")
    install.add_argument("bundle", type=Path, help="its folder, or a tar archive of it")
    install.add_argument("--no-switch", action="store_true", help="keep the current one running")
    listing = actions.add_parser("list", help="show the bundles that are kept")
    listing.add_argument("--json", action="store_true", help="as JSON")
    switch = actions.add_parser("switch", help="run another bundle that is kept")
    switch.add_argument("sha256", help="its name, or the beginning of it")
    rollback = actions.add_parser("rollback", help="run the previous bundle again")
    rollback.add_argument("--profile", metavar="NAME", help="of which profile; needed where there are several")
    restore = actions.add_parser("restore", help="undo a switch: what `list --json` said was current is so again")
    restore.add_argument("sha256", help="of what was current")
    restore.add_argument("--starts", type=int, metavar="N", help="it was on trial, and started so often")
    restore.add_argument("--previous", metavar="SHA256", help="of what was previous")
    check = actions.add_parser("verify", help="check a bundle's files, its signature, and that it runs here")
    check.add_argument("bundle", type=Path, help="its folder")
    for action in (install, switch, rollback, restore, check):
        action.add_argument("--json", action="store_true", help="print one JSON object instead of words")
    signing = actions.add_parser("sign", help="sign a bundle")
    signing.add_argument("bundle", type=Path, help="its folder")
    signing.add_argument("--key", type=Path, required=True, help="an SSH private key")
    packing = actions.add_parser("pack", help="write a bundle into one file")
    packing.add_argument("bundle", type=Path, help="its folder")
    packing.add_argument("archive", type=Path, help="FILE.tar, FILE.tar.gz or FILE.tar.xz")
    return parser


def install(flags: argparse.Namespace) -> None:
    """Takes a bundle in, and switches to it."""
    store = BundleStore(flags.store)
    bundle = store.install(flags.bundle, trust=find_trust(flags.config), prove=prove_by_self_test)
    _say(flags, f"installed {bundle.manifest_sha256[:12]}: {bundle.manifest.profile.name}, {bundle.manifest.model.name}")
    if not flags.no_switch:
        store.switch(bundle.manifest_sha256)
        _say(flags, f"{bundle.manifest.profile.name} runs it from its next start on, at first on trial")
    _show(flags, store.describe(bundle)._asdict())


def _say(flags: argparse.Namespace, line: str) -> None:
    """Prints a line for a person, unless JSON was asked for."""
    if not flags.json:
        print(line)


def _show(flags: argparse.Namespace, row: Mapping[str, object]) -> None:
    """Prints JSON, if it was asked for."""
    if flags.json:
        print(msgspec.json.encode(row).decode())


def list_bundles(flags: argparse.Namespace) -> None:
    """Shows what is kept."""
    entries = BundleStore(flags.store).entries()
    if flags.json:
        print(msgspec.json.encode([entry._asdict() for entry in entries]).decode())
        return
    for entry in entries:
        print(f"{entry.sha256[:12]}  {entry.profile:<16}{entry.model:<28}{_role(entry)}".rstrip())
    if not entries:
        print(f"no bundle in {flags.store}; python -m device.bundle install BUNDLE takes one in")


def _role(entry: Stored) -> str:
    if entry.is_current:
        return "current, on trial" if entry.on_trial else "current"
    return "previous" if entry.is_previous else ""


def switch(flags: argparse.Namespace) -> None:
    """Runs another bundle."""
    store = BundleStore(flags.store)
    _show_start(flags, store, store.switch(flags.sha256))


def rollback(flags: argparse.Namespace) -> None:
    """Runs the previous bundle."""
    store = BundleStore(flags.store)
    _show_start(flags, store, store.rollback(flags.profile or store.only_profile()))


def restore(flags: argparse.Namespace) -> None:
    """Undoes a switch."""
    store = BundleStore(flags.store)
    bundle = store.restore(flags.sha256, starts=flags.starts, previous=flags.previous)
    _show_start(flags, store, bundle, ", as before")


def _show_start(flags: argparse.Namespace, store: BundleStore, bundle: Bundle, how: str = "") -> None:
    _say(flags, f"{bundle.manifest.profile.name} runs {bundle.manifest_sha256[:12]} from its next start on{how}")
    _show(flags, store.describe(bundle)._asdict())


def check(flags: argparse.Namespace) -> None:
    """Checks a bundle without taking it in."""
    bundle = open_bundle(flags.bundle)
    trust = find_trust(flags.config)
    signer = verify(flags.bundle, trust) if trust else None
    prove_by_self_test(bundle)
    signed = f"signed by {signer}" if trust else f"no signers named in {flags.config}"
    _say(flags, f"{bundle.manifest_sha256[:12]}: whole, {signed}, gives the host's scores here")
    manifest = bundle.manifest
    facts = {"profile": manifest.profile.name, "model": describe_model(manifest)}
    _show(flags, {"sha256": bundle.manifest_sha256, **facts, "signer": signer})


ACTIONS: dict[str, Callable[[argparse.Namespace], None]] = {
    "install": install,
    "list": list_bundles,
    "switch": switch,
    "rollback": rollback,
    "restore": restore,
    "verify": check,
    "sign": lambda flags: print(f"wrote {sign(flags.bundle, flags.key)}"),
    "pack": lambda flags: pack(open_bundle(flags.bundle).root, flags.archive),
}


def give_to_owner(store: Path) -> None:
    """Gives what root wrote into the store to the store's owner: the daemon must be able to end a trial."""
    if os.geteuid() != 0 or not store.exists():
        return
    owner = store.stat()
    # By descriptors of the folders: their owner could otherwise put a link in the way and be given other files.
    for _, folders, files, folder in os.fwalk(store):
        for name in (*folders, *files):
            os.chown(name, owner.st_uid, owner.st_gid, dir_fd=folder, follow_symlinks=False)


def main(arguments: list[str] | None = None) -> int:
    """Parses flags and acts."""
    flags = build_parser().parse_args(arguments)
    try:
        ACTIONS[flags.action](flags)
    finally:
        give_to_owner(flags.store)
    return 0


if __name__ == "__main__":
    sys.exit(exit_with_one_line(main))
