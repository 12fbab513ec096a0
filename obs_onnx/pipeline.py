"""prune(): the whole program as one readable sequence.

open -> find layers -> calibration data -> measure damage -> allocate -> solve -> correct -> verify -> write
-> report
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import psutil

from obs_onnx.bound import network_bound
from obs_onnx.damage import choose_measure
from obs_onnx.data import open_source, split
from obs_onnx.evaluation import evaluate_sessions
from obs_onnx.figures import figures, layer_line, measured_macs, timed
from obs_onnx.layerwise import SolveOptions
from obs_onnx.model_file import from_proto, load_model, save_model, serialize
from obs_onnx.passes.canonical import canonicalize
from obs_onnx.passes.errors import DataError, ModelError, OptionError
from obs_onnx.passes.layers import find_layers
from obs_onnx.passes.segments import plan_stages
from obs_onnx.passes.set_weights import SetWeights
from obs_onnx.passes.upcast import Upcast, uses_bfloat16
from obs_onnx.prunable import choose_layers, layer_sparsities
from obs_onnx.report.advice import advice
from obs_onnx.report.progress import Progress, quiet
from obs_onnx.report.result import Report
from obs_onnx.runtimes import Runtime, open_runtime
from obs_onnx.solvers import UNSTRUCTURED, Pattern, parse_pattern
from obs_onnx.targets import Targets, parse_targets
from obs_onnx.trials import DAMAGE_SHARE, EFFORTS, Trials
from obs_onnx.verify import check_model, check_zeros, measure

__all__ = ["Pruned", "prune"]

BATCH = 128
HELD_OUT = 0.125
DEFAULT_TARGETS = {"error": 0.05}


@dataclass(frozen=True)
class Pruned:
    """What :func:`prune` returns: the model, and everything measured about it."""

    model: ir.Model
    report: Report


def prune(
    model: str | os.PathLike[str] | ir.Model | onnx.ModelProto,
    output: str | os.PathLike[str] | None = None,
    *,
    calib: Any = None,
    labels: str | None = None,
    mode: str = "weights",
    targets: Mapping[str, float | str] | Sequence[str] | None = None,
    pattern: str | None = None,
    criterion: str = "auto",
    compensate: bool = True,
    sequential: bool = True,
    correct: bool | None = None,
    damping: float = 1e-2,
    protect: Sequence[str] = (),
    layer_sparsity: Mapping[str, float] | None = None,
    rounds: int = 1,
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

    Args:
        model: a file, or a model in memory (which is not changed).
        output: file to write; by default ``<stem>.pruned.onnx`` beside a model given as a file, nothing for a
            model in memory.
        calib: calibration data, see :func:`obs_onnx.data.open_source`; by default ``<stem>.calib.npz`` beside
            the model. One sample of eight is held out to measure errors.
        labels: name of the labels in ``calib`` and ``evaluation``; by default ``labels`` if there are any.
        mode: ``weights``.
        targets: such as ``{"sparsity": 0.9}``; all must hold. By default the largest sparsity whose relative
            output error stays below 5%; a pattern N:M fixes the sparsity itself.
        pattern: ``2:4``, ``1x4`` ..., along the input channels; by default single weights.
        criterion: auto, obs, admm, lobs, magnitude or random: what chooses the weights that go.
        compensate: refit the kept weights (and biases).
        sequential: refit to the dense model's outputs on what the pruned layers before really give.
        correct: match per-channel output statistics where that lowers the held-out error; by default tried
            only without ``sequential``, which leaves next to nothing to correct.
        damping: of the second moments, relative to their mean diagonal.
        protect: shell patterns of weight or node names to leave alone.
        layer_sparsity: shell pattern -> sparsity for layers that allocation may not choose for.
        rounds: iterations; each one measures again around the model pruned so far.
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
        progress: see :mod:`obs_onnx.report.progress`.

    Returns:
        The pruned model and the report; ``report.met`` tells whether all targets hold.

    Raises:
        ModelError, DataError, OptionError, MissingRuntimeError: bad input; nothing is written.
        VerificationError: the result broke a promise; nothing is written.
    """
    start = time.perf_counter()
    zeros = parse_pattern(pattern)
    wanted = _targets(targets, zeros)
    _check_options(mode, effort, rounds, seed)
    if memory is not None and memory <= 0:
        raise OptionError(f"a memory of {memory} bytes is too little: give for example 2GB")
    if criterion == "lobs" and zeros.kind != "unstructured":
        raise OptionError(f"criterion lobs removes single weights, not {zeros}: use obs, admm or auto")
    if zeros.kind == "nm" and layer_sparsity:
        raise OptionError(f"pattern {zeros} fixes the sparsity of every layer: leave out --layer")

    original, name, path = _open_model(model, custom_domains)
    destination = _destination(output, path)
    where = open_runtime(runtime, threads, custom_ops, spinning=False)
    stored = canonicalize(original)
    canonical, copied = _runnable(where, stored)
    layers, frozen = find_layers(canonical)
    choice = choose_layers(layers, protect, zeros)
    if not choice.pruned:
        raise OptionError(f"{name} has no layer to prune: run inspect to see why each was left alone")
    fixed = layer_sparsities(choice.pruned, layer_sparsity or {})
    moving = [layer for layer in layers if layer not in choice.kept]

    dense = where.session(serialize(canonical))
    source = open_source(
        _calibration(calib, path), dense.inputs, batch_size=BATCH, labels_key=labels, seed=seed
    )
    fit, held_out = split(source, HELD_OUT, seed)
    judged = held_out if held_out.has_labels else None
    if evaluation is not None:
        judged = open_source(evaluation, dense.inputs, batch_size=BATCH, labels_key=labels, seed=seed)
    accuracy = None if judged is None else evaluate_sessions(dense, judged).accuracy
    if wanted.drop is not None and accuracy is None:
        raise DataError("target drop needs labelled data: give --eval with labels")
    first = next(iter(held_out))
    answer = dense.run(first)
    if wanted.error is not None and choose_measure("error", answer) != "error":
        raise OptionError(
            "no output of the model is of a float type, so it has no error: target sparsity or drop"
        )
    macs = measured_macs(where, canonical, next(iter(held_out.rebatch(1))))
    run = Trials(
        model=canonical,
        layers=moving,
        choice=choice,
        plan=plan_stages(canonical, moving),
        runtime=where,
        fit=fit,
        held_out=held_out,
        options=SolveOptions(
            criterion, zeros, damping, compensate, sequential=sequential and compensate, seed=seed
        ),
        effort=EFFORTS[effort],
        measure=choose_measure("error" if loss == "auto" and wanted.sparsity is None else loss, answer),
        budget=memory or psutil.virtual_memory().available // 2,
        progress=progress,
        dense=dense,
        evaluation=judged,
        dense_accuracy=accuracy,
        fixed=fixed,
        macs=macs,
        correct=compensate and (not sequential if correct is None else correct),
    )
    run.seconds["open"] = time.perf_counter() - start
    notes = [*source.notes]
    if zeros.kind != "nm":
        progress.say(_plan_note(run))
    if dry_run:
        size = figures(original, path, accuracy, macs)
        report = Report(
            model=name,
            output=None,
            mode=mode,
            criterion=criterion,
            targets=wanted.as_dict(),
            met=False,
            before=size,
            after=size,
            frozen=(*frozen, *choice.reasons),
            seconds=run.seconds,
            pattern=pattern,
            seed=seed,
            notes=("dry run: nothing was pruned or written", _plan_note(run), *notes),
        )
        return Pruned(canonical, report)

    best = run.find(wanted, rounds)
    final = best.model
    if copied:
        changed = {name: array for one in best.solved.values() for name, array in one.tensors.items()}
        final = SetWeights(changed)(stored.clone()).model
        notes.append(
            f"{where.spec} has no kernels for bfloat16: all was computed and measured on a float32 copy"
        )
    with run.stage("verify"):
        masks = {name: solved.solution.mask for name, solved in best.solved.items()}
        counts = check_zeros(best.model, choice.pruned, masks, zeros)
        measured = measure(where, canonical, best.model, moving, held_out)
        bound = None
        if not best.renormalised:
            bound = network_bound(best.model, moving, measured.isolated_errors, {}, measured.output_norms)
        expected = where.session(serialize(best.model)).run(first)
        check_model(where, best.model, first, expected)
    if destination is not None:

        def check(written: Path) -> None:
            again, _ = _runnable(where, load_model(written, custom_domains=custom_domains))
            check_model(where, again, first, expected)

        with run.stage("write"):
            save_model(final, destination, check)
    lost = best.drop
    reached_accuracy = None if accuracy is None or lost is None else accuracy - lost
    before, after = (
        figures(original, path, accuracy, macs),
        figures(final, destination, reached_accuracy, macs),
    )
    if latency and not copied:
        with run.stage("latency"):
            before, after = timed(
                open_runtime(runtime, threads, custom_ops), original, final, before, after, batch, notes
            )
    notes += advice(
        mode,
        None if zeros == UNSTRUCTURED else str(zeros),
        compressed_before=before.compressed_bytes,
        compressed_after=after.compressed_bytes,
    )
    reached = 1 - sum(layer.size - counts[layer.name] for layer in choice.pruned) / run.prunable
    report = Report(
        model=name,
        output=None if destination is None else str(destination),
        mode=mode,
        criterion=criterion,
        targets=wanted.as_dict(),
        met=best.strain(wanted) <= 1 and reached >= (wanted.sparsity or 0.0) - 1e-12,
        before=before,
        after=after,
        output_error=best.quality.output_error,
        agreement=best.quality.agreement,
        bound=bound,
        layers=tuple(
            layer_line(layer, best, counts, measured.layer_errors) for layer in layers if layer in moving
        ),
        frozen=(*frozen, *choice.reasons),
        seconds={**run.seconds, "total": time.perf_counter() - start},
        method=criterion,
        pattern=pattern,
        damping=max((solved.solution.damping for solved in best.solved.values()), default=None),
        seed=seed,
        environment={key: str(value) for key, value in where.environment().items()},
        notes=tuple(notes),
    )
    return Pruned(final, report)


