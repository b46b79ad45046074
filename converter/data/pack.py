"""``python -m converter.data.pack --data DIR --out FILE``: packs photographs that ship with weights."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from converter.data.datasets import TRAIN_NAMES, VALIDATION_NAMES, find_split, read_labelled_folder
from converter.data.photographs import CALIBRATION_IMAGES, VERIFICATION_IMAGES, spread, write_pack
from device.core.errors import TrainingError, exit_with_one_line


def main(arguments: list[str] | None = None) -> int:
    """Parses flags and packs: photographs of the training split to calibrate, of the validation split to verify."""
    parser = argparse.ArgumentParser(prog="python -m converter.data.pack", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="holds train/<class>/ and validation/<class>/")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="MODEL.WEIGHTS.photographs.zip, beside the weights"
    )
    flags = parser.parse_args(arguments)
    train, validation = find_split(flags.data, TRAIN_NAMES), find_split(flags.data, VALIDATION_NAMES)
    if train is None or validation is None:
        raise TrainingError(str(flags.data), "has no train/ and validation/ folders", reason="mismatch")
    calibration = read_labelled_folder(train)
    verification = read_labelled_folder(validation, calibration.classes)
    halves = {
        "calibration": spread(calibration.samples, CALIBRATION_IMAGES),
        "verification": spread(verification.samples, VERIFICATION_IMAGES),
    }
    write_pack(flags.out, halves, calibration.classes)
    counts = ", ".join(f"{len(samples)} for {half}" for half, samples in halves.items())
    print(f"{flags.out}: {counts}, {flags.out.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(exit_with_one_line(main))
