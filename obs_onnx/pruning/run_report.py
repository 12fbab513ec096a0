"""The report of a run: the dense and the pruned model, measured, and what was found on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import onnx_ir as ir

from obs_onnx.allocation.targets import Targets
from obs_onnx.data.merged import fitted
from obs_onnx.evaluation.model_figures import figures
from obs_onnx.evaluation.run_cost import measured
from obs_onnx.io.onnx_file import serialize
from obs_onnx.io.paths import int8_path
from obs_onnx.io.streams import is_stream
from obs_onnx.latency import timing_feed
from obs_onnx.latency.benchmark import bench
from obs_onnx.option import asked
from obs_onnx.pruning.calibrated import Calibrated
from obs_onnx.pruning.inputs import Inputs
from obs_onnx.pruning.judgement import Attempt
from obs_onnx.pruning.options import RunOptions
from obs_onnx.pruning.recorder import Recorder
from obs_onnx.pruning.strategy import Finished, Plan
from obs_onnx.quantization.comparison import combine
from obs_onnx.quantization.int8_run import Quantized
from obs_onnx.results.benchmark import Ratio
from obs_onnx.results.pruning import Combination, Figures, Latency, Report
from obs_onnx.training.loop import Trained

__all__ = ["Run", "dry_report", "report"]


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
        return figures(inputs.model, inputs.path, dense.accuracy, dense.cost, self.plan.leaves_zeros)

    def pruned_figures(self, result: Finished[Attempt], path: Path | None) -> Figures:
        """Of a result that lies in a file."""
        dense, drop = self.calibrated.dense, result.attempt.drop
        accuracy = None if dense.accuracy is None or drop is None else dense.accuracy - drop
        cost = measured(dense.runtime, result.attempt.model, self.calibrated.data.sample)
        return figures(result.model, path, accuracy, cost, self.plan.leaves_zeros)

    def report(self, before: Figures, after: Figures) -> Report:
        """What is known before anything is pruned."""
        return Report(
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
            options=asked(self.options),
        )


def dry_report(run: Run, cost_note: str | None, recorder: Recorder) -> Report:
    """The report of a run that stops before anything is pruned.

    Args:
        run: what was asked for.
        cost_note: what it would have cost.
        recorder: of the stages so far.
    """
    size = run.dense_figures()
    noted = [] if cost_note is None else [cost_note]
    return replace(
        run.report(size, size),
        seconds=recorder.seconds,
        notes=("dry run: nothing was pruned or written", *noted, *run.calibrated.data.notes),
    )


def report(
    run: Run, result: Finished[Attempt], path: Path | None, quantized: Quantized | None, recorder: Recorder
) -> Report:
    """Measure a result that is written, and report the run.

    Args:
        run: what was asked for.
        result: what was found.
        path: where it was written; a device or a pipe holds no file.
        quantized: the same in integers of 8 bits.
        recorder: of the stages.
    """
    file = None if path is None or is_stream(path) else path
    before, after = run.dense_figures(), run.pruned_figures(result, file)
    timing, late = None, []
    if (run.options.latency or run.targets.timed) and not result.copied:
        with recorder.stage("latency"):
            timing = _time(run, result.model)
            before, after = timing.added(before, after)
            late = _late(run.targets, result, timing.ratio)
    combinations: tuple[Combination, ...] = ()
    if quantized is not None:
        with recorder.stage("compare"):
            combinations = _combinations(run, result, quantized)
    quality = result.attempt.quality
    return replace(
        run.report(before, after),
        output=None if path is None else str(path),
        met=result.met and not late,
        output_error=quality.output_error,
        agreement=quality.agreement,
        bound=result.bound,
        layers=result.layers,
        groups=result.groups,
        seconds=recorder.with_total,
        method=run.options.criterion,
        damping=result.damping,
        finetune=_trained(result.attempt.training, result.runs) if run.options.finetune else None,
        quantized=None if quantized is None or file is None else str(int8_path(file)),
        combinations=combinations,
        environment={key: str(value) for key, value in run.inputs.runtime.environment().items()},
        notes=(
            *run.calibrated.data.notes,
            *result.notes,
            *(() if quantized is None else quantized.notes),
            *(() if timing is None else timing.notes),
            *late,
            *run.plan.advice(before.compressed_bytes, after.compressed_bytes),
        ),
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


def _time(run: Run, pruned: ir.Model) -> _Timing:
    """Both models timed, on real data where latency is a target, else on random data."""
    runtime, batch, feed = run.inputs.target, run.options.batch, None
    if run.targets.timed:
        feed = timing_feed(run.calibrated.data.held_out, run.calibrated.dense.session.inputs, batch)
        if (own := run.inputs.batch) is not None:
            feed = fitted(feed, own.inputs, own.size)
    models = [serialize(run.inputs.given), serialize(pruned)]
    result = bench(models, runtime, batch=batch, feed=feed, seconds=1.0)
    noise = [f"the last measurement of latency is noisy: {'; '.join(result.noise)}"] if result.noisy else []
    before, after = (Latency.of(one, run.inputs.samples) for one in result.latencies)
    return _Timing(before, after, result.ratios[1], runtime.spec, tuple(noise))


def _late(targets: Targets, result: Finished[Attempt], ratio: Ratio) -> list[str]:
    """A note where the latency measured at last is over the limit."""
    limit = 1.0 if result.latency_limit is None else result.latency_limit
    if not targets.timed or ratio.low <= limit:
        return []
    return [f"the latency measured at last is {ratio.value:.3f} of the dense model's"]


def _combinations(run: Run, result: Finished[Attempt], quantized: Quantized) -> tuple[Combination, ...]:
    """Dense and pruned model, in float and in integers of 8 bits."""
    models = {
        "dense": run.inputs.model,
        "dense int8": quantized.dense,
        "pruned": result.model if run.inputs.batch is None else result.attempt.model,
        "pruned int8": quantized.model,
    }
    data, options = run.calibrated.data, run.options
    timed = (run.inputs.target, options.batch) if options.latency else None
    return combine(models, run.inputs.runtime, data.held_out, data.labelled, timed)


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
