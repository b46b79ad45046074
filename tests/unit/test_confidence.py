from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converter.evaluate.accuracy import Labels, Logits
from converter.evaluate.confidence import (
    BINS,
    Hits,
    blur,
    chance_error,
    compute_logits,
    cross_validate,
    expected_calibration_error,
    fit_scaling,
    fit_temperature,
    flat_frames,
    noise_frames,
    reliability,
    report,
    trade_off,
)
from device.image.postprocess import softmax

SEEDS = st.integers(0, 2**32 - 1)


def draw(images: int, temperature: float, seed: int = 0, classes: int = 5) -> tuple[Logits, Labels]:
    """Logits of a network whose labels follow its scores at ``temperature``."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0.0, 3.0, (images, classes)).astype(np.float32)
    ladder = softmax(logits, temperature).cumsum(axis=1)
    labels = (rng.random((images, 1)) > ladder).sum(axis=1).clip(0, classes - 1)
    return logits, labels.astype(np.int64)


def loss(logits: Logits, labels: Labels, temperature: float) -> float:
    return float(-np.log(softmax(logits.astype(np.float64), temperature)[np.arange(len(labels)), labels]).mean())


class TestTemperature:
    @settings(deadline=None)
    @given(SEEDS, st.floats(0.1, 10.0))
    def test_logits_that_are_so_many_times_larger_need_so_much_more(self, seed: int, factor: float) -> None:
        logits, labels = draw(200, 1.5, seed)
        scaled = (logits * np.float32(factor)).astype(np.float32)
        assert fit_temperature(scaled, labels) == pytest.approx(factor * fit_temperature(logits, labels), rel=1e-3)

    @pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
    def test_finds_the_one_that_the_labels_were_drawn_by(self, temperature: float) -> None:
        assert fit_temperature(*draw(20_000, temperature)) == pytest.approx(temperature, rel=0.04)

    @settings(deadline=None, max_examples=20)
    @given(SEEDS)
    def test_no_other_makes_the_labels_likelier(self, seed: int) -> None:
        logits, labels = draw(400, 1.7, seed)
        least = min(loss(logits, labels, temperature) for temperature in np.geomspace(0.2, 20, 200))
        # What its targets short of certainty cost.
        assert loss(logits, labels, fit_temperature(logits, labels)) <= least + 1e-3

    def test_a_few_images_that_are_all_right_prove_no_certainty(self) -> None:
        found = []
        for images in (4, 40, 400):
            labels = np.arange(images) % 4
            logits = 5.0 * np.eye(4, dtype=np.float32)[labels]
            temperature = fit_temperature(logits, labels)
            found.append(float(softmax(logits, temperature).max(axis=1).mean()))
            assert found[-1] == pytest.approx(1 - 1 / (images + 2), abs=1e-3)
        assert found == sorted(found)

    def test_a_network_that_says_nothing_is_left_as_it_is(self) -> None:
        assert fit_temperature(np.full((8, 3), 2.5, np.float32), np.zeros(8, np.int64)) == 1.0
        assert fit_temperature(np.ones((8, 1), np.float32), np.zeros(8, np.int64)) == 1.0

    def test_a_network_worse_than_chance_is_trusted_with_nothing(self) -> None:
        labels = np.arange(40) % 4
        logits = -5.0 * np.eye(4, dtype=np.float32)[labels]
        assert softmax(logits, fit_temperature(logits, labels)).max() < 0.27

    def test_the_same_figures_give_the_same_temperature(self) -> None:
        logits, labels = draw(300, 1.3)
        assert fit_temperature(logits, labels) == fit_temperature(logits.copy(), labels.copy())

    @pytest.mark.parametrize(
        ("logits", "labels"),
        [
            (np.zeros((0, 3)), np.zeros(0)),
            (np.zeros((4, 3)), np.zeros(5)),
            (np.zeros(4), np.zeros(4)),
            (np.zeros((2, 3)), np.asarray([0, 3])),
            (np.zeros((2, 3)), np.asarray([0, -1])),
            (np.full((2, 3), np.nan), np.zeros(2)),
            (np.full((2, 3), np.inf), np.zeros(2)),
        ],
    )
    def test_what_does_not_belong_together_is_refused(self, logits: np.ndarray, labels: np.ndarray) -> None:
        with pytest.raises(ValueError):
            fit_temperature(logits.astype(np.float32), labels.astype(np.int64))


def calibrated(images: int, seed: int = 0) -> tuple[np.ndarray[tuple[int], np.dtype[np.float64]], Hits]:
    rng = np.random.default_rng(seed)
    confidences = rng.uniform(0.2, 1.0, images)
    return confidences, rng.random(images) < confidences


class TestCalibrationError:
    def test_is_nothing_where_scores_mean_what_they_say(self) -> None:
        assert expected_calibration_error(*calibrated(200_000)) < 0.005

    def test_is_the_distance_of_confidence_and_accuracy(self) -> None:
        hits = np.asarray([True] * 7 + [False] * 3)
        assert expected_calibration_error(np.full(10, 0.9), hits) == pytest.approx(0.2)
        # Half of the images 0.2 too sure, the other half 0.1 not sure enough.
        both = np.concatenate([hits, hits])
        assert expected_calibration_error(np.repeat([0.9, 0.6], 10), both) == pytest.approx(0.15)

    @settings(deadline=None)
    @given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60), st.integers(1, 20))
    def test_is_a_share_and_counts_every_image_once(self, images: list[tuple[float, bool]], bins: int) -> None:
        confidences, hits = np.asarray([one for one, _ in images]), np.asarray([hit for _, hit in images])
        assert 0.0 <= expected_calibration_error(confidences, hits, bins) <= 1.0
        found = reliability(confidences, hits, bins)
        assert len(found) == bins
        assert sum(one.images for one in found) == len(images)
        assert found[0].low == 0.0
        assert found[-1].high == 1.0
        for one in found:
            assert (one.accuracy is None) == (one.confidence is None) == (one.images == 0)
            assert one.confidence is None or one.low - 1e-9 <= one.confidence <= one.high + 1e-9

    def test_a_bin_takes_its_upper_end(self) -> None:
        found = reliability(np.asarray([0.0, 0.25, 0.5, 0.75, 1.0]), np.ones(5, np.bool_), 4)
        assert [one.images for one in found] == [2, 1, 1, 1]

    def test_chance_alone_shows_less_on_more_images(self) -> None:
        few, many = calibrated(100)[0], calibrated(10_000)[0]
        assert 0.0 < chance_error(many) < chance_error(few) < 0.2
        measured = np.mean([expected_calibration_error(few, calibrated(100, seed)[1]) for seed in range(50)])
        assert chance_error(few) == chance_error(few)
        assert measured > chance_error(few)  # other confidences than those that the hits were drawn by


class TestCrossValidation:
    def test_an_image_has_no_part_in_its_own_temperature(self) -> None:
        logits, labels = draw(2, 1.0, seed=3)
        found = cross_validate(logits, labels)
        for own, other in ((0, 1), (1, 0)):
            temperature = fit_temperature(logits[other : other + 1], labels[other : other + 1])
            assert found[own] == pytest.approx(float(softmax(logits[own], temperature).max()))

    def test_every_fold_has_every_class(self) -> None:
        # Sorted by class, as a folder is: folds of neighbours would each lack classes.
        logits, labels = draw(500, 2.0)
        order = np.argsort(labels, kind="stable")
        hits = logits[order].argmax(axis=1) == labels[order]
        assert expected_calibration_error(cross_validate(logits[order], labels[order]), hits) < 0.08

    def test_a_card_gets_an_error_that_its_temperature_mended(self) -> None:
        logits, labels = draw(2000, 1.0)
        overconfident = 3.0 * logits
        before = expected_calibration_error(softmax(overconfident).max(axis=1), logits.argmax(axis=1) == labels)
        found = fit_scaling(overconfident, labels)
        assert found.temperature == pytest.approx(3.0, rel=0.1)
        assert found.expected_calibration_error is not None
        assert found.expected_calibration_error < 0.05 < before
        assert found == fit_scaling(overconfident, labels)

    def test_one_image_has_a_temperature_and_no_error(self) -> None:
        logits, labels = draw(1, 1.0)
        found = fit_scaling(logits, labels)
        assert math.isfinite(found.temperature)
        assert found.expected_calibration_error is None


class TestTradeOff:
    CONFIDENCES = np.asarray([0.3, 0.5, 0.7, 0.9])
    HITS = np.asarray([False, True, False, True])

    def test_counts_what_is_named_and_what_is_right_of_it(self) -> None:
        found = trade_off(self.CONFIDENCES, self.HITS, 0.5, {"walls": np.asarray([0.2, 0.6, 0.4, 0.5])})
        assert found.kept == 0.75
        assert found.accuracy == pytest.approx(2 / 3)
        assert found.accuracy_interval is not None
        assert found.accuracy_interval.low < 2 / 3 < found.accuracy_interval.high
        assert found.others == {"walls": 0.5}

    def test_zero_names_everything_and_too_high_a_threshold_nothing(self) -> None:
        assert trade_off(self.CONFIDENCES, self.HITS, 0.0, {}).kept == 1.0
        nothing = trade_off(self.CONFIDENCES, self.HITS, 1.0, {})
        assert (nothing.kept, nothing.accuracy, nothing.accuracy_interval) == (0.0, None, None)

    @settings(deadline=None)
    @given(SEEDS, st.floats(0, 1), st.floats(0, 1))
    def test_a_higher_threshold_never_names_more(self, seed: int, one: float, other: float) -> None:
        confidences, hits = calibrated(50, seed)
        low, high = (trade_off(confidences, hits, threshold, {"x": confidences}) for threshold in sorted((one, other)))
        assert low.kept >= high.kept
        assert low.others["x"] == pytest.approx(low.kept)


def test_the_report_goes_by_the_cards_temperature() -> None:
    logits, labels = draw(300, 1.0)
    foreign = {"others": draw(20, 1.0, seed=1)[0]}
    found = report("net", "weights", 2.0, 2.0 * logits, labels, foreign)
    plain = report("net", "weights", 1.0, logits, labels, foreign)
    assert found.trade_offs[0].kept == 1.0
    assert [row.kept for row in found.trade_offs] == [row.kept for row in plain.trade_offs]
    assert found.error == pytest.approx(plain.error, abs=1e-6)
    assert found.error < found.error_before
    assert found.fitted_temperature == pytest.approx(2.0 * plain.fitted_temperature, abs=1e-3)
    assert len(found.reliability) == BINS


def test_frames_run_in_batches_and_keep_their_order() -> None:
    told: list[int] = []
    frames = [np.full((4, 4, 3), index, np.uint8) for index in range(70)]
    found = compute_logits(lambda pixels: pixels[:, 0, 0, :].astype(np.float32), frames, told.append)
    assert found[:, 0].tolist() == list(range(70))
    assert sum(told) == 70
    assert len(told) > 1


def test_frames_of_nothing_are_always_the_same() -> None:
    for make in (flat_frames, noise_frames):
        one, two = list(make(32)), list(make(32))
        assert all(frame.shape == (32, 32, 3) and frame.dtype == np.uint8 for frame in one)
        assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    assert max(frame.std() for frame in flat_frames(32)) < 5.0 < min(frame.std() for frame in noise_frames(32))
    stripes = np.zeros((32, 32, 3), np.uint8)
    stripes[::2] = 255
    assert blur(stripes).std() < 0.1 * stripes.std()
