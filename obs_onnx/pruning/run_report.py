"""The report of a run: the dense and the pruned model, measured, and what was found on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import onnx_ir as ir

from obs_onnx.allocation.amounts import Amount, Unit
from obs_onnx.allocation.targets import LATENCY, MACS, PARAMS, SPARSITY, Target, Targets
from obs_onnx.data.language.text import decoder
from obs_onnx.evaluation.changed_samples import shown_samples
from obs_onnx.evaluation.data_checks import contradiction
from obs_onnx.evaluation.measures.metric import ACCURACY, Metric
from obs_onnx.evaluation.measures.options import AUTO
from obs_onnx.evaluation.model_figures import figures
from obs_onnx.evaluation.quality import Evaluation
from obs_onnx.evaluation.run_cost import measured
from obs_onnx.io.paths import quantized_path, tokenizer_beside
from obs_onnx.io.streams import is_stream
from obs_onnx.latency.benchmark import bench
from obs_onnx.option import asked
from obs_onnx.passes.canonical.plainer.written_form import written_form
from obs_onnx.passes.errors import Tried, tried
from obs_onnx.pruning.calibrated import Calibrated
from obs_onnx.pruning.forecast.forecast import Forecast
from obs_onnx.pruning.inputs import Inputs
from obs_onnx.pruning.judgement import Attempt
from obs_onnx.pruning.options import RunOptions
from obs_onnx.pruning.provenance import provenance
from obs_onnx.pruning.recorder import Recorder
from obs_onnx.pruning.strategy import Finished, Plan
from obs_onnx.quantization.comparison import combine
from obs_onnx.quantization.quantizer import Quantized
from obs_onnx.report.readable import ReadableReport
from obs_onnx.results.benchmark import Ratio
from obs_onnx.results.pruning import Combination, Figures, Latency, Missed
from obs_onnx.results.samples import ChangedSample
from obs_onnx.runtimes.sessions.partial_run import timable
from obs_onnx.training.loop import Trained
from obs_onnx.verification.front import Front

__all__ = ["Run", "beside_dense", "dry_report", "report"]

_ROUNDING = 1e-9  # of a share
_SLOWER = 1.01  # of the dense model's time, that is more than noise


def _shown(labelled: Evaluation | None, metric: Metric) -> tuple[float | None, float | None]:
    """Accuracy, and the metric where it is another one."""
    if labelled is None:
        return None, None
    return labelled.accuracy, None if metric is ACCURACY else labelled.figure(metric)


@dataclass(frozen=True)
class Run:
    """What was opened and asked for.

    Attributes:
        inputs: the model as it came in.
        plan: what of it can go.
        calibrated: the dense model and the data.
        targets: that are wanted.
        options: as they were given.
    """

    inputs: Inputs
    plan: Plan[Attempt]
    calibrated: Calibrated
    targets: Targets
    options: RunOptions

    def dense_figures(self) -> Figures:
        """Of the model as it came in."""
        dense, inputs = self.calibrated.dense, self.inputs
        accuracy, metric = _shown(dense.labelled, dense.metric)
        return figures(inputs.original, inputs.file, accuracy, dense.cost, self.plan.leaves_zeros, metric)

    def pruned_figures(self, result: Finished[Attempt], path: Path | None) -> Figures:
        """Of a result that lies in a file."""
        dense = self.calibrated.dense
        accuracy, metric = _shown(result.attempt.labelled, dense.metric)
        cost = measured(dense.runtime, written_form(result.attempt.model), self.calibrated.data.sample)
        return figures(result.model, path, accuracy, cost, self.plan.leaves_zeros, metric)

    def sizes(self, result: Finished[Attempt], path: Path | None) -> tuple[Figures, Figures]:
        """The model as it came in, and a result that lies in a file."""
        return self.dense_figures(), self.pruned_figures(result, path)

    def bare_sizes(self, result: Finished[Attempt]) -> tuple[Figures, Figures]:
        """The same as far as it takes no files and no runs."""
        dense = self.calibrated.dense
        known = [_shown(one, dense.metric) for one in (dense.labelled, result.attempt.labelled)]
        models = ((self.inputs.original, dense.cost), (result.model, None))
        before, after = (
            figures(model, None, accuracy, cost, metric=metric)
            for (model, cost), (accuracy, metric) in zip(models, known, strict=True)
        )
        return before, after

    def report(self, before: Figures, after: Figures) -> ReadableReport:
        """What is known before anything is pruned."""
        dense = self.calibrated.dense
        return ReadableReport(
            model=self.inputs.name,
            output=None,
            mode=self.plan.mode,
            criterion=self.options.criterion,
            targets=self.targets.as_dict(),
            met=False,
            before=before,
            after=after,
            frozen=self.plan.frozen,
            pattern=self.options.pattern,
            seed=self.options.seed,
            task=None if dense.yardstick.task == AUTO else dense.yardstick.task,
            metric=None if dense.figure is None else dense.metric.name,
            options=asked(self.options),
        )


def dry_report(run: Run, expected: Forecast, recorder: Recorder) -> ReadableReport:
    """The report of a run that stops before anything is pruned.

    Args:
        run: what was asked for.
        expected: what it would have taken.
        recorder: of the stages so far.
    """
    size = run.dense_figures()
    return replace(
        run.report(size, size),
        seconds=recorder.seconds,
        stages=recorder.costs,
        forecast=expected.kinds,
        notes=("dry run: nothing was pruned or written", expected.note, *run.calibrated.data.notes),
        alerts=run.calibrated.data.alerts,
    )


def report(
    run: Run, result: Finished[Attempt], path: Path | None, quantized: Quantized | None, recorder: Recorder
) -> ReadableReport:
    """Measure a result that is written, and report the run.

    Args:
        run: what was asked for.
        result: what was found.
        path: where it was written; a device or a pipe holds no file.
        quantized: the same in integers.
        recorder: of the stages.
    """
    file = None if path is None or is_stream(path) else path
    sizes = tried("the result was not measured", lambda: run.sizes(result, file), run.bare_sizes(result))
    timing, combined = _timed(run, result, recorder), _compared(run, result, quantized, recorder)
    before, after = sizes.value
    missed, slower = (*result.missed, *_over(run.targets, result, before, after)), list[str]()
    if timing.value is not None:
        before, after = timing.value.added(before, after)
        missed = (*missed, *_late(run.targets, result, timing.value.ratio))
        slower = _slower(run, timing.value.ratio)
    quality = result.attempt.quality
    changed = _changed(run, quality)
    return replace(
        run.report(before, after),
        output=None if path is None else str(path),
        met=not missed and not (run.targets.timed and timing.failures),
        missed=missed,
        reached=_reached(run.targets, result, before, after) | {one.target: one.reached for one in missed},
        output_error=quality.output_error,
        parts=quality.parts,
        agreement=quality.agreement,
        measures=quality.measures,
        bound=result.bound,
        layers=result.layers,
        groups=result.groups,
        seconds=recorder.with_total,
        stages=recorder.costs,
        method=run.plan.criterion,
        damping=result.damping,
        finetune=_trained(result.attempt.training, result.runs) if run.options.finetune else None,
        quantized=None if quantized is None or file is None else str(quantized_path(file, quantized.kind)),
        combinations=combined.value,
        environment=provenance(run.inputs, run.options),
        proof=result.proof,
        caches=_cache_shapes(run, result),
        notes=(
            *run.calibrated.data.notes,
            *result.notes,
            *(() if quantized is None else quantized.notes),
            *(() if timing.value is None else timing.value.notes),
            *slower,
            *run.plan.advice(before.compressed_bytes, after.compressed_bytes),
        ),
        alerts=(*run.calibrated.data.alerts, *_contradictions(run, result), *result.alerts),
        failures=(*sizes.failures, *timing.failures, *combined.failures, *changed.failures),
        changed=changed.value,
    )


def _changed(run: Run, quality: Evaluation) -> Tried[tuple[ChangedSample, ...]]:
    """Held-out samples that are put into another class, as they look."""
    options, inputs = run.options, run.inputs

    def work() -> tuple[ChangedSample, ...]:
        tokenizer = tokenizer_beside(options.tokenizer, options.calib, inputs.path)
        decode = None if inputs.fewer is not None else decoder(tokenizer)
        return shown_samples(run.calibrated.data.held_out, quality.changed, decode)

    return tried("samples that changed are not shown", work, ()) if quality.changed else Tried(())


def _cache_shapes(run: Run, result: Finished[Attempt]) -> dict[str, tuple[int | str | None, ...]]:
    """Shapes of the caches that go in and come out, where they may change."""
    caches = run.inputs.front.caches
    if caches is None:
        return {}
    names = {name for one in caches.pairs for name in (one.past, one.present)}
    graph = result.model.graph
    return {
        str(value.name): tuple(dim if isinstance(dim, int) else dim.value for dim in value.shape or ())
        for value in (*graph.inputs, *graph.outputs)
        if value.name in names
    }


def _contradictions(run: Run, result: Finished[Attempt]) -> list[str]:
    """Where the accuracy says other things than the calibration data."""
    data, quality = run.calibrated.data, result.attempt.quality
    if data.labelled is None or data.labelled is data.held_out:
        return []
    labelled = data.labelled.count or quality.samples
    return contradiction(
        result.attempt.drop, labelled, quality.agreement, quality.samples, quality.output_error
    )


@dataclass(frozen=True)
class _Timing:
    """The dense and the pruned model, timed in turn."""

    before: Latency
    after: Latency
    ratio: Ratio
    runtime: str
    notes: tuple[str, ...]

    def added(self, before: Figures, after: Figures) -> tuple[Figures, Figures]:
        """Figures of both with their latencies."""
        return (
            replace(before, latency_ms=self.before, runtime=self.runtime),
            replace(after, latency_ms=self.after, runtime=self.runtime),
        )


def _timed(run: Run, result: Finished[Attempt], recorder: Recorder) -> Tried[_Timing | None]:
    """Both models timed on the user's own samples, where that is wanted."""
    feed, runtime = run.calibrated.file_timing, run.inputs.target
    if feed is None or result.copied:
        return Tried(None)

    def work() -> _Timing:
        with recorder.stage("latency"):
            models = [run.inputs.given, run.inputs.put_back(written_form(result.attempt.model))]
            if run.inputs.front.runs and run.inputs.front.caches is None:
                models = [run.inputs.original, result.model]
            found = bench(
                [timable(runtime, one) for one in models],
                runtime,
                batch=run.options.batch,
                feed=feed,
                seconds=1.0,
            )
        noise = [f"the last measurement of latency is noisy: {'; '.join(found.noise)}"] if found.noisy else []
        before, after = (Latency.of(one, run.inputs.samples) for one in found.latencies)
        return _Timing(before, after, found.ratios[1], runtime.spec, tuple(noise))

    return tried("latency was not measured", work, None)


