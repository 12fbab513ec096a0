"""quantize(): a model in integers, checked and measured beside the float one.

open -> calibration data -> round layer by layer -> choose ranges -> verify -> write -> report
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import onnx_ir as ir

from obs_onnx.allocation.targets import parse_targets
from obs_onnx.entrypoints.files import check_files
from obs_onnx.entrypoints.options.keywords import takes
from obs_onnx.entrypoints.options.quantize import QuantizeOptions
from obs_onnx.io.json_file import jsonable
from obs_onnx.io.onnx_file import ModelLike, name_of, save_model
from obs_onnx.option import asked
from obs_onnx.passes.canonical.canonicalize import canonicalize
from obs_onnx.passes.errors import Tried, boundary, tried
from obs_onnx.passes.layers.find_layers import check_any, find_layers
from obs_onnx.pruning.calibrated import Calibrated, calibrate
from obs_onnx.pruning.inputs import Inputs, load
from obs_onnx.pruning.recorder import Recorder
from obs_onnx.quantization.calibration import Calibration
from obs_onnx.quantization.comparison import combine
from obs_onnx.quantization.quantizer import Quantized, Quantizer
from obs_onnx.results.pruning import Combination
from obs_onnx.verification.front import Front

__all__ = ["QuantizeReport", "QuantizeResult", "quantize"]


@dataclass(frozen=True)
class QuantizeReport:
    """What was done and measured; ready for JSON.

    Attributes:
        model, output: files.
        to: what the model was quantized to.
        combinations: the float model and the quantized one.
        seconds: by stage.
        notes: what the reader should know.
        alerts: what must not be overlooked.
        failures: what went wrong behind a written result.
        options: what was asked for, where it is not the default.
    """

    model: str
    output: str | None
    to: str
    combinations: tuple[Combination, ...]
    seconds: Mapping[str, float]
    notes: tuple[str, ...] = ()
    alerts: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()
    options: Mapping[str, object] = field(default_factory=dict)
    schema: int = 1

    def to_json(self) -> object:
        """All fields, ready for JSON."""
        return jsonable(self)


@dataclass(frozen=True)
class QuantizeResult:
    """What :func:`quantize` returns."""

    model: ir.Model
    report: QuantizeReport


@takes(QuantizeOptions)
def quantize(model: ModelLike, options: QuantizeOptions) -> QuantizeResult:
    """Write a model in integers.

    Args:
        model: a file, or a model in memory (which is not changed); its weights are float32.
        options: see :class:`obs_onnx.entrypoints.options.quantize.QuantizeOptions`.

    Raises:
        ModelError, DataError, OptionError, MissingRuntimeError: bad input; nothing is written.
        VerificationError: the result broke a promise; nothing is written.
    """
    check_files(model, options)
    recorder = Recorder(options.shown)
    with boundary(f"{name_of(model)} cannot be opened"), options.shown.stage("open"):
        inputs = load(model, options.search)
        dense = canonicalize(inputs.model)
        check_any(dense, inputs.name)
        calibrated = calibrate(inputs, dense, find_layers(dense)[0], parse_targets({}), options.search)
    given = _given(calibrated, options)
    quantizer = Quantizer.of(options.quantization, given, inputs.front, dense)
    assert quantizer is not None
    recorder.reached("open")
    with recorder.stage("quantize"):
        quantized = quantizer.quantize(dense)
        kept = quantized.put_back(inputs.batch)
    destination = None if options.output is None else Path(options.output)
    if destination is not None:
        with recorder.stage("write"):
            save_model(kept.complete, destination, kept.check_file)
    return QuantizeResult(
        kept.complete, _report(inputs, calibrated, quantized, destination, options, recorder)
    )


def _given(calibrated: Calibrated, options: QuantizeOptions) -> Calibration:
    data, dense = calibrated.data, calibrated.dense
    budget = calibrated.budget.activations
    return Calibration(dense.runtime, data.fit, data.held_out, dense.yardstick, budget, options.damping)


def _report(
    inputs: Inputs,
    calibrated: Calibrated,
    quantized: Quantized,
    destination: Path | None,
    options: QuantizeOptions,
    recorder: Recorder,
) -> QuantizeReport:
    """Measure both models."""
    dense, data = calibrated.dense, calibrated.data

    def work() -> tuple[Combination, ...]:
        timed = None if calibrated.timing is None else (inputs.target, calibrated.timing)
        front = inputs.front if inputs.batch is None else Front(inputs.model)
        models = {"float": inputs.model, options.to: quantized.model}
        with recorder.stage("compare"):
            return combine(
                models,
                front,
                inputs.runtime,
                data.held_out,
                data.labelled,
                timed,
                dense.yardstick,
                dense.metric,
            )

    compared: Tried[tuple[Combination, ...]] = tried("the models were not compared", work, ())
    return QuantizeReport(
        model=inputs.name,
        output=None if destination is None else str(destination),
        to=options.to,
        combinations=compared.value,
        seconds=recorder.with_total,
        notes=(*data.notes, *quantized.notes),
        alerts=data.alerts,
        failures=tuple(compared.failures),
        options=asked(options),
    )
