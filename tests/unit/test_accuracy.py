"""Accuracy figures and their intervals, against published values and hand-made cases."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converter.evaluate.accuracy import ConfidenceInterval, change, confusion, score, wilson_interval


def one_hot(named: list[int], classes: int = 3) -> np.ndarray:
    """Logits of a network that names these classes."""
    logits = np.zeros((len(named), classes), np.float32)
    logits[np.arange(len(named)), named] = 1.0
    return logits


def labels(*indices: int) -> np.ndarray:
    return np.asarray(indices, np.int64)


# Newcombe, "Two-sided confidence intervals for the single proportion", Statistics in Medicine 17 (1998), table I, method 3.
@pytest.mark.parametrize(
    ("hits", "images", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilsons_interval_has_the_published_ends(hits: int, images: int, low: float, high: float) -> None:
    found = wilson_interval(hits, images)
    assert (round(found.low, 4), round(found.high, 4)) == (low, high)


@settings(deadline=None)
@given(st.integers(1, 2000).flatmap(lambda images: st.tuples(st.integers(0, images), st.just(images))))
def test_wilsons_interval_holds_the_share_and_never_leaves_0_to_1(case: tuple[int, int]) -> None:
    hits, images = case
    found = wilson_interval(hits, images)
    assert 0.0 <= found.low <= hits / images <= found.high <= 1.0
    assert found.high > found.low


@pytest.mark.parametrize(("hits", "images"), [(0, 0), (3, 2), (-1, 4)])
def test_an_impossible_count_is_refused(hits: int, images: int) -> None:
    with pytest.raises(ValueError, match="expected 0 <= hits <= images"):
        wilson_interval(hits, images)


def test_a_score_counts_top_1_top_5_and_the_mean_over_classes() -> None:
    logits = np.asarray([[9, 8, 7, 6, 5, 4, 3]] * 6, np.float32)
    found = score(logits, labels(0, 0, 0, 4, 5, 6))
    assert found.images == 6
    assert found.top1 == 0.5
    assert found.top5 == pytest.approx(4 / 6)
    assert found.macro_top1 == 0.25  # the first class always, three others never; the classes without images don't count
    assert found.top1_interval == wilson_interval(3, 6)
    assert found.top5_interval == wilson_interval(4, 6)


def test_equal_logits_name_the_first_class_as_the_board_does() -> None:
    assert score(np.zeros((4, 3), np.float32), labels(0, 0, 1, 2)).top1 == 0.5


def test_the_mean_over_one_class_has_that_class_own_interval() -> None:
    found = score(one_hot([1, 1, 1, 0]), labels(1, 1, 1, 1))
    assert found.macro_top1_interval.low == pytest.approx(found.top1_interval.low)
    assert found.macro_top1_interval.high == pytest.approx(found.top1_interval.high)


def test_a_rare_class_widens_the_interval_of_the_mean_over_classes() -> None:
    named = [0] * 500 + [1] * 3
    found = score(one_hot(named), labels(*named))
    assert found.top1_interval.low > 0.99
    assert found.macro_top1_interval.low < 0.8


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=60))
def test_the_interval_of_the_mean_over_classes_holds_the_mean(cases: list[tuple[int, int]]) -> None:
    found = score(one_hot([named for named, _ in cases]), labels(*(right for _, right in cases)))
    low, high = found.macro_top1_interval.low, found.macro_top1_interval.high
    assert -1e-9 <= low <= found.macro_top1 + 1e-9
    assert found.macro_top1 - 1e-9 <= high <= 1.0


def test_a_change_has_newcombes_interval() -> None:
    # Method 10 on 36 images that both get right, 12 that only the one does and 2 that only the other: 0.0569 to 0.3404.
    right = labels(*[0] * 50)
    found = change(one_hot([0] * 48 + [1] * 2), one_hot([0] * 36 + [1] * 12 + [0] * 2), right)
    assert (found.gained_images, found.lost_images) == (12, 2)
    assert found.top1 == pytest.approx(0.2)
    assert (round(found.interval.low, 4), round(found.interval.high, 4)) == (0.0569, 0.3404)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=60))
def test_a_change_seen_from_the_other_side_is_its_negative(cases: list[tuple[int, int, int]]) -> None:
    one, other, right = zip(*cases, strict=True)
    there = change(one_hot(list(one)), one_hot(list(other)), labels(*right))
    back = change(one_hot(list(other)), one_hot(list(one)), labels(*right))
    assert there.interval.low - 1e-9 <= there.top1 <= there.interval.high + 1e-9
    assert (there.lost_images, there.gained_images) == (back.gained_images, back.lost_images)
    assert there.interval.low == pytest.approx(-back.interval.high)
    assert there.interval.high == pytest.approx(-back.interval.low)


def test_equal_networks_differ_by_nothing_but_not_by_nothing_for_sure() -> None:
    logits = one_hot([0, 1, 2, 1])
    found = change(logits, logits, labels(0, 1, 1, 1))
    assert (found.top1, found.lost_images, found.gained_images) == (0.0, 0, 0)
    assert isinstance(found.interval, ConfidenceInterval)
    assert found.interval.low < 0.0 < found.interval.high


def test_a_confusion_matrix_has_a_row_a_right_class() -> None:
    matrix = confusion(one_hot([0, 0, 1, 2, 0]), labels(0, 0, 0, 1, 2))
    assert matrix.tolist() == [[2, 1, 0], [0, 0, 1], [1, 0, 0]]


@pytest.mark.parametrize(
    ("logits", "right"),
    [
        (np.zeros((2, 3), np.float32), labels(0)),
        (np.zeros((0, 3), np.float32), labels()),
        (np.zeros((1, 3), np.float32), labels(3)),
        (np.zeros(3, np.float32), labels(0)),
    ],
)
def test_labels_that_do_not_belong_to_the_logits_are_refused(logits: np.ndarray, right: np.ndarray) -> None:
    for figure in (score, confusion):
        with pytest.raises(ValueError, match="expected"):
            figure(logits, right)
