"""What every search for a smaller model starts from: the dense model measured, data, and what it may take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir
import psutil

from obs_onnx.allocation.targets import COSTS, Targets
from obs_onnx.data.open_source import open_source, split
from obs_onnx.evaluation.output_damage import choose_measure
from obs_onnx.evaluation.quality import evaluate_sessions
from obs_onnx.evaluation.run_cost import measured
from obs_onnx.io.onnx_file import serialize
from obs_onnx.io.paths import calibration_of
from obs_onnx.latency import Stopwatch, timing_feed
from obs_onnx.passes.errors import DataError, OptionError, named
from obs_onnx.passes.layers.layer import Layer
from obs_onnx.passes.layers.stages import plan_stages
from obs_onnx.pruning.calibration_data import CalibrationData
from obs_onnx.pruning.dense_model import DenseModel
from obs_onnx.pruning.effort import EFFORTS, Budget
from obs_onnx.pruning.inputs import Inputs
from obs_onnx.pruning.options import SearchOptions
from obs_onnx.runtimes import Session

__all__ = ["BATCH", "HELD_OUT", "Calibrated", "calibrate"]

BATCH = 128
HELD_OUT = 0.125


@dataclass(frozen=True)
class Calibrated:
    """A dense model and its data.

    Attributes:
        dense: the model.
        data: to learn from and to measure on.
        budget: what measuring may take.
        measure: damage that allocation minimises, see :class:`obs_onnx.evaluation.output_damage.Damage`.
        stopwatch: times models where latency is wanted.
    """

    dense: DenseModel
    data: CalibrationData
    budget: Budget
    measure: str
    stopwatch: Stopwatch | None = None


def calibrate(
    inputs: Inputs, model: ir.Model, layers: Sequence[Layer], targets: Targets, options: SearchOptions
) -> Calibrated:
    """Open the data, and measure the dense model.

    Args:
        inputs: the model as it came in, and where it runs.
        model: the same in the form that is calibrated.
        layers: of it that may change.
        targets: that are wanted.
        options: about data, effort and latency.

    Raises:
        DataError, OptionError: bad input.
    """
    where = inputs.runtime
    session = where.session(serialize(model))
    data = _open_data(inputs, session, options)
    accuracy = None if data.labelled is None else evaluate_sessions(session, data.labelled).accuracy
    if targets.drop is not None and accuracy is None:
        raise DataError(f"target drop needs labelled data: give {named('evaluation')} with labels")
    answer = session.run(data.first)
    if targets.error is not None and choose_measure("error", answer) != "error":
        raise OptionError(
            "no output of the model is of a float type, so it has no error: give another target"
        )
    cost = measured(where, model, data.sample)
    dense = DenseModel(model, layers, plan_stages(model, layers), where, session, cost, accuracy)
    limited = any(name in targets.as_dict() for name in ("sparsity", *COSTS))
    stopwatch, effort = None, EFFORTS[options.effort]
    if targets.timed:
        feed = timing_feed(data.held_out, session.inputs, options.batch)
        stopwatch = Stopwatch(inputs.target, where, inputs.model, feed, options.round_to, effort.widths)
    loss = "error" if options.loss == "auto" and not limited else options.loss
    return Calibrated(
        dense,
        data,
        Budget(effort, options.memory or psutil.virtual_memory().available // 2),
        choose_measure(loss, answer),
        stopwatch,
    )


def _open_data(inputs: Inputs, session: Session, options: SearchOptions) -> CalibrationData:
    source = open_source(
        calibration_of(options.calib, inputs.path),
        session.inputs,
        batch_size=BATCH,
        labels_key=options.labels,
        seed=options.seed,
    )
    fit, held_out = split(source, HELD_OUT, options.seed)
    labelled = held_out if held_out.has_labels else None
    if options.evaluation is not None:
        labelled = open_source(
            options.evaluation,
            session.inputs,
            batch_size=BATCH,
            labels_key=options.labels,
            seed=options.seed,
        )
    return CalibrationData(fit, held_out, labelled, options.seed, source.notes)
