"""The Pi 5's rails: which are summed, and that nothing but twelve whole rails gives a figure."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from device.core.clock import ManualClock
from device.core.errors import MeterError
from device.machine.vcio import Mailbox
from device.meters.meter import MeterContext
from device.meters.pmic import (
    MAX_POWER_W,
    RAILS,
    CorrectedPmicMeter,
    PmicMeter,
    parse_power_w,
    parse_rails_w,
)
from device.meters.select import open_meter
from tests.unit.firmware import firmware_ioctl

TREE = Path(__file__).parents[1] / "fixtures" / "sysfs" / "rpi5"
SAMPLE = (TREE / "firmware/pmic_read_adc").read_text().strip()

# Current times voltage of each rail of the sample, multiplied out on paper, in the sample's order.
BY_HAND_W = 0.0444 + 0.1986 + 0.288 + 0.022 + 0.0 + 0.187 + 0.264 + 9.761432550 + 0.001324 + 0.00132 + 0.0048 + 0.07098

LINES = SAMPLE.splitlines()


def try_power_w(text: str) -> float | str:
    """The sum, or the reason why there is none."""
    try:
        return parse_power_w(text)
    except MeterError as error:
        return error.reason


def test_the_sample_sums_to_what_one_computes_by_hand() -> None:
    assert parse_power_w(SAMPLE) == pytest.approx(BY_HAND_W, abs=1e-6)


def test_each_rail_is_its_own_current_times_its_own_voltage() -> None:
    rails_w = parse_rails_w(SAMPLE)
    assert rails_w.keys() == RAILS
    assert rails_w["VDD_CORE"] == pytest.approx(10.87674 * 0.8974594)
    assert rails_w["HDMI"] == pytest.approx(0.014 * 5.07)


def test_the_other_spelling_is_read_too() -> None:
    assert parse_power_w(SAMPLE.replace("volt(", "voltage(")) == parse_power_w(SAMPLE)


@given(st.permutations(LINES))
def test_the_order_of_the_lines_does_not_matter(lines: list[str]) -> None:
    assert parse_power_w("\n".join(lines)) == parse_power_w(SAMPLE)


@given(st.integers(0, len(SAMPLE) - 1))
@example(len("\n".join(LINES[:24])))
@example(len("\n".join(LINES[:25])))
def test_a_part_of_the_answer_is_refused_or_has_every_rail(length: int) -> None:
    # Only the last two lines may be missing: they are voltages that have no current.
    is_complete = SAMPLE[:length] in ("\n".join(LINES[:24]), "\n".join(LINES[:25]))
    assert try_power_w(SAMPLE[:length]) == (parse_power_w(SAMPLE) if is_complete else "malformed")


@pytest.mark.parametrize("index", range(24))
def test_a_rail_without_its_current_or_voltage_is_refused_by_name(index: int) -> None:
    line = LINES[index]
    rail = line.split()[0].removesuffix("_A").removesuffix("_V")
    with pytest.raises(MeterError, match=f"no current and voltage of {rail};") as caught:
        parse_power_w("\n".join(LINES[:index] + LINES[index + 1 :]))
    assert caught.value.reason == "malformed"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("10.87674000A", "10.87674000V"),
        ("10.87674000A", "-10.87674000A"),
        ("10.87674000A", "10.87674000"),
        ("10.87674000A", "nanA"),
        ("10.87674000A", "1e1A"),
        ("10.87674000A", "99.00000000A"),
        ("VDD_CORE_A current(7)", "VDD_CORE_V current(7)"),
        ("VDD_CORE_A", "VDD_CORF_A"),
        ("HDMI_A current(22)", "VDD_CORE_A current(7)"),
        ("BATT_V volt(25)", "BATT_A current(25)"),
        ("BATT_V volt(25)=0.00500000V", "error"),
        ("\n", "\n\n"),
    ],
)
def test_a_line_that_is_wrong_refuses_the_whole(old: str, new: str) -> None:
    assert old in SAMPLE
    with pytest.raises(MeterError) as caught:
        parse_power_w(SAMPLE.replace(old, new, 1))
    assert caught.value.reason == "malformed"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("NEW_A current(30)=0.10000000A", "a current of NEW"),
        ("EXT5V_A current(30)=0.10000000A", "a current of EXT5V"),
        (LINES[7], "VDD_CORE twice"),
        ("VDD_CORE_V volt(15)=0.72000000V", "VDD_CORE twice"),
    ],
)
def test_a_line_too_many_refuses_the_whole(line: str, match: str) -> None:
    with pytest.raises(MeterError, match=match):
        parse_power_w(f"{SAMPLE}\n{line}")


def test_a_voltage_of_something_else_changes_nothing() -> None:
    assert parse_power_w(f"{SAMPLE}\nUSB_V volt(30)=5.00000000V") == parse_power_w(SAMPLE)


def test_a_board_that_draws_nothing_is_not_believed() -> None:
    zero = "\n".join(line.partition("=")[0] + ("=0.00000000A" if "_A " in line else "=0.00000000V") for line in LINES)
    with pytest.raises(MeterError, match="0 W together"):
        parse_power_w(zero)


@given(st.text(max_size=400) | st.lists(st.sampled_from([*LINES, "", "junk"]), max_size=40).map("\n".join))
def test_junk_is_an_error_and_never_a_wrong_sum(text: str) -> None:
    assert try_power_w(text) in ("malformed", parse_power_w(SAMPLE))


@given(st.text(alphabet="0123456789.", min_size=1, max_size=400))
def test_any_number_gives_a_power_that_a_board_can_draw_or_none(number: str) -> None:
    found = try_power_w(SAMPLE.replace("10.87674000", number))
    assert found == "malformed" or (isinstance(found, float) and 0 < found <= MAX_POWER_W)


def test_the_corrected_figure_is_another_meter_and_an_estimate() -> None:
    mailbox = Mailbox(TREE, firmware_ioctl)
    rails, board = PmicMeter(mailbox, ManualClock()), CorrectedPmicMeter(mailbox, ManualClock())
    assert (rails.origin.scope, rails.origin.is_estimate) == ("soc", False)
    assert (board.origin.scope, board.origin.is_estimate) == ("board", True)
    assert board.read().power_w == pytest.approx(1.1451 * rails.read().power_w + 0.5879)
    assert rails.origin.source != board.origin.source


def test_the_mailbox_is_not_replaced_by_the_program(tmp_path: Path) -> None:
    root = Path(shutil.copytree(TREE, tmp_path / "root"))
    with pytest.raises(MeterError, match="vcio_gencmd"):
        open_meter({"kind": "pmic"}, MeterContext(root, ManualClock()))
    meter = open_meter({"kind": "pmic_vcgencmd"}, MeterContext(root, ManualClock()))
    assert meter.origin.source == "pmic (vcgencmd)"
    sample = meter.read()
    assert sample is not None
    assert sample.power_w == pytest.approx(BY_HAND_W, abs=1e-6)
    assert meter.read() is None  # not spawned again before its time


def test_a_pi_4_has_no_such_meter(tmp_path: Path) -> None:
    root = Path(shutil.copytree(TREE, tmp_path / "root"))
    (root / "firmware/pmic_read_adc").unlink()
    with pytest.raises(MeterError, match="Command not registered") as caught:
        PmicMeter(Mailbox(root, firmware_ioctl), ManualClock())
    assert caught.value.reason == "missing"
