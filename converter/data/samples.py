"""``python -m converter.data.samples --out DIR``: unpacks the photographs that ship with the weights, for demos and tests."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from converter.data.photographs import PACK_SUFFIX, pack_members
from converter.weights.checkpoints import find_checkpoint
from device.core.errors import exit_with_one_line

HALF = "verification"


def unpack_samples(pack: Path, out: Path) -> int:
    """Writes a pack's verification photographs as ``out/<label>/*.jpg``; returns how many."""
    count = 0
    for name, data in pack_members(pack):
        half, label, file = name.split("/")
        if half != HALF:
            continue
        folder = out / label
        folder.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(data)
        count += 1
    return count


def main(arguments: list[str] | None = None) -> int:
    """Parses flags and unpacks."""
    parser = argparse.ArgumentParser(prog="python -m converter.data.samples", description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="ghostnet_100", help="(default: %(default)s)")
    parser.add_argument("--weights", default="clothing", help="(default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="created if it doesn't exist")
    flags = parser.parse_args(arguments)
    checkpoint = find_checkpoint(flags.model, flags.weights)
    count = unpack_samples(checkpoint.with_name(checkpoint.stem + PACK_SUFFIX), flags.out)
    print(f"{count} photographs in {flags.out}")
    return 0


if __name__ == "__main__":
    sys.exit(exit_with_one_line(main))