def _compared(
    run: Run, result: Finished[Attempt], quantized: Quantized | None, recorder: Recorder
) -> Tried[tuple[Combination, ...]]:
    """Dense and pruned model, in float and in integers, where these are wanted."""
    if quantized is None:
        return Tried(())

    def work() -> tuple[Combination, ...]:
        with recorder.stage("compare"):
            return _combinations(run, result.attempt.model, quantized)

    return tried("the quantized models were not compared", work, ())


def _over(targets: Targets, result: Finished[Attempt], before: Figures, after: Figures) -> list[Missed]:
    """Costs that are over their limit by the figures that are shown, whatever they were reckoned to be."""
    known, found = {one.target for one in result.missed}, []
    for target, limit in ((PARAMS, targets.share(PARAMS)), (MACS, targets.share(MACS))):
        (old,), (new,) = target.measures(before), target.measures(after)
        if limit is None or not old or new is None or target.name in known:
            continue
        if new / old > limit * (1 + _ROUNDING):
            advice = f"the file has more {target.label} than was reckoned: ask for less"
            found.append(Missed(target.name, limit, new / old, advice=advice))
    return found


def _reached(
    targets: Targets, result: Finished[Attempt], before: Figures, after: Figures
) -> dict[str, float | str]:
    """What was reached of the targets, as far as it was measured, in the units that they were given in."""
    found: dict[str, float | str] = {one.name: loss for one, _, loss in targets.losses(result.attempt)}
    weights = sum(layer.weights for layer in result.layers)
    for target, amount in targets:
        if target is SPARSITY and weights:
            found[target.name] = 1 - sum(layer.kept * layer.weights for layer in result.layers) / weights
        if not target.cost:
            continue
        old, new = (_figure(target, one) for one in (before, after))
        if new is not None and amount.unit in (Unit.BYTES, Unit.MILLISECONDS):
            found[target.name] = Amount(new, amount.unit).plain
        elif new is not None and old:
            found[target.name] = new / old
    return found


