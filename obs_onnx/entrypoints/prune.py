"""prune(): the whole program as one readable sequence.

open -> find layers or channels -> calibration data -> measure damage -> allocate -> solve -> verify -> write
-> report
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir

from obs_onnx.allocation.targets import Targets, parse_targets
from obs_onnx.cluster.executor import Executor
from obs_onnx.cluster.opening import opened
from obs_onnx.devices.profile import Profile, read_profile
from obs_onnx.entrypoints.files import check_files
from obs_onnx.entrypoints.options.keywords import takes
from obs_onnx.entrypoints.options.prune import PruneOptions
from obs_onnx.io.atomic_files import Together, together
from obs_onnx.io.json_file import write_json
from obs_onnx.io.onnx_file import ModelLike, name_of, save_model
from obs_onnx.io.paths import keep_path, quantized_path
from obs_onnx.io.streams import is_stream
from obs_onnx.meter import metered
from obs_onnx.passes.canonical.plainer.written_form import written_form
from obs_onnx.passes.errors import boundary, tried
from obs_onnx.pruning.calibrated import Calibrated, calibrate, continued
from obs_onnx.pruning.channels.plan import ChannelStrategy
from obs_onnx.pruning.forecast.forecast import UNKNOWN, Forecast
from obs_onnx.pruning.inputs import Inputs, load
from obs_onnx.pruning.judgement import Attempt
from obs_onnx.pruning.language.cache_config import files_beside
from obs_onnx.pruning.proof import Proven, verify
from obs_onnx.pruning.recorder import Recorder
from obs_onnx.pruning.retrained import open_retraining
from obs_onnx.pruning.run_report import Run, beside_dense, dry_report, report
from obs_onnx.pruning.strategy import Finished, Plan, Strategy
from obs_onnx.pruning.weights.plan import WeightStrategy
from obs_onnx.quantization.calibration import Calibration
from obs_onnx.quantization.options import QUANTIZED
from obs_onnx.quantization.quantizer import Quantized, Quantizer
from obs_onnx.quantization.targets import ON_QUANTIZED, Turn, on_integers
from obs_onnx.report.readable import ReadableReport
from obs_onnx.results.pruning import Combination

__all__ = ["STRATEGIES", "ObsPrune", "Pruned", "prune"]

STRATEGIES: Mapping[str, Strategy[Attempt]] = {"channels": ChannelStrategy(), "weights": WeightStrategy()}


@dataclass(frozen=True, repr=False)
class Pruned:
    """What :func:`prune` returns.

    Attributes:
        model: the pruned one.
        report: everything measured about it.
        quantized: the same in integers, where ``quantize`` asked for it.
        keep: what of each initializer and axis of the dense model stays, the contents of a ``keep.json``;
            None where single weights became zero.
        kind: of the integers.
    """

    model: ir.Model
    report: ReadableReport
    quantized: ir.Model | None = None
    keep: Mapping[str, object] | None = None
    kind: str | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.summary()}>"

    def summary(self) -> str:
        """What became of the model, in one line."""
        return self.report.summary()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model, and beside it what :func:`prune` writes: ``.keep.json`` and the integers.

        Raises:
            OptionError: the files cannot be written; nothing is left behind then.
        """
        destination = Path(path)
        with together() as files:
            save_model(self.model, destination, files=files)
            _write_beside(self.keep, destination, files)
            if self.quantized is not None and self.kind is not None and not is_stream(destination):
                save_model(self.quantized, quantized_path(destination, self.kind), files=files)


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
    device = None if options.device is None else read_profile(options.device)
    if device is not None:
        options = _suited(options, device)
    targets = STRATEGIES[options.mode].checked(parse_targets(options.targets or {}), options)
    check_files(model, options)
    with metered() as meter, opened(options.cluster) as executor:
        return _pruned(model, options, targets, Recorder(options.shown, meter), executor, device)


class ObsPrune(ir.passes.FunctionalPass):
    """:func:`prune` as a pass for a :class:`onnx_ir.passes.PassManager`.

    Args:
        tell: called with all that was found, for example to see whether the targets hold.
        options: keywords of :class:`obs_onnx.entrypoints.options.prune.PruneOptions`.

    Raises:
        OptionError: options that make no sense.
    """

    def __init__(self, *, tell: Callable[[Pruned], None] | None = None, **options: Any) -> None:
        self._tell, self._options = tell, options
        PruneOptions(**options)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """A pruned model; the one that is given stays as it is.

        Raises:
            ModelError, DataError, OptionError, MissingRuntimeError: bad input.
            VerificationError: the result broke a promise.
        """
        found = prune(model, **self._options)
        if self._tell is not None:
            self._tell(found)
        report = found.report
        modified = report.after.parameters != report.before.parameters
        return ir.passes.PassResult(found.model, modified or report.after.nonzero != report.before.nonzero)


def _suited(options: PruneOptions, device: Profile) -> PruneOptions:
    """Options with what suits a device, where nothing else was given."""
    targets = dict(parse_targets(options.targets or {}).as_dict())
    if options.mode == "channels":
        targets = {**device.targets(), **targets}
        options = replace(options, round_to=options.round_to or device.step)
    return replace(options, targets=targets or None, quantize=options.quantize or device.quantize)


