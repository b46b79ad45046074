from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from device.contract import TensorSpec
from device.contract.tensor import dequantise
from device.image.postprocess import Ranking, is_unknown, rank, softmax


def test_dequantises_by_scale_and_zero_point() -> None:
    spec = TensorSpec(name="scores", shape=(1, 3), dtype="int8", layout="NC", scale=0.5, zero_point=-2)
    found = dequantise(np.asarray([[-2, 0, 127]], np.int8), spec)
    assert found.dtype == np.float32
    assert found.tolist() == [0.0, 1.0, 64.5]


def test_the_result_outlives_the_sessions_buffer() -> None:
    spec = TensorSpec(name="scores", shape=(1, 2), dtype="float32", layout="NC")
    buffer = np.asarray([[1.0, 2.0]], np.float32)
    found = dequantise(buffer, spec)
    buffer[:] = 0.0
    assert found.tolist() == [1.0, 2.0]


@settings(deadline=None)
@given(arrays(np.float32, st.integers(1, 50), elements=st.floats(-80, 80, width=32)), st.integers(1, 60))
def test_ranking_is_sorted_and_scores_are_shares(logits: np.ndarray[tuple[int], np.dtype[np.float32]], count: int) -> None:
    ranking = rank(logits, count)
    assert len(ranking.indices) == min(count, len(logits))
    assert list(ranking.scores) == sorted(ranking.scores, reverse=True)
    assert ranking.indices[0] == int(logits.argmax())
    assert 0.0 < sum(ranking.scores) <= 1.0001


def test_equal_scores_keep_their_order() -> None:
    assert rank(np.zeros(6, np.float32), 5).indices == (0, 1, 2, 3, 4)


LOGITS = arrays(np.float32, st.integers(1, 20), elements=st.floats(-80, 80, width=32))


@settings(deadline=None)
@given(LOGITS, st.floats(0.05, 20.0))
def test_a_temperature_changes_scores_and_never_the_order(
    logits: np.ndarray[tuple[int], np.dtype[np.float32]], temperature: float
) -> None:
    plain, tempered = rank(logits, 5), rank(logits, 5, temperature)
    assert tempered.indices == plain.indices
    assert tempered.scores == pytest.approx(rank((logits / temperature).astype(np.float32), 5).scores, abs=1e-5)
    if temperature >= 1.0:
        assert tempered.scores[0] <= plain.scores[0] + 1e-6


def test_softmax_works_along_the_last_axis_and_keeps_the_type() -> None:
    logits = np.asarray([[0.0, 0.0], [1000.0, -1000.0], [-1000.0, -1000.0]], np.float32)
    found = softmax(logits)
    assert found.dtype == np.float32
    assert found.tolist() == [[0.5, 0.5], [1.0, 0.0], [0.5, 0.5]]
    assert softmax(np.log(np.asarray([1.0, 9.0])), 2.0).tolist() == pytest.approx([0.25, 0.75])


@pytest.mark.parametrize(
    ("score", "unknown_below", "expected"),
    [
        (0.1, None, False),
        (0.1, 0.0, False),
        (0.0, 0.0, False),
        (0.49, 0.5, True),
        (0.5, 0.5, False),
        (0.99, 1.0, True),
        (1.0, 1.0, False),
        (float("nan"), 0.5, True),
        (float("nan"), None, False),
    ],
)
def test_a_score_under_the_threshold_is_unknown(score: float, unknown_below: float | None, expected: bool) -> None:
    assert is_unknown(Ranking((0,), (score,)), unknown_below) is expected


@settings(deadline=None)
@given(LOGITS, st.floats(0.05, 20.0))
def test_a_threshold_of_0_names_everything(logits: np.ndarray[tuple[int], np.dtype[np.float32]], temperature: float) -> None:
    assert not is_unknown(rank(logits, 1, temperature), 0.0)
