"""What is counted of a search for channels, against what it did."""

from __future__ import annotations

from pathlib import Path

from forecast_runs import calibrated_residual

from obs_onnx.meter import metered
from obs_onnx.progress import quiet
from obs_onnx.pruning.forecast.channels import idle_groups
from obs_onnx.pruning.recorder import Recorder


def test_every_shown_stage_is_forecast(tmp_path: Path) -> None:
    plan, calibrated, targets, recorder = calibrated_residual(tmp_path)
    found = plan.forecast(calibrated, targets, 1, recorder)
    with metered() as meter:
        taken = Recorder(quiet, meter)
        with taken.part("search"):
            plan.search(calibrated, targets, 1, None, taken)
    assert set(taken.seconds) == set(found.shown)
    assert {one.name for one in found.kinds} >= {one.name for one in meter.costs()} - {"open"}
    groups = len(plan.channels.coupling.groups)
    assert f"measuring {groups} groups of channels at" in found.note
    assert all(one.cpu_seconds > 0 and one.peak_bytes for one in found.kinds)


def test_a_limit_on_the_error_takes_several_tries(tmp_path: Path) -> None:
    plan, calibrated, targets, recorder = calibrated_residual(tmp_path, targets={"error": 0.1})
    assert plan.forecast(calibrated, targets, 1, recorder).shown["remove and refit"][1] > 1
    assert plan.forecast(calibrated, targets, 2, recorder, 3).shown["evaluate"][1] == 6


def test_what_is_not_forecast_is_said(tmp_path: Path) -> None:
    ready = calibrated_residual(tmp_path, allocation="magnitude")
    found = ready.plan.forecast(ready.calibrated, ready.targets, 1, ready.recorder)
    assert "not counted: scores" in found.note
    assert "measure damage" not in found.shown


def test_channels_that_never_move_are_seen(tmp_path: Path) -> None:
    from obs_onnx.pruning.channels.curves import statistics_of

    plan, calibrated, _, recorder = calibrated_residual(tmp_path)
    task, dense = plan.task(calibrated, recorder), calibrated.dense
    evidence = statistics_of(
        task, dense.model, plan.channels.coupling, dense.layers, dense.stages, calibrated.data.fit
    )
    assert idle_groups(calibrated, evidence) <= {group.id for group in plan.channels.coupling.groups}