def _targets(given: Mapping[str, float | str] | Sequence[str] | None, pattern: Pattern) -> Targets:
    """The targets, with the default filled in."""
    wanted = parse_targets(given or {})
    if pattern.kind != "nm":
        return wanted if wanted.as_dict() else parse_targets(DEFAULT_TARGETS)
    if wanted.sparsity is not None:
        raise OptionError(f"pattern {pattern} fixes the sparsity by itself: leave out the target sparsity")
    return wanted


def _check_options(mode: str, effort: str, rounds: int, seed: int) -> None:
    if mode != "weights":
        raise OptionError(f"mode {mode!r} is unknown: use weights")
    if effort not in EFFORTS:
        raise OptionError(f"effort {effort!r} is unknown: use one of {', '.join(EFFORTS)}")
    if rounds < 1:
        raise OptionError(f"{rounds} rounds: use at least 1")
    if seed < 0:
        raise OptionError(f"seed {seed} is negative: use 0 or more")


def _open_model(
    model: str | os.PathLike[str] | ir.Model | onnx.ModelProto, custom_domains: Sequence[str]
) -> tuple[ir.Model, str, Path | None]:
    """The model, its name for people, and its file if there is one."""
    if isinstance(model, ir.Model):
        return model, model.graph.name or "model", None
    if isinstance(model, onnx.ModelProto):
        return from_proto(model, custom_domains=custom_domains), model.graph.name or "model", None
    return load_model(model, custom_domains=custom_domains), str(model), Path(model)


