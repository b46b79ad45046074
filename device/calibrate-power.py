"""The command's name as people type it: ``python -m device.calibrate-power``. The work is in `device.calibrate_power`."""

# ruff: noqa: N999

import sys

from device.calibrate_power import main
from device.errors import exit_with_one_line

if __name__ == "__main__":
    sys.exit(exit_with_one_line(main))
