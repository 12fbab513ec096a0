"""prune(): the whole program as one readable sequence.

open -> find layers or channels -> calibration data -> measure damage -> allocate -> solve -> verify -> write
-> report
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import onnx
import onnx_ir as ir

from obs_onnx.allocation.targets import parse_targets
from obs_onnx.data.open_source import open_source, split
from obs_onnx.evaluation.model_figures import figures
from obs_onnx.evaluation.run_cost import measured
from obs_onnx.io.atomic_files import check_writable
from obs_onnx.io.json_file import write_json
from obs_onnx.io.onnx_file import open_model, save_model
from obs_onnx.io.paths import destination_of, int8_path, keep_path
from obs_onnx.passes.errors import OptionError
from obs_onnx.progress import Progress, quiet
from obs_onnx.pruning.channels.mode import ChannelsMode
from obs_onnx.pruning.effort import EFFORTS
from obs_onnx.pruning.inputs import BATCH, HELD_OUT, check_memory, prepare, timed
from obs_onnx.pruning.mode import Mode, Options
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


def prune(
    model: str | os.PathLike[str] | ir.Model | onnx.ModelProto,
    output: str | os.PathLike[str] | None = None,
    *,
    calib: Any = None,
    labels: str | None = None,
    mode: str = "channels",
    targets: Mapping[str, float | str] | Sequence[str] | None = None,
    pattern: str | None = None,
    criterion: str = "auto",
    allocation: str = "damage",
    normalize: bool = False,
    regularize: Mapping[str, float] | None = None,
    compensate: bool = True,
    sequential: bool = True,
    correct: bool | None = None,
    damping: float = 1e-2,
    protect: Sequence[str] = (),
    round_to: int | None = None,
    layer_sparsity: Mapping[str, float] | None = None,
    rounds: int = 1,
    finetune: int = 0,
    finetune_last: int | None = None,
    finetune_data: Any = None,
    mix: float = 0.5,
    optimizer: str | None = None,
    lr: float | None = None,
    trainer: str = "graph",
    train_batch: int = 64,
    augment: str = "",
    quantize: str | None = None,
    effort: str = "normal",
    loss: str = "auto",
    runtime: str = "onnxruntime",
    threads: int | None = None,
    batch: int = 1,
    memory: int | None = None,
    evaluation: Any = None,
    custom_ops: Sequence[str] = (),
    custom_domains: Sequence[str] = (),
    seed: int = 0,
    latency: bool = True,
    dry_run: bool = False,
    progress: Progress = quiet,
) -> Pruned:
    """Prune a model with layer-wise Optimal Brain Surgeon.

    Channels that are removed leave a file ``<output stem>.keep.json`` beside the output: for each initializer
    of the input model and axis the indices that stay.

    Args:
        model: a file, or a model in memory (which is not changed).
        output: file to write; by default ``<stem>.pruned.onnx`` beside a model given as a file, nothing for a
            model in memory.
        calib: calibration data, see :func:`obs_onnx.data.open_source.open_source`; by default
            ``<stem>.calib.npz`` beside the model. One sample of eight is held out to measure errors.
        labels: name of the labels in ``calib`` and ``evaluation``; by default ``labels`` if there are any.
        mode: ``channels`` (whole channels, heads and hidden units are removed) or ``weights`` (zeros).
        targets: such as ``{"macs": 0.5}``; all must hold. By default as much is removed as a relative output
            error of 5% allows; a pattern N:M fixes the sparsity itself.
        pattern: ``2:4``, ``1x4`` ..., along the input channels; by default single weights.
        criterion: what chooses the weights that go: auto, obs, admm, lobs, magnitude or random; or the
            channels: auto (obs) or a name in :data:`obs_onnx.criteria.channels.CRITERIA`.
        allocation: what decides how much of each layer or group goes: ``damage`` measured at the outputs, or
            the name of a criterion, whose scores of all layers or groups are then compared (per cost saved).
        normalize: as in the papers, divide scores by their Euclidean norm in each layer or group, and remove
            what is lowest, whatever it saves; needs an ``allocation`` by a criterion.
        regularize: for channels, what costs take off normalised scores, such as ``{"flops": 0.001}``: see
            :mod:`obs_onnx.allocation.regularizers`.
        compensate: refit the kept weights (and biases).
        sequential: refit to the dense model's outputs on what the pruned layers before really give.
        correct: match per-channel output statistics where that lowers the held-out error; by default tried
            only without ``sequential``, which leaves next to nothing to correct.
        damping: of the second moments, relative to their mean diagonal.
        protect: shell patterns of weight or node names to leave alone.
        round_to: kept channel counts are multiples of it; by default of a power of two up to what suits the
            runtime, smaller in groups of few channels.
        layer_sparsity: shell pattern -> sparsity for layers that allocation may not choose for.
        rounds: iterations; each one measures again around the model pruned so far.
        finetune: updates of retraining after each round, on the dense model's outputs for the calibration
            data (and on its labels, where ``labels`` is given); zeros stay zeros.
        finetune_last: updates after the last round; by default as many as after the others.
        finetune_data: what retraining learns from, of which one sample of eight is held out; by default the
            calibration data.
        mix: share of the labels in the loss of retraining, where they are learnt.
        optimizer: of retraining, see :func:`obs_onnx.finetune`.
        lr: its largest learning rate, which rises and falls once in all rounds together.
        trainer: its engine, ``graph`` or ``ort-training``; see :func:`obs_onnx.finetune`.
        train_batch: samples of one update.
        augment: random views of images in training, such as ``flip,crop``.
        quantize: ``int8`` also writes the result in integers of 8 bits, as ``<output stem>.int8.onnx``.
        effort: quick, normal or thorough.
        loss: damage that allocation minimises: ``kl``, ``error``, or ``auto`` (kl for class scores).
        runtime, threads: where models run, see :func:`obs_onnx.runtimes.open_runtime`.
        batch: samples per run when latency is measured.
        memory: bytes that activations may take; by default half of what is free.
        evaluation: labelled data for the accuracy before and after (and the target ``drop``).
        custom_ops: libraries with custom operators.
        custom_domains: domains of operators that those libraries bring.
        seed: of everything random.
        latency: measure it before and after.
        dry_run: stop before the first costly step, write nothing.
        progress: see :mod:`obs_onnx.progress`.

    Returns:
        The pruned model and the report; ``report.met`` tells whether all targets hold.

    Raises:
        ModelError, DataError, OptionError, MissingRuntimeError: bad input; nothing is written.
        VerificationError: the result broke a promise; nothing is written.
    """
    start = time.perf_counter()
    wanted = parse_targets(targets or {})
    _check_options(effort, rounds, seed)
    _check_retraining(finetune, finetune_last, finetune_data)
    if quantize not in (None, "int8"):
        raise OptionError(f"quantize={quantize!r} is unknown: use int8")
    if quantize is not None and custom_ops:
        raise OptionError("--quantize int8 knows no libraries of custom operators: leave out --quantize")
    if mode not in MODES:
        raise OptionError(f"mode {mode!r} is unknown: use one of {', '.join(MODES)}")
    check_memory(memory)
    options = Options(
        pattern=pattern,
        criterion=criterion,
        compensate=compensate,
        sequential=sequential,
        correct=correct,
        damping=damping,
        protect=protect,
        layer_sparsity=layer_sparsity or {},
        round_to=round_to,
        seed=seed,
        allocation=allocation,
        normalize=normalize,
        regularize=regularize or {},
    )
    way: Mode = MODES[mode](wanted, options)
    if not wanted.bounded and way.bound_by_default:
        wanted = parse_targets({**wanted.as_dict(), **DEFAULT_TARGETS})

    found = original, name, path = open_model(model, custom_domains)
    destination = destination_of(output, path)
    if destination is not None and mode == "channels":
        check_writable(keep_path(destination))
    if destination is not None and quantize is not None:
        check_writable(int8_path(destination))
    given = prepare(
        way,
        found,
        wanted,
        calib=calib,
        labels=labels,
        evaluation=evaluation,
        runtime=runtime,
        threads=threads,
        custom_ops=custom_ops,
        seed=seed,
    )
    where, accuracy, demand = given.where, given.accuracy, given.demand
    int8 = None if quantize is None else Int8.of(where, original, way.model, given.fit)
    retraining = None
    if finetune:
        if not isinstance(where, OrtRuntime):
            raise OptionError(f"--finetune trains with onnxruntime, not with {runtime}")
        steps = finetune if finetune_last is None else finetune_last
        settings = Settings(
            steps,
            train_batch,
            choose_optimizer(optimizer, trainer),
            lr,
            seed=seed,
            trainer=trainer,
            augment=augment,
        )
        source, fit, held_out = given.source, given.fit, given.held_out
        if finetune_data is not None:
            source = open_source(
                finetune_data, given.dense.inputs, batch_size=BATCH, labels_key=labels, seed=seed
            )
            fit, held_out = split(source, HELD_OUT, seed)
        learnt = labels is not None and source.has_labels
        retraining = Retraining(
            where, given.dense, fit, held_out, settings, learnt, mix, finetune, rounds, progress
        )
        retraining.check(way.model)
    run = given.study(
        effort=effort,
        loss=loss,
        batch=batch,
        round_to=round_to,
        memory=memory,
        progress=progress,
        retraining=retraining,
    )
    run.seconds["open"] = time.perf_counter() - start
    notes = [*given.source.notes]
    if note := way.cost_note(run):
        progress.say(note)
    if dry_run:
        size = figures(original, path, accuracy, demand, way.leaves_zeros)
        report = Report(
            model=name,
            output=None,
            mode=mode,
            criterion=criterion,
            targets=wanted.as_dict(),
            met=False,
            before=size,
            after=size,
            frozen=way.frozen,
            seconds=run.seconds,
            pattern=pattern,
            seed=seed,
            notes=("dry run: nothing was pruned or written", *([note] if note else []), *notes),
        )
        return Pruned(way.model, report)

    best = run.find(wanted, rounds)
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
            save_model(final, destination, given.check_file(expected, custom_domains))
            if finished.keep is not None:
                write_json(keep_path(destination), finished.keep)
            if int8 is not None and quantized is not None:
                save_model(quantized, int8_path(destination), int8.check(quantized))
    reached_accuracy = None if accuracy is None or best.drop is None else accuracy - best.drop
    before = figures(original, path, accuracy, demand, way.leaves_zeros)
    reached = measured(where, best.model, given.sample)
    after = figures(final, destination, reached_accuracy, reached, way.leaves_zeros)
    met = finished.met
    if (latency or wanted.timed) and not finished.copied:
        with run.stage("latency"):
            feed = given.timing_feed(batch) if wanted.timed else None
            before, after, ratio = timed(given.target, original, final, before, after, batch, notes, feed)
            if wanted.timed and ratio.low > run.limits(wanted).get("latency", 1.0):
                met = False
                notes.append(f"the latency measured at last is {ratio.value:.3f} of the dense model's")
    combinations: tuple[Combination, ...] = ()
    if int8 is not None and quantized is not None:
        models = {"dense": original, "dense int8": int8.dense, "pruned": final, "pruned int8": quantized}
        with run.stage("compare"):
            clock = (given.target, batch) if latency else None
            combinations = combine(models, where, given.held_out, given.judged, clock)
    notes += way.advice(before.compressed_bytes, after.compressed_bytes)
    report = Report(
        model=name,
        output=None if destination is None else str(destination),
        mode=mode,
        criterion=criterion,
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
        method=criterion,
        pattern=pattern,
        damping=finished.damping,
        finetune=None if retraining is None else _trained(finished.training, retraining.runs),
        quantized=None if quantized is None or destination is None else str(int8_path(destination)),
        combinations=combinations,
        seed=seed,
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


def _check_retraining(finetune: int, finetune_last: int | None, finetune_data: Any) -> None:
    if finetune < 0:
        raise OptionError(f"{finetune} steps of retraining: use 0 or more")
    if finetune_last is not None and not finetune:
        raise OptionError("--finetune-last goes with --finetune: give that, too")
    if finetune_data is not None and not finetune:
        raise OptionError("--finetune-data goes with --finetune: give that, too")


def _check_options(effort: str, rounds: int, seed: int) -> None:
    if effort not in EFFORTS:
        raise OptionError(f"effort {effort!r} is unknown: use one of {', '.join(EFFORTS)}")
    if rounds < 1:
        raise OptionError(f"{rounds} rounds: use at least 1")
    if seed < 0:
        raise OptionError(f"seed {seed} is negative: use 0 or more")