def _figure(target: Target, figures: Figures) -> float | None:
    """What a model costs, of those figures that are shown."""
    if target.timed:
        return None if figures.latency_ms is None else figures.latency_ms.median
    value: float | None = getattr(figures, target.figures[-1]) if target.figures else None
    return value


def _late(targets: Targets, result: Finished[Attempt], ratio: Ratio) -> list[Missed]:
    """The latency, where that measured at last is over the limit."""
    limit = 1.0 if result.latency_limit is None else result.latency_limit
    if not targets.timed or ratio.low <= limit or any(one.target == LATENCY.name for one in result.missed):
        return []
    return [
        Missed(LATENCY.name, limit, ratio.value, advice="this is the latency measured at last, as a share")
    ]


def _slower(run: Run, ratio: Ratio) -> list[str]:
    """A note where fewer channels surely take more time, and time was not asked for."""
    if run.targets.timed or run.plan.leaves_zeros or ratio.low <= _SLOWER:
        return []
    return [
        f"the smaller model is slower: it takes {ratio.value:.3f} of the dense model's time; the target "
        f"{LATENCY.name}=0.9 looks for a faster one"
    ]


def _combinations(run: Run, pruned: ir.Model, quantized: Quantized) -> tuple[Combination, ...]:
    """Dense and pruned model, in float and in integers."""
    models = {
        f"dense {quantized.kind}": quantized.dense,
        "pruned": pruned,
        f"pruned {quantized.kind}": quantized.model,
    }
    return beside_dense(run, models)


