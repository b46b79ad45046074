"""What is demanded of a known power's record does refuse: without an emulator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from .power_checks import Curve, Gap, PowerRow, check_energy, check_gap, check_rows_follow, expect, find_late

SECOND_NS = 1_000_000_000
SOURCE = "ina219 0x40 (hwmon)"

# 3 W, 6 W from 4 s to 8 s, a gap from 10 s to 14 s, 3 W until 18 s.
CURVE = Curve(((-5 * SECOND_NS, 3.0), (4 * SECOND_NS, 6.0), (8 * SECOND_NS, 3.0)))
GAPS = [Gap("unbound", 10 * SECOND_NS, 14 * SECOND_NS, 14 * SECOND_NS)]


def row(second: int, power_w: float | None, **changes: Any) -> PowerRow:
    """The row of the second that ends then."""
    if power_w is None:
        return PowerRow(second * SECOND_NS, 1.0, None, None, None, None, None, None)
    return PowerRow(second * SECOND_NS, 1.0, power_w, power_w, 1.0, SOURCE, "board", 0)._replace(**changes)


def true_rows() -> list[PowerRow]:
    return [row(end, None if 10 < end <= 14 else 6.0 if 4 < end <= 8 else 3.0) for end in range(1, 19)]


def test_curve_integrates_its_steps() -> None:
    ramp = Curve(tuple((index * SECOND_NS // 10, index / 10) for index in range(101)))
    assert CURVE.integrate(0, 10 * SECOND_NS) == pytest.approx(3.0 * 6 + 6.0 * 4)
    assert ramp.integrate(0, 10 * SECOND_NS) == pytest.approx(50.0, rel=0.011)


def test_true_record_passes() -> None:
    rows = true_rows()
    expected = expect(rows, CURVE, GAPS)
    assert expected == pytest.approx((3.0 * 6 + 6.0 * 4 + 3.0 * 4, 14.0))
    assert check_energy(54.0, 14.0, expected, edge_w=3.0, ends=4) == pytest.approx(0.0)
    assert find_late(rows, CURVE, GAPS) == []
    # A tenth of a second is missing at the gap.
    assert check_energy(53.7, 13.9, expected, edge_w=3.0, ends=4) == pytest.approx(0.0)
    assert check_gap(rows, GAPS[0]) == 3
    assert check_rows_follow(rows, CURVE, GAPS, SOURCE, 0.01) == 9


def test_energy_that_is_wrong_or_of_another_time_is_refused() -> None:
    expected = expect(true_rows(), CURVE, GAPS)
    for energy_j, covered_s in ((55.0, 14.0), (53.0, 14.0), (66.0, 18.0), (42.0, 9.0)):
        with pytest.raises(AssertionError):
            check_energy(energy_j, covered_s, expected, edge_w=3.0, ends=4)


def test_time_that_was_lost_on_a_busy_machine_is_missing_where_it_was_lost() -> None:
    # At 6 W, a sample came 0.7 s late: nothing is known of that time.
    rows = true_rows()
    rows[5] = row(6, 6.0, energy_j=1.8, covered_s=0.3)
    late = find_late(rows, CURVE, GAPS)
    assert late == [pytest.approx((0.7, 6.0, 6.0))]
    expected = expect(rows, CURVE, GAPS)
    assert check_energy(49.8, 13.3, expected, edge_w=3.0, ends=4, late=late) == pytest.approx(0.0)
    for energy_j in (48.8, 51.9):
        with pytest.raises(AssertionError, match="the curve has"):
            check_energy(energy_j, 13.3, expected, edge_w=3.0, ends=4, late=late)
    # A row in which the power changed says only what is possible.
    rows[4] = row(5, 6.0, energy_j=1.2, covered_s=0.2)
    (change, _) = find_late(rows, CURVE, GAPS)
    assert change == pytest.approx((0.8, 3.0, 6.0))


def test_samples_that_are_far_apart_blur_the_steps() -> None:
    assert CURVE.blur(10.0) == 0.0
    assert CURVE.blur(5.0) == pytest.approx(6.0 * 0.1 / 2)


@pytest.mark.parametrize("power_w", [0.0, 3.0])
def test_figure_in_a_gap_is_refused(power_w: float) -> None:
    rows = true_rows()
    rows[11] = row(12, power_w)
    with pytest.raises(AssertionError, match="a row in the gap"):
        check_gap(rows, GAPS[0])
    with pytest.raises(AssertionError, match="no row lies"):
        check_gap(rows[:10], GAPS[0])


@pytest.mark.parametrize(
    "spoil",
    [
        lambda found: found._replace(power_w=found.power_w + 0.02),
        lambda found: found._replace(is_estimate=1),
        lambda found: found._replace(source="estimate"),
        lambda found: row(found.end_ns // SECOND_NS, None),
    ],
)
def test_row_that_says_something_else_is_refused(spoil: Callable[[PowerRow], PowerRow]) -> None:
    rows = true_rows()
    rows[6] = spoil(rows[6])
    with pytest.raises(AssertionError):
        check_rows_follow(rows, CURVE, GAPS, SOURCE, 0.01)
