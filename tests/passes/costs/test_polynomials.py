"""Polynomials in kept counts."""

from __future__ import annotations

import pytest

from obs_onnx.passes.costs.polynomials import Polynomial, power


def test_powers() -> None:
    total = {((0, 1),): 2.0, (): 1.0}
    assert power(total, 2) == {((0, 2),): 4, ((0, 1),): 4, (): 1}
    assert power({((0, 1), (1, 2)): 2.0}, -1) == {((0, -1), (1, -2)): 0.5}
    assert power(total, -1) is None
    ratio = Polynomial({((0, 2), (1, -1)): 3.0}, {0: 8, 1: 4})
    assert ratio.value({0: 6}) == 27
    assert ratio.saving({0: 6}, 1, [2, 4]) == pytest.approx([-27, 0])
    assert not ratio.coupled(2)
    assert ratio.saving({}, 2, [1, 2]).tolist() == [0, 0]
