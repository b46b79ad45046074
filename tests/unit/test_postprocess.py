from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from device.contract import TensorSpec
from device.postprocess import dequantise, rank


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


@given(arrays(np.float32, st.integers(1, 50), elements=st.floats(-80, 80, width=32)), st.integers(1, 60))
def test_ranking_is_sorted_and_scores_are_shares(logits: np.ndarray[tuple[int], np.dtype[np.float32]], count: int) -> None:
    ranking = rank(logits, count)
    assert len(ranking.indices) == min(count, len(logits))
    assert list(ranking.scores) == sorted(ranking.scores, reverse=True)
    assert ranking.indices[0] == int(logits.argmax())
    assert 0.0 < sum(ranking.scores) <= 1.0001


def test_equal_scores_keep_their_order() -> None:
    assert rank(np.zeros(6, np.float32), 5).indices == (0, 1, 2, 3, 4)