def beside_dense(run: Run, others: Mapping[str, ir.Model]) -> tuple[Combination, ...]:
    """The dense float model and others, measured on the same data and timed in turn."""
    models = {"dense": run.inputs.model, **others}
    dense, data, timing = run.calibrated.dense, run.calibrated.data, run.calibrated.timing
    timed = (
        None
        if timing is None or not (run.options.latency or run.targets.timed)
        else (run.inputs.target, timing)
    )
    measured_by = (dense.yardstick, dense.metric)
    front = run.inputs.front if run.inputs.batch is None else Front(run.inputs.model)
    return combine(models, front, run.inputs.runtime, data.held_out, data.labelled, timed, *measured_by)


def _trained(training: Trained | None, runs: Sequence[Trained]) -> dict[str, object]:
    """What retraining did, for the report; no steps where its result was not better."""
    rounds = [{"steps": run.steps, "before": asdict(run.before), "after": asdict(run.after)} for run in runs]
    total = {"total_steps": sum(run.steps for run in runs), "rounds": rounds}
    if training is None:
        return {"steps": 0, **total}
    return {
        "steps": training.steps,
        "before": asdict(training.before),
        "after": asdict(training.after),
        "masked": training.masked,
        "ms_per_step": 1000 * training.seconds / max(training.steps, 1),
        **total,
    }
