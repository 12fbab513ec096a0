"""Rates are of this machine as it is, and nothing is told of it beforehand."""

from __future__ import annotations

from dataclasses import astuple, replace
from pathlib import Path

import pytest
from forecast_runs import calibrated_residual

from obs_onnx.pruning.forecast.rates import measure_rates


def test_all_rates_are_measured_by_both_clocks(tmp_path: Path) -> None:
    for rates in measure_rates(calibrated_residual(tmp_path).calibrated):
        for rate in astuple(rates):
            found = rate if isinstance(rate, list | tuple) else [rate]
            assert all(0 <= one < 1 for one in found)
        assert rates.sample > 0
        assert rates.products[-1] > 0


def test_a_rate_between_sizes_lies_between_their_rates(tmp_path: Path) -> None:
    wall = measure_rates(calibrated_residual(tmp_path).calibrated)[0]
    rates = replace(wall, products=[4e-9, 2e-9, 1e-9, 5e-10], factors=[1e-7] * 4)
    assert rates.product(16) == pytest.approx(4e-9)
    assert rates.product(1) == pytest.approx(4e-9)
    assert rates.product(4096) == pytest.approx(5e-10)
    assert 2e-9 < rates.product(32) < 4e-9
    assert rates.factor(100) == pytest.approx(1e-7)
    assert rates.factor(1 << 30) == pytest.approx(rates.exact(1 << 30), rel=1e-3)
