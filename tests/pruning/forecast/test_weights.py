"""What is counted of a search for zeros, against what it did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from forecast_runs import calibrated_residual

from obs_onnx.progress import quiet
from obs_onnx.pruning.recorder import Recorder

WANTED: dict[str, Any] = {"mode": "weights", "targets": {"sparsity": 0.6}}


@pytest.mark.parametrize(
    "options", [WANTED, {"mode": "weights", "targets": {}, "pattern": "1:2"}], ids=["sparsity", "pattern"]
)
def test_every_shown_stage_is_forecast(tmp_path: Path, options: dict[str, Any]) -> None:
    plan, calibrated, targets, recorder = calibrated_residual(tmp_path, **options)
    found = plan.forecast(calibrated, targets, 1, recorder)
    taken = Recorder(quiet)
    plan.search(calibrated, targets, 1, None, taken)
    assert set(taken.seconds) == set(found.shown)


def test_rounds_take_their_times(tmp_path: Path) -> None:
    plan, calibrated, targets, recorder = calibrated_residual(tmp_path, **WANTED)
    once, twice = (plan.forecast(calibrated, targets, rounds, recorder).shown for rounds in (1, 2))
    assert twice["solve layers"][1] == 2 * once["solve layers"][1]
