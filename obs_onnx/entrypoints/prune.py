"""prune(): the whole program as one readable sequence.

open -> find layers or channels -> calibration data -> measure damage -> allocate -> solve -> verify -> write
-> report
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir

from obs_onnx.allocation.targets import Targets, parse_targets
from obs_onnx.cluster.executor import Executor
from obs_onnx.cluster.opening import opened
from obs_onnx.entrypoints.cache_config import new_configs
from obs_onnx.entrypoints.files import check_files
from obs_onnx.entrypoints.options.keywords import takes
from obs_onnx.entrypoints.options.prune import PruneOptions
from obs_onnx.io.atomic_files import together
from obs_onnx.io.json_file import write_json
from obs_onnx.io.onnx_file import ModelLike, name_of, save_model
from obs_onnx.io.paths import destination_of, keep_path, quantized_path
from obs_onnx.io.streams import is_stream
from obs_onnx.meter import metered
from obs_onnx.passes.errors import boundary
from obs_onnx.pruning.calibrated import Calibrated, calibrate, continued
from obs_onnx.pruning.channels.plan import ChannelStrategy
from obs_onnx.pruning.inputs import load
from obs_onnx.pruning.judgement import Attempt
from obs_onnx.pruning.proof import Proven, verify
from obs_onnx.pruning.recorder import Recorder
from obs_onnx.pruning.retrained import open_retraining
from obs_onnx.pruning.run_report import Run, dry_report, report
from obs_onnx.pruning.strategy import Strategy
from obs_onnx.pruning.weights.plan import WeightStrategy
from obs_onnx.quantization.calibration import Calibration
from obs_onnx.quantization.quantizer import Quantized, Quantizer
from obs_onnx.results.pruning import Report

__all__ = ["STRATEGIES", "Pruned", "prune"]

STRATEGIES: Mapping[str, Strategy[Attempt]] = {"channels": ChannelStrategy(), "weights": WeightStrategy()}


@dataclass(frozen=True)
class Pruned:
    """What :func:`prune` returns.

    Attributes:
        model: the pruned one.
        report: everything measured about it.
        quantized: the same in integers, where ``quantize`` asked for it.
    """

    model: ir.Model
    report: Report
    quantized: ir.Model | None = None


@takes(PruneOptions)
def prune(model: ModelLike, options: PruneOptions) -> Pruned:
    """Prune a model with layer-wise Optimal Brain Surgeon.

    Channels that are removed leave a file ``<output stem>.keep.json`` beside the output: for each initializer
    of the input model and axis the indices that stay.

    Args:
        model: a file, or a model in memory (which is not changed).
        options: see :class:`obs_onnx.entrypoints.options.prune.PruneOptions`.

    Returns:
        The pruned model and the report; ``report.met`` tells whether all targets hold.

    Raises:
        ModelError, DataError, OptionError, MissingRuntimeError: bad input; nothing is written.
        VerificationError: the result broke a promise; nothing is written.
    """
    targets = STRATEGIES[options.mode].checked(parse_targets(options.targets or {}), options)
    check_files(model, options)
    with metered() as meter, opened(options.cluster) as executor:
        return _pruned(model, options, targets, Recorder(options.progress, meter), executor)


def _pruned(
    model: ModelLike, options: PruneOptions, targets: Targets, recorder: Recorder, executor: Executor
) -> Pruned:
    strategy = STRATEGIES[options.mode]
    with boundary(f"{name_of(model)} cannot be opened"):
        inputs = load(model, options, options.change_caches)
        destination = destination_of(options.output, inputs.path)
        plan = strategy.open(inputs, options)
        calibrated = calibrate(inputs, plan.model, plan.layers, targets, options)
    targets = replace(targets, rounding=calibrated.rounding)
    if not options.dry_run:
        calibrated = continued(inputs, calibrated, options, "prune")
        calibrated = replace(calibrated, work=calibrated.work.by(executor))
    quantizer = Quantizer.of(options, _given(calibrated, options), inputs.front, plan.model)
    retraining = open_retraining(calibrated, options.rounds, options)
    recorder.reached("open")
    run = Run(inputs, plan, calibrated, targets, options)
    cost_note = plan.cost_note(calibrated)
    if cost_note is not None:
        options.progress.say(cost_note)
    if options.dry_run:
        whole = inputs.front.closed(inputs.front.complete(plan.model))
        return Pruned(whole, dry_report(run, cost_note, recorder))

    with recorder.part("search"):
        found = plan.search(calibrated, targets, options.rounds, retraining, recorder)
    proven = verify(found, calibrated, recorder)
    quantized = None
    if quantizer is not None:
        with recorder.stage("quantize"):
            quantized = quantizer.quantize(found.attempt.model)
    kept = None if quantized is None else quantized.put_back(inputs.batch)
    if destination is not None:
        with recorder.stage("write"):
            notes = _write(proven, kept, destination, inputs.path, options.custom_domains)
        result = proven.result
        proven = replace(proven, result=replace(result, alerts=(*result.alerts, *notes)))
    reported = report(run, proven.result, destination, quantized, recorder)
    return Pruned(proven.result.model, reported, None if kept is None else kept.complete)


def _given(calibrated: Calibrated, options: PruneOptions) -> Calibration:
    """What quantization learns from and is judged by."""
    data, dense = calibrated.data, calibrated.dense
    return Calibration(
        dense.runtime,
        data.fit,
        data.held_out,
        dense.yardstick,
        calibrated.budget.activations,
        options.damping,
    )


def _write(
    proven: Proven[Attempt],
    quantized: Quantized | None,
    destination: Path,
    path: Path | None,
    custom_domains: Sequence[str],
) -> Sequence[str]:
    """Write the model, what was kept of it, and the same in integers; a stream gets the model.

    Returns:
        What a configuration beside the model at ``path`` could not say of the caches.
    """
    caches, told = proven.result.caches, list[str]()
    with together() as files:
        save_model(proven.result.model, destination, proven.check_file(custom_domains), files)
        if is_stream(destination):
            return told
        if proven.result.keep is not None:
            write_json(keep_path(destination), proven.result.keep, files)
        if caches:
            names = sorted(proven.cache_names)
            configs, told = new_configs(proven.result.model, names, path, destination)
            for file, config in configs.items():
                write_json(file, config, files)
        if quantized is not None:
            beside = quantized_path(destination, quantized.kind)
            save_model(quantized.complete, beside, quantized.check_file, files)
    return told
