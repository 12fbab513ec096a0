"""prune(): the whole program as one readable sequence.

open -> find layers or channels -> calibration data -> measure damage -> allocate -> solve -> verify -> write
-> report
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import onnx_ir as ir

from obs_onnx.allocation.targets import parse_targets
from obs_onnx.data.open_source import open_source, split
from obs_onnx.entrypoints.keywords import takes
from obs_onnx.entrypoints.prune_options import PruneOptions
from obs_onnx.evaluation.model_figures import figures
from obs_onnx.evaluation.run_cost import measured
from obs_onnx.io.atomic_files import check_writable
from obs_onnx.io.json_file import write_json
from obs_onnx.io.onnx_file import ModelLike, open_model, save_model
from obs_onnx.io.paths import destination_of, int8_path, keep_path
from obs_onnx.option import asked
from obs_onnx.passes.errors import OptionError, named
from obs_onnx.pruning.channels.mode import ChannelsMode
from obs_onnx.pruning.inputs import BATCH, HELD_OUT, PruningInputs, prepare, timed
from obs_onnx.pruning.mode import Mode
from obs_onnx.pruning.weights.mode import WeightsMode
from obs_onnx.quantization.comparison import combine
from obs_onnx.quantization.int8_run import Int8
from obs_onnx.results.pruning import Combination, Report
from obs_onnx.runtimes.onnxruntime import OrtRuntime
from obs_onnx.training.loop import Settings, Trained
from obs_onnx.training.retraining import Retraining
from obs_onnx.training.settings import choose_optimizer

__all__ = ["Pruned", "prune"]

DEFAULT_TARGETS = {"error": 0.05}
MODES: Mapping[str, Callable[..., Mode]] = {"channels": ChannelsMode, "weights": WeightsMode}


@dataclass(frozen=True)
class Pruned:
    """What :func:`prune` returns.

    Attributes:
        model: the pruned one.
        report: everything measured about it.
        quantized: the same in integers of 8 bits, where ``quantize`` asked for it.
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
        options: see :class:`obs_onnx.entrypoints.prune_options.PruneOptions`.

    Returns:
        The pruned model and the report; ``report.met`` tells whether all targets hold.

    Raises:
        ModelError, DataError, OptionError, MissingRuntimeError: bad input; nothing is written.
        VerificationError: the result broke a promise; nothing is written.
    """
    start = time.perf_counter()
    wanted = parse_targets(options.targets or {})
    mode, progress = options.mode, options.progress
    way: Mode = MODES[mode](wanted, options)
    if not wanted.bounded and way.bound_by_default:
        wanted = parse_targets({**wanted.as_dict(), **DEFAULT_TARGETS})

    found = original, name, path = open_model(model, options.custom_domains)
    destination = destination_of(options.output, path)
    if destination is not None and mode == "channels":
        check_writable(keep_path(destination))
    if destination is not None and options.quantize is not None:
        check_writable(int8_path(destination))
    given = prepare(way, found, wanted, options)
    where, accuracy, demand = given.where, given.accuracy, given.demand
    int8 = None if options.quantize is None else Int8.of(where, original, way.model, given.fit)
    retraining = _retraining(options, given, way)
    run = given.study(options, retraining)
    run.seconds["open"] = time.perf_counter() - start
    notes = [*given.source.notes]
    if note := way.cost_note(run):
        progress.say(note)
    if options.dry_run:
        size = figures(original, path, accuracy, demand, way.leaves_zeros)
        report = Report(
            model=name,
            output=None,
            mode=mode,
            criterion=options.criterion,
            targets=wanted.as_dict(),
            met=False,
            before=size,
            after=size,
            frozen=way.frozen,
            seconds=run.seconds,
            pattern=options.pattern,
            seed=options.seed,
            options=asked(options),
            notes=("dry run: nothing was pruned or written", *([note] if note else []), *notes),
        )
        return Pruned(way.model, report)

    best = run.find(wanted, options.rounds)
    finished, expected = given.finish(run, best)
    final = finished.model
    notes += finished.notes
    quantized = None
    if int8 is not None:
        with run.stage("quantize"):
            quantized = int8(best.model)
        notes += int8.notes
    if destination is not None:
        with run.stage("write"):
            save_model(final, destination, given.check_file(expected, options.custom_domains))
            if finished.keep is not None:
                write_json(keep_path(destination), finished.keep)
            if int8 is not None and quantized is not None:
                save_model(quantized, int8_path(destination), int8.check(quantized))
    reached_accuracy = None if accuracy is None or best.drop is None else accuracy - best.drop
    before = figures(original, path, accuracy, demand, way.leaves_zeros)
    reached = measured(where, best.model, given.sample)
    after = figures(final, destination, reached_accuracy, reached, way.leaves_zeros)
    met = finished.met
    if (options.latency or wanted.timed) and not finished.copied:
        with run.stage("latency"):
            feed = given.timing_feed(options.batch) if wanted.timed else None
            before, after, ratio = timed(
                given.target, original, final, before, after, options.batch, notes, feed
            )
            if wanted.timed and ratio.low > run.limits(wanted).get("latency", 1.0):
                met = False
                notes.append(f"the latency measured at last is {ratio.value:.3f} of the dense model's")
    combinations: tuple[Combination, ...] = ()
    if int8 is not None and quantized is not None:
        models = {"dense": original, "dense int8": int8.dense, "pruned": final, "pruned int8": quantized}
        with run.stage("compare"):
            clock = (given.target, options.batch) if options.latency else None
            combinations = combine(models, where, given.held_out, given.judged, clock)
    notes += way.advice(before.compressed_bytes, after.compressed_bytes)
    report = Report(
        model=name,
        output=None if destination is None else str(destination),
        mode=mode,
        criterion=options.criterion,
        targets=wanted.as_dict(),
        met=met,
        before=before,
        after=after,
        output_error=best.quality.output_error,
        agreement=best.quality.agreement,
        bound=finished.bound,
        layers=finished.layers,
        groups=finished.groups,
        frozen=way.frozen,
        seconds={**run.seconds, "total": time.perf_counter() - start},
        method=options.criterion,
        pattern=options.pattern,
        damping=finished.damping,
        finetune=None if retraining is None else _trained(finished.training, retraining.runs),
        quantized=None if quantized is None or destination is None else str(int8_path(destination)),
        combinations=combinations,
        seed=options.seed,
        options=asked(options),
        environment={key: str(value) for key, value in where.environment().items()},
        notes=tuple(notes),
    )
    return Pruned(final, report, quantized)


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


def _retraining(options: PruneOptions, given: PruningInputs, way: Mode) -> Retraining | None:
    """How models are retrained, checked; None where they are not."""
    if not options.finetune:
        return None
    if not isinstance(given.where, OrtRuntime):
        raise OptionError(f"{named('finetune')} trains with onnxruntime, not with {options.runtime}")
    steps = options.finetune if options.finetune_last is None else options.finetune_last
    settings = Settings(
        steps,
        options.train_batch,
        choose_optimizer(options.optimizer, options.trainer),
        options.lr,
        seed=options.seed,
        trainer=options.trainer,
        augment=options.augment,
    )
    source, fit, held_out = given.source, given.fit, given.held_out
    if options.finetune_data is not None:
        source = open_source(
            options.finetune_data,
            given.dense.inputs,
            batch_size=BATCH,
            labels_key=options.labels,
            seed=options.seed,
        )
        fit, held_out = split(source, HELD_OUT, options.seed)
    learnt = options.labels is not None and source.has_labels
    retraining = Retraining(
        given.where,
        given.dense,
        fit,
        held_out,
        settings,
        learnt,
        options.mix,
        options.finetune,
        options.rounds,
        options.progress,
    )
    retraining.check(way.model)
    return retraining