def _upcast(model: ir.Model) -> ir.Model:
    return Upcast()(model.clone()).model


def _runnable(runtime: Runtime, model: ir.Model) -> tuple[ir.Model, bool]:
    """The model, or a float32 copy (and True) where the runtime has no kernels for its bfloat16."""
    if not uses_bfloat16(model):
        return model, False
    try:
        runtime.session(serialize(model))
    except ModelError:
        return _upcast(model), True
    return model, False


def _destination(output: str | os.PathLike[str] | None, path: Path | None) -> Path | None:
    """Where the result goes; checked before anything costly starts."""
    if output is None:
        return None if path is None else path.with_name(f"{path.stem}.pruned.onnx")
    destination = Path(output)
    if not destination.resolve().parent.is_dir():
        raise OptionError(f"the folder of {destination} does not exist: create it or choose another output")
    if destination.is_dir():
        raise OptionError(f"{destination} is a folder: give the name of the file to write")
    if path is not None and destination.resolve() == path.resolve():
        raise OptionError(f"{destination} is the model itself: choose another output")
    return destination


def _calibration(calib: Any, path: Path | None) -> Any:
    if calib is not None:
        return calib
    neighbour = None if path is None else path.with_name(f"{path.stem}.calib.npz")
    if neighbour is not None and neighbour.exists():
        return neighbour
    beside = "" if neighbour is None else f" or put {neighbour.name} beside the model"
    raise OptionError(f"no calibration data: give --calib SRC{beside} (random:256 only to try things out)")


def _plan_note(run: Trials) -> str:
    """What measuring will cost, from one timed batch."""
    feed = next(iter(run.held_out))
    start = time.perf_counter()
    run.dense.run(feed)
    rows = max((array.shape[0] for array in feed.values() if array.ndim), default=1)
    per_sample = (time.perf_counter() - start) / max(rows, 1)
    levels = run.effort.levels_for(len(run.layers), run.macs)
    samples = run.effort.samples
    if run.fit.count is not None:
        samples = min(samples, int(run.fit.count * DAMAGE_SHARE))
    runs = len(run.layers) * levels * samples / 2 + 4 * (run.fit.count or samples)
    return (
        f"measuring {len(run.layers)} layers at {levels} sparsities or more on {samples} samples: "
        f"about {runs * per_sample:.0f} s of inference"
    )
