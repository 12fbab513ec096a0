"""Learning rates over a run."""

from __future__ import annotations

import math

import pytest

from obs_onnx.training.schedule import Schedule


def test_schedule():
    rate = Schedule(0.1, 110, 10)
    assert [rate(k) for k in (0, 4, 9)] == pytest.approx([0.01, 0.05, 0.1])
    assert rate(10) == pytest.approx(0.1)
    assert rate(60) == pytest.approx(0.05)
    assert rate(35) == pytest.approx(0.1 * (1 + math.cos(math.pi / 4)) / 2)
    assert rate(109) < 1e-4
    assert all(rate(k) > rate(k + 1) for k in range(10, 109))
