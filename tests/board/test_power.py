"""Power on the booted board: an INA219, an INA226 and a battery behind the kernel's own drivers, and the chips by their bus.

What was set is known to the microsecond, so the energy in the report can be held against it. It proves that the record is right
about what the kernel said; it proves nothing about a real shunt, or a real board's watts.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from device.contract import MeterConfig, Power
from tests.unit.bundles import copy_bundle

from .conftest import require_tools
from .harness import tree
from .harness.cache import Cache
from .harness.guest import GuestResult, boot
from .harness.image import image
from .power_checks import (
    JITTER_S,
    SAMPLE_RATE_HZ,
    Curve,
    Gap,
    Late,
    check_energy,
    check_gap,
    check_rows_follow,
    expect,
    find_late,
    read_meters,
    read_power,
)

pytestmark = pytest.mark.board

BOOT_LIMIT_S = 1200.0
SMBUS_WHEEL = "smbus2==0.6.1"
SCRIPT = """\
export PYTHONPATH=/share:/share/site OPENBLAS_NUM_THREADS=1
exec python3 /share/programs/power.py /share/kernel /share/smbus litert
"""

# The stub is the first bus of this board; a Pi's header has number 1.
BUS = 0
BY_KERNEL = (
    {"kind": "ina2xx", "shunt_ohm": 0.01, "address": 0x41, "scope": "board"},
    {"kind": "ina2xx", "shunt_ohm": 0.1, "address": 0x40, "scope": "board"},
    {"kind": "battery"},
)
BY_BUS = (
    {"kind": "ina219", "shunt_ohm": 0.1, "address": 0x40, "bus": BUS, "scope": "board"},
    {"kind": "ina226", "shunt_ohm": 0.01, "address": 0x41, "bus": BUS, "scope": "board"},
)

# The run, its headline meter, the chip whose registers give it, and watts of a step.
RUNS = [
    ("ina219", "ina219 0x40 (hwmon)", "ina219", 2e-3),
    ("ina226", "ina226 0x41 (hwmon)", "ina226", 6.25e-3),
    ("smbus", "ina219 0x40 (smbus)", "ina219", 0.5e-3),
    ("battery", "battery (power_supply)", "battery", None),
]


def write_metered_bundle(bundle: Path, target: Path, meters: Sequence[MeterConfig]) -> Path:
    """The bundle, for a board with other meters."""
    return copy_bundle(bundle, target, power=Power(meters=tuple(meters), sample_rate_hz=SAMPLE_RATE_HZ))


@pytest.fixture(scope="module")
def metered(
    cache: Cache, installation: Path, bundle: Path, tmp_path_factory: pytest.TempPathFactory, report: list[str]
) -> GuestResult:
    """One boot for all."""
    require_tools("qemu-system-aarch64", "unshare", "timeout", "mke2fs", "depmod", "cpio", "xz", "systemd-sysusers")
    work = tmp_path_factory.mktemp("power")
    site = cache.entry(
        "smbus", [SMBUS_WHEEL], lambda folder: tree.install_wheels(folder, tree.TRIXIE, [SMBUS_WHEEL], alone=True)
    )
    files = {
        "device": installation / "device",
        "programs": installation / "programs",
        "site": site,
        "kernel": write_metered_bundle(bundle, work / "kernel", BY_KERNEL),
        "smbus": write_metered_bundle(bundle, work / "smbus", BY_BUS),
    }
    result = boot(image(cache), SCRIPT, work=work, timeout_s=BOOT_LIMIT_S, files=files)
    words = f"{result.log[-4000:]}\n{result.console[-2000:]}"
    assert not result.timed_out, f"the board hung, and its power was cut after {result.duration_s:.0f} s\n{words}"
    assert result.exit_code == 0, f"the script ended with {result.exit_code}\n{words}"
    report.append(f"power, booted board: {result.duration_s:.0f} s from power on to power off")
    return result


class Seen:
    """A run as it was done, and as it was recorded."""

    def __init__(self, share: Path, events: dict[str, Any], name: str, chip: str) -> None:
        done = events["runs"][name]
        self.exit_code = done["exit_code"]
        self.errors = (share / f"{name}.err").read_text()
        self.path = share / f"{name}.sqlite"
        self.curve = Curve(tuple((moment, watts) for moment, watts in done["curves"][chip]))
        self.edge_w = self.curve.steps[-1][1]
        self.gaps = [msgspec.convert(gap, Gap) for gap in done["gaps"]]
        self.rows = read_power(self.path)
        self.meters = read_meters(self.path)
        self.summary = json.loads((share / f"{name}.json").read_text())


@pytest.fixture(scope="module")
def events(metered: GuestResult) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((metered.share / "events.json").read_text())
    assert found["bus"] == BUS
    return found


@pytest.mark.parametrize(("name", "source", "chip", "step_w"), RUNS)
def test_energy_in_the_report_is_the_curves_integral(
    metered: GuestResult, events: dict[str, Any], report: list[str], name: str, source: str, chip: str, step_w: float | None
) -> None:
    seen = Seen(metered.share, events, name, chip)
    assert seen.exit_code == 0, seen.errors
    command = [sys.executable, "-m", "device.report", "--json", str(seen.path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tree.REPOSITORY)
    assert done.returncode == 0, done.stderr
    (run,) = json.loads(done.stdout)["runs"]
    (power,) = [power for power in run["power"] if power["source"] == source]
    assert power["is_estimate"] is False
    expected = expect(seen.rows, seen.curve, seen.gaps)
    late = find_late(seen.rows, seen.curve, seen.gaps)
    error = check_energy(
        power["energy_j"],
        power["covered_s"],
        expected,
        edge_w=seen.edge_w,
        ends=2 + 2 * len(seen.gaps),
        late=late,
        slack_j=seen.curve.blur(seen.meters[0]["sample_rate_hz"]),
    )
    report.append(
        f"power, {source}: {power['energy_j']:.1f} J in the report, {error:+.2%} from the curve; "
        f"{power['covered_s']:.1f} of {expected.duration_s:.1f} s covered outside {len(seen.gaps)} gaps, {len(late)} late rows"
    )


@pytest.mark.parametrize(("name", "source", "chip", "step_w"), RUNS)
def test_every_row_shows_what_was_set_or_nothing(
    metered: GuestResult, events: dict[str, Any], report: list[str], name: str, source: str, chip: str, step_w: float | None
) -> None:
    seen = Seen(metered.share, events, name, chip)
    followed = check_rows_follow(seen.rows, seen.curve, seen.gaps, source, step_w or 1e-6)
    assert followed >= 6
    empty = [check_gap(seen.rows, gap) for gap in seen.gaps]
    report.append(f"power, {source}: {followed} rows in steady times are within a step of what was set; empty in gaps: {empty}")


@pytest.mark.parametrize(("name", "source", "chip", "step_w"), RUNS)
def test_meter_is_found_again_after_every_gap(
    metered: GuestResult, events: dict[str, Any], name: str, source: str, chip: str, step_w: float | None
) -> None:
    seen = Seen(metered.share, events, name, chip)
    for gap in seen.gaps:
        after = [row for row in seen.rows if row.begin_ns > gap.back_ns]
        assert after[1].source == source, f"no power soon after the gap ({gap.kind}): {after[:3]}"


@pytest.mark.parametrize(("name", "source", "chip", "step_w"), RUNS)
def test_record_says_how_finely_and_how_often_it_was_measured(
    metered: GuestResult, events: dict[str, Any], name: str, source: str, chip: str, step_w: float | None
) -> None:
    seen = Seen(metered.share, events, name, chip)
    for meter in (seen.meters[0], seen.summary["power_meters"][0]):
        assert meter["source"] == source
        assert meter["resolution_w"] == (step_w and pytest.approx(step_w, rel=1e-3))
        # On a busy machine it is lower than what was asked for, but true.
        assert 2.0 <= meter["sample_rate_hz"] < 1.1 * SAMPLE_RATE_HZ
        assert meter["sample_rate_hz"] == pytest.approx(meter["samples"] / meter["covered_s"], rel=0.1)


def test_node_came_back_under_another_number(events: dict[str, Any]) -> None:
    nodes = events["runs"]["ina226"]["nodes"]
    assert nodes["squatter"] == nodes["before"] != nodes["after"]


@pytest.mark.parametrize(
    ("name", "place", "source", "chip"),
    [("ina226", 1, "ina219 0x40 (hwmon)", "ina219"), ("smbus", 1, "ina226 0x41 (smbus)", "ina226")],
)
def test_meter_beside_goes_on_while_the_headlines_is_gone(
    metered: GuestResult, events: dict[str, Any], report: list[str], name: str, place: int, source: str, chip: str
) -> None:
    seen = Seen(metered.share, events, name, chip)
    meter = seen.meters[place]
    assert (meter["source"], meter["failed"], meter["error"]) == (source, 0, None)
    expected = expect(seen.rows, seen.curve, [])
    # It has no rows of its own: what it missed beyond a sample at each end may be missing anywhere.
    missed_s = max(0.0, expected.duration_s - meter["covered_s"] - 2 * JITTER_S)
    levels = [power_w for _, power_w in seen.curve.steps]
    error = check_energy(
        meter["energy_j"],
        meter["covered_s"],
        expected,
        edge_w=seen.edge_w,
        ends=2,
        late=[Late(missed_s, min(levels), max(levels))],
        slack_j=seen.curve.blur(meter["sample_rate_hz"]),
    )
    report.append(f"power, {source} beside: {meter['energy_j']:.1f} J, {error:+.2%} from the curve, without a gap")


def test_battery_beside_is_current_times_voltage(metered: GuestResult, events: dict[str, Any]) -> None:
    meter = Seen(metered.share, events, "ina226", "ina226").meters[2]
    assert (meter["source"], meter["scope"], meter["failed"]) == ("battery (power_supply)", "battery", 0)
    assert meter["power_w"] == pytest.approx(0.8 * 3.9)


@pytest.mark.parametrize(
    ("name", "chip", "words"),
    [
        ("ina226", "ina226", "none of ina226"),
        ("smbus", "ina219", "a kernel driver has the chip; use kind ina2xx"),
        ("battery", "battery", "is plugged in"),
    ],
)
def test_record_says_why_it_has_a_gap(metered: GuestResult, events: dict[str, Any], name: str, chip: str, words: str) -> None:
    meter = Seen(metered.share, events, name, chip).meters[0]
    assert meter["failed"] > 10
    assert words in meter["error"]
    assert "\n" not in meter["error"]


def test_chip_that_a_driver_has_is_no_meter_and_says_so(metered: GuestResult, events: dict[str, Any]) -> None:
    assert events["runs"]["busy"]["exit_code"] == 0, (metered.share / "busy.err").read_text()
    summary = json.loads((metered.share / "busy.json").read_text())
    assert summary["power"] is None
    assert summary["power_meters"] == []
    for kind in ("ina219", "ina226"):
        assert f"{kind}: /dev/i2c-{BUS}" in summary["power_missing_reason"]
    assert summary["power_missing_reason"].count("a kernel driver has the chip") == 2
    assert all(row.power_w is None for row in read_power(metered.share / "busy.sqlite"))
