"""Polynomials from values, exactly."""

from __future__ import annotations

from obs_onnx.passes.costs.interpolate import interpolate


def test_interpolation_is_exact() -> None:
    big = 10**15 + 7
    assert interpolate(lambda t: big * t[0] * t[1] + 3 * t[1] ** 2 + 5, 2) == {
        (1, 1): big,
        (0, 2): 3,
        (0, 0): 5,
    }
    assert interpolate(lambda t: 10 * t[0] // t[1] if len(t) > 1 else 0, 1) == {}
    assert interpolate(lambda t: 720 * t[0] * t[1] // t[2], 3) == {(1, 1, -1): 720}
    assert interpolate(lambda t: 9, 0) == {(): 9}
    assert interpolate(lambda t: max(t[0], 7), 1) is None
    assert interpolate(lambda t: t[0] ** 3, 1) is None
