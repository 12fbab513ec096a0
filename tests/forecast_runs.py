"""A small model that is calibrated, and rates that say how much was counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from nets import saved_residual

from obs_onnx.allocation.targets import Targets, parse_targets
from obs_onnx.entrypoints.options.prune import PruneOptions
from obs_onnx.entrypoints.prune import STRATEGIES
from obs_onnx.progress import quiet
from obs_onnx.pruning.calibrated import Calibrated, calibrate
from obs_onnx.pruning.forecast.rates import Rates
from obs_onnx.pruning.inputs import load
from obs_onnx.pruning.recorder import Recorder

NOTHING = Rates(
    sample=0.0,
    start=0.0,
    load=0.0,
    least_load=0.0,
    cut=0.0,
    judge=0.0,
    byte=0.0,
    gather=0.0,
    call=0.0,
    products=(1e-30,) * 4,
    factors=(1e-30,) * 4,
)
"""Of a machine that takes no time."""


class Ready(NamedTuple):
    """A run before its search."""

    plan: Any
    calibrated: Calibrated
    targets: Targets
    recorder: Recorder


def calibrated_residual(folder: Path, **options: Any) -> Ready:
    chosen = {"targets": {"macs": 0.5}, "latency": False, "threads": 1, "effort": "quick", **options}
    given = PruneOptions(**chosen)
    strategy = STRATEGIES[given.mode]
    targets = strategy.checked(parse_targets(given.targets or {}), given)
    inputs = load(saved_residual(folder), given)
    plan = strategy.open(inputs, given)
    calibrated = calibrate(inputs, plan.model, plan.layers, targets, given)
    return Ready(plan, calibrated, targets, Recorder(quiet))
