"""Work that is put together, stage by stage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from forecast_runs import NOTHING, calibrated_residual

from obs_onnx.pruning.forecast.counted import Sums, counted


def test_runs_count_samples_and_shares(tmp_path: Path) -> None:
    found = counted(calibrated_residual(tmp_path).calibrated, replace(NOTHING, sample=1.0), 0.5)
    sums = Sums()
    found.run(sums, 12, 0.25, 3)
    assert sums.seconds == {"forward": pytest.approx(9)}
    found.steps(sums, "moments", 10)
    assert sums.seconds["forward"] > 19
    assert sums.total == pytest.approx(sum(sums.seconds.values()))
    assert set(found.layers) == {layer.name for layer in found.calibrated.dense.layers}


def test_sessions_count_as_they_are_made(tmp_path: Path) -> None:
    found = counted(calibrated_residual(tmp_path).calibrated, replace(NOTHING, least_load=1.0, cut=1.0), 0.5)
    sums = Sums()
    found.part(sums, "curves", 1.0, 4)
    assert sums.seconds == {"sessions": pytest.approx(4), "curves": pytest.approx(4)}
    found.handle(sums, "curves", 2)
    assert sums.seconds["curves"] == pytest.approx(6)
