"""Proves that the board computes what the host computed."""

from __future__ import annotations

import msgspec
import numpy as np

from device.bundle import Bundle
from device.contract.tensor import dequantise
from device.core.errors import BundleError, SelfTestError
from device.protocols import Session

RELATIVE_TOLERANCE = 1e-4
"""Relative to the largest score. int8 artefacts gave equal bits on every processor tried; float ones differ slightly."""


class SelfTestResult(msgspec.Struct, frozen=True):
    """What the self-test saw.

    Attributes:
        images: number of golden images that were run.
        max_error: largest difference of any score, in the unit of the scores.
        tolerance: the largest difference that is allowed, in the same unit.
    """

    images: int
    max_error: float
    tolerance: float


def run_self_test(session: Session, bundle: Bundle, runtime: str) -> SelfTestResult:
    """Runs the bundle's golden images and compares with the host's scores.

    Raises:
        SelfTestError: ``drift``: a score differs by more than `RELATIVE_TOLERANCE`.
        BundleError: ``malformed``: the bundle holds no golden scores for this runtime.
    """
    golden = bundle.golden()
    if runtime not in golden.logits:
        raise BundleError(
            str(bundle.root), f"has no golden scores for {runtime}", remedy="convert the bundle again", reason="malformed"
        )
    expected = golden.logits[runtime]
    tolerance = RELATIVE_TOLERANCE * float(np.abs(expected).max())
    max_error = 0.0
    for index, pixels in enumerate(golden.pixels):
        scores = dequantise(session.run(pixels[None]), session.output)
        error = float(np.abs(scores - expected[index]).max())
        if not error <= tolerance:  # so that NaN fails too
            raise SelfTestError(
                f"{runtime} on golden image {index}",
                f"scores differ from the host's by up to {error:.4g}",
                expected=f"at most {tolerance:.4g}",
                remedy="the runtime's version or the processor computes something else: don't trust this board's labels",
                reason="drift",
            )
        max_error = max(max_error, error)
    return SelfTestResult(len(golden.pixels), max_error, tolerance)
