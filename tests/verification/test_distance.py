"""Relative differences."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest

from obs_onnx.verification.distance import norm, refusal, relative, tolerance_of

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("y", "reference", "scale", "expected"),
    [
        ([3.0, 0.0], [0.0, 4.0], 10.0, 0.5),
        ([3.0, 0.0], [0.0, 4.0], 0.0, 1.25),  # by the reference
        ([3.0, 4.0], [0.0, 0.0], 0.0, 5.0),
        ([1.0, NAN], [1.0, NAN], 1.0, 0.0),
        ([1.0, 2.0], [1.0, NAN], 1.0, INF),
        ([1.0, NAN], [1.0, 2.0], 1.0, INF),
        ([1.0, INF], [1.0, INF], 1.0, 0.0),
        ([1.0, INF], [1.0, -INF], 1.0, INF),
        ([1.0, INF], [1.0, 2.0], 1.0, INF),
        ([NAN], [INF], 1.0, INF),
        ([1.0], [1.0, 1.0], 1.0, INF),
        ([1, 2], [1, 2], 0.0, 0.0),
        ([1, 2], [1, 3], 1e9, INF),
        ([True], [False], 1.0, INF),
        (["a"], ["b"], 1.0, INF),
        (["a"], ["a"], 1.0, 0.0),
        ([], [], 0.0, 0.0),
    ],
)
def test_relative(y: list[object], reference: list[object], scale: float, expected: float) -> None:
    assert relative(np.array(y), np.array(reference), scale) == expected


def test_norm() -> None:
    assert norm(np.array([3, NAN, 4, INF])) == 5
    assert norm(np.array([3, 4], np.uint8)) == 5
    assert norm(np.array(["a"])) == 0


@pytest.mark.parametrize(
    ("kind", "tolerance"),
    [(np.float32, 1e-3), (np.float16, 3e-2), (ml_dtypes.bfloat16, 3e-2), (np.int8, 1e-3), (np.bool_, 1e-3)],
)
def test_tolerance(kind: type, tolerance: float) -> None:
    assert tolerance_of(np.zeros(2, kind)) == tolerance


def test_refusals_say_what_is_wrong() -> None:
    y = np.zeros(2)
    assert "differs by 2.0e-02 in output y from" in str(refusal("output y", y, y, 0.02))
    assert "differs in output y from" in str(refusal("output y", y, y, INF))
    assert "output y has shape (2,) without the channels, not (1,)" in str(refusal("output y", y, y[:1], INF))