def _pruned(
    model: ModelLike,
    options: PruneOptions,
    targets: Targets,
    recorder: Recorder,
    executor: Executor,
    device: Profile | None,
) -> Pruned:
    strategy = STRATEGIES[options.mode]
    with boundary(f"{name_of(model)} cannot be opened"), options.shown.stage("open"):
        inputs = load(model, options, options.vocabulary, options.cost)
        destination = None if options.output is None else Path(options.output)
        plan = strategy.open(inputs, options)
        calibrated = calibrate(inputs, plan.model, plan.layers, targets, options)
    targets = replace(targets, rounding=calibrated.rounding)
    doubts = [] if device is None else device.warnings(plan.model, inputs.original)
    for doubt in doubts:
        options.shown.say(f"warning: {doubt}")
    if not options.dry_run:
        calibrated = continued(inputs, calibrated, options, "prune")
        calibrated = replace(calibrated, work=calibrated.work.by(executor))
    quantizer = Quantizer.of(options, _given(calibrated, options), inputs.front, plan.model)
    retraining = open_retraining(calibrated, options.rounds, options)
    recorder.reached("open")
    run = Run(inputs, plan, calibrated, targets, options)
    expected = _forecast(plan, calibrated, targets, options, recorder)
    options.shown.say(expected.note)
    recorder.expect(expected.shown)
    left = options.rounds, retraining, recorder
    if options.dry_run:
        whole = inputs.front.closed(inputs.front.complete(written_form(plan.model)))
        return Pruned(whole, dry_report(run, expected, recorder))

    turn = None
    with recorder.part("search"):
        if quantizer is not None and options.targets_on == QUANTIZED:
            turn = _in_integers(run, quantizer, lambda one: plan.search(calibrated, one, *left), recorder)
            found, run = turn.found, replace(run, targets=turn.targets)
        else:
            found = plan.search(calibrated, targets, *left)
    proven = verify(found, calibrated, recorder)
    if device is not None:
        told, alerts = (*proven.result.notes, *device.notes), (*proven.result.alerts, *doubts)
        proven = replace(proven, result=replace(proven.result, notes=told, alerts=alerts))
    if (keep := proven.result.keep) is not None and inputs.fewer is not None:
        keep = {**keep, "vocabulary": inputs.fewer.record}
        proven = replace(proven, result=replace(proven.result, keep=keep))
    quantized = None
    if quantizer is not None:
        with recorder.stage("quantize"):
            quantized = quantizer.quantize(found.attempt.model)
    kept = None if quantized is None else quantized.put_back(inputs.batch)
    if destination is not None:
        with recorder.stage("write"):
            notes = _write(proven, kept, destination, inputs, options.custom_domains)
        result = proven.result
        proven = replace(proven, result=replace(result, alerts=(*result.alerts, *notes)))
    reported = report(run, proven.result, destination, quantized, recorder)
    reported = replace(reported, forecast=expected.kinds)
    if turn is not None:
        reported = _reported(reported, targets, turn)
    integers = None if kept is None else kept.complete
    return Pruned(proven.result.model, reported, integers, proven.result.keep, options.quantize)


def _in_integers(
    run: Run,
    quantizer: Quantizer,
    search: Callable[[Targets], Finished[Attempt]],
    recorder: Recorder,
) -> Turn[Finished[Attempt]]:
    """The pruned model that holds its targets in integers, or the last one that was tried."""
    metric = run.calibrated.dense.metric

    def measured(made: ir.Model) -> tuple[Combination, Combination]:
        with recorder.stage("compare"):
            dense, integers = beside_dense(run, {"integers": made})
        return dense, integers

    def quantized(found: Finished[Attempt]) -> tuple[Combination, Combination]:
        with recorder.stage("quantize"):
            made = quantizer.made(found.attempt.model).model
        return measured(made)

    with recorder.stage("quantize"):
        first = quantizer.made_dense.model
    return on_integers(run.targets, metric, measured(first), search, quantized)


def _reported(found: ReadableReport, asked: Targets, turn: Turn[Finished[Attempt]]) -> ReadableReport:
    """The report with what was reached in integers of the targets that are about these."""
    about = {one.name for one in ON_QUANTIZED if one.name in asked.amounts}
    missed = (*(one for one in found.missed if one.target not in about), *turn.missed)
    reached = {**found.reached, **{name: turn.reached[name] for name in about & turn.reached.keys()}}
    timed = not (asked.timed and found.failures)
    note = (
        f"{' and '.join(sorted(about))}: measured on the model in integers, relative to the dense float one"
    )
    return replace(
        found,
        targets=asked.as_dict(),
        missed=missed,
        reached=reached,
        met=not missed and timed,
        notes=(*found.notes, *([note] if about else [])),
    )


def _forecast(
    plan: Plan[Attempt], calibrated: Calibrated, targets: Targets, options: PruneOptions, recorder: Recorder
) -> Forecast:
    """What the search will take, as far as it can be counted."""
    with recorder.part("forecast"):
        found = tried(
            "nothing is forecast",
            lambda: plan.forecast(calibrated, targets, options.rounds, recorder),
            UNKNOWN,
        ).value
    return replace(found, uncounted=(*found.uncounted, "retraining")) if options.finetune else found


def _write_beside(keep: Mapping[str, object] | None, destination: Path, files: Together) -> None:
    """Write what stays of the dense model beside a result that is no stream."""
    if keep is not None and not is_stream(destination):
        write_json(keep_path(destination), keep, files)


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
    inputs: Inputs,
    custom_domains: Sequence[str],
) -> Sequence[str]:
    """Write the model, what was kept of it, and the same in integers; a stream gets the model.

    Returns:
        What a configuration beside the model that came in could not say of the caches.
    """
    told = list[str]()
    with together() as files:
        save_model(proven.result.model, destination, proven.check_file(custom_domains), files)
        if is_stream(destination):
            return told
        _write_beside(proven.result.keep, destination, files)
        names = sorted(proven.cache_names) if proven.result.caches else []
        beside, told = files_beside(proven.result.model, names, inputs.fewer, inputs.path, destination)
        for file, contents in beside.items():
            write_json(file, contents, files)
        if quantized is not None:
            place = quantized_path(destination, quantized.kind)
            save_model(quantized.complete, place, quantized.check_file, files)
    return told
