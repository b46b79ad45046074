"""A board's own power model: what a meter showed when the board was idle and when it was busy.

Two points make a straight line through utilisation. What lies on it is still an estimate: it knows nothing of cameras, USB or
the network, and two loads of the same utilisation may draw different power.

`device.calibrate` writes it, `device.meters.estimate` reads it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import msgspec
from msgspec import Meta

from device.contract.profile import Scope, Share
from device.core.errors import MeterError, MeterReason
from device.core.state import find_state_folder, replace_file
from device.machine.board import read_compatible
from device.machine.sysfs import read_text
from device.protocols import ThrottleFlag

FILE_NAME = "power-model.json"

MIN_RISE = 0.03
"""Share of the idle power by which the load's must be higher: less is a meter's noise, or the wrong meter."""

MIN_UTILISATION_RISE = 0.4
"""A line through two points that lie closer together says little of what is outside them."""

_REDO = "run python -m device.calibrate on this board, or remove the file"


class PowerModel(NamedTuple):
    """Power of a board: ``idle_w + span_w * utilisation``, with the utilisation of all cores together in 0..1."""

    idle_w: float
    span_w: float


class MeasuredBoard(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which board a model belongs to.

    Attributes:
        name: most specific name in the device tree, or maker and product where there is none.
        serial: in the device tree; None where none can be read.
    """

    name: str
    serial: str | None = None

    def __str__(self) -> str:
        return f"{self.name} (serial {self.serial})" if self.serial else self.name


class Point(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One reading.

    Attributes:
        utilisation: of all cores together while the meter was read, 0..1.
        power_w: what the meter showed.
    """

    utilisation: Share
    power_w: Annotated[float, Meta(gt=0.0, le=2000.0)]


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Two readings, and how they were taken.

    Attributes:
        board: where they were taken.
        idle: with nothing to do.
        load: with every core busy.
        meter: where the figures come from.
        scope: what that meter's wires enclose.
        load_kind: what kept the cores busy.
        measured_at_utc: when, by the board's clock.
        throttled: flags that held under load: then a cooler board may draw more.
    """

    board: MeasuredBoard
    idle: Point
    load: Point
    meter: str
    scope: Scope
    load_kind: str
    measured_at_utc: Annotated[str, Meta(pattern=r"^\d{4}-\d\d-\d\dT")]
    throttled: tuple[ThrottleFlag, ...] = ()
    schema: Literal[1] = 1

    def __post_init__(self) -> None:
        if self.load.power_w < self.idle.power_w * (1 + MIN_RISE):
            raise ValueError(f"a load's power at least {MIN_RISE:.0%} above idle's")
        if self.load.utilisation < self.idle.utilisation + MIN_UTILISATION_RISE:
            raise ValueError(f"a load's utilisation at least {MIN_UTILISATION_RISE:.0%} above idle's")
        if self.model.idle_w <= 0:
            raise ValueError("a line that is above 0 W at idle")

    @property
    def model(self) -> PowerModel:
        """The straight line through both points."""
        slope_w = (self.load.power_w - self.idle.power_w) / (self.load.utilisation - self.idle.utilisation)
        return PowerModel(self.idle.power_w - slope_w * self.idle.utilisation, slope_w)

    @property
    def date(self) -> str:
        """The day it was measured."""
        return self.measured_at_utc[:10]


def identify_board(root: Path = Path("/")) -> MeasuredBoard | None:
    """Asks the device tree, or where there is none the firmware's tables; None where neither names the machine.

    References:
        Linux kernel, Documentation/ABI/testing/sysfs-firmware-dmi-tables: ``/sys/class/dmi/id``. Its serial numbers are for
        root alone, and left out.
    """
    serial = read_text(root / "proc/device-tree/serial-number")
    if compatible := read_compatible(root):
        return MeasuredBoard(compatible[0], serial if serial and serial.isprintable() else None)
    names = [read_text(root / "sys/class/dmi/id" / name) for name in ("sys_vendor", "product_name")]
    product = " ".join(name for name in names if name and name.isprintable())
    return MeasuredBoard(product) if product else None


def calibration_path(root: Path = Path("/")) -> Path:
    """Where the model of this machine is kept, see `device.core.state`."""
    return find_state_folder(root) / FILE_NAME


def read_calibration(root: Path = Path("/")) -> Calibration | None:
    """Reads this board's own model.

    Returns:
        The model, or None where none was ever measured.

    Raises:
        MeterError: ``permission``, ``malformed``, or ``other_board`` where it belongs to another board: two boards of the same
            kind differ too.
    """
    path = calibration_path(root)
    try:
        calibration = msgspec.json.decode(path.read_bytes(), type=Calibration)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        reason: MeterReason = "permission" if isinstance(error, PermissionError) else "malformed"
        raise MeterError(str(path), error.strerror or str(error), expected="a readable power model", reason=reason) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MeterError(str(path), "is no power model", expected=str(error), remedy=_REDO, reason="malformed") from error
    board = identify_board(root)
    if board != calibration.board:
        raise MeterError(
            str(path),
            f"belongs to {calibration.board}",
            expected=str(board or "a machine that has a name"),
            remedy=_REDO,
            reason="other_board",
        )
    return calibration


def write_calibration(calibration: Calibration, root: Path = Path("/")) -> Path:
    """Keeps a model for this machine; the old one goes only when the new one is whole.

    Returns:
        Where it is kept.

    Raises:
        SinkError: ``permission``, or ``full``.
    """
    path = calibration_path(root)
    replace_file(path, msgspec.json.format(msgspec.json.encode(calibration), indent=2) + b"\n")
    return path
