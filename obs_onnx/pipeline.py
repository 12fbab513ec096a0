"""prune(): the whole program as one readable sequence.

open -> find layers -> calibration data -> measure damage -> allocate -> solve -> correct -> verify -> write -> report
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import psutil

from obs_onnx.allocate import Curve, allocate, sparsity_levels
from obs_onnx.bench import bench
from obs_onnx.bound import Bound, network_bound
from obs_onnx.correct import correct_statistics, reestimate_batch_normalization
from obs_onnx.damage import choose_measure
from obs_onnx.data import open_source, split
from obs_onnx.evaluate import Evaluation, evaluate_sessions
from obs_onnx.layerwise import SolveOptions, Solved, damage_curves, solve_layers
from obs_onnx.model_file import from_proto, load_model, save_model, serialize
from obs_onnx.passes.canonical import canonicalize
from obs_onnx.passes.errors import DataError, OptionError, VerificationError
from obs_onnx.passes.layers import Layer, find_layers
from obs_onnx.passes.macs import count_macs
from obs_onnx.passes.segments import Plan, plan_stages
from obs_onnx.prunable import Choice, choose_layers, layer_sparsities
from obs_onnx.report.advice import advice
from obs_onnx.report.files import compressed_bytes
from obs_onnx.report.progress import Progress, quiet
from obs_onnx.report.result import Figures, LayerResult, Report
from obs_onnx.report.result import Latency as LatencyLine
from obs_onnx.runtimes import Runtime, Session, open_runtime
from obs_onnx.search import largest
from obs_onnx.solvers import UNSTRUCTURED, parse_pattern
from obs_onnx.sources import Source
from obs_onnx.targets import Targets, parse_targets
from obs_onnx.verify import check_model, check_zeros, measure

__all__ = ["EFFORTS", "Effort", "Pruned", "prune"]

BATCH = 128
HELD_OUT = 0.2
DEFAULT_TARGETS = {"error": 0.05}


@dataclass(frozen=True)
class Effort:
    """How much measuring is done.

    Attributes:
        levels: sparsities at which each layer's damage is measured at first.
        refinements: further levels per layer, where its curve bends.
        fit: samples for the moments of the damage curves.
        held_out: samples on which the damage is measured.
        trials: models that are pruned and measured in the search for the largest sparsity.
    """

    levels: int
    refinements: int
    fit: int
    held_out: int
    trials: int


EFFORTS = {
    "quick": Effort(levels=4, refinements=0, fit=512, held_out=128, trials=4),
    "normal": Effort(levels=5, refinements=1, fit=1024, held_out=256, trials=6),
    "thorough": Effort(levels=9, refinements=3, fit=1 << 30, held_out=1024, trials=8),
}


@dataclass(frozen=True)
class Pruned:
    """What :func:`prune` returns: the model, and everything measured about it."""

    model: ir.Model
    report: Report


@dataclass(frozen=True)
class _Attempt:
    """A pruned model and how it does on held-out data."""

    model: ir.Model
    solved: Mapping[str, Solved]
    removed: Mapping[str, int]
    quality: Evaluation
    drop: float | None

    def strain(self, targets: Targets) -> float:
        """Largest ratio of a measured figure to its limit; at most 1 if all limits hold."""
        pairs = ((self.quality.output_error, targets.error), (self.drop, targets.drop))
        return max((value / limit for value, limit in pairs if limit and value is not None), default=0.0)


@dataclass
class _Run:
    """What all stages of one run share."""

    model: ir.Model
    layers: Sequence[Layer]
    choice: Choice
    plan: Plan
    runtime: Runtime
    fit: Source
    held_out: Source
    options: SolveOptions
    effort: Effort
    measure: str
    budget: int
    progress: Progress
    dense: Session
    evaluation: Source | None
    dense_accuracy: float | None
    fixed: Mapping[str, float]
    correct: bool
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Any]:
        """Time a stage and show how far it is."""
        start = time.perf_counter()
        with self.progress.stage(name, total) as advance:
            yield advance
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def curves(self, center: float, context: ir.Model | None) -> dict[str, Curve]:
        """Damage curves around a wanted sparsity."""
        with self.stage("measure damage", len(self.layers)) as advance:
            return damage_curves(
                self.runtime,
                self.model,
                self.plan,
                self.fit.limit(self.effort.fit),
                list(self.held_out.limit(self.effort.held_out)),
                levels=sparsity_levels(center, self.effort.levels),
                refinements=self.effort.refinements,
                measure=self.measure,
                options=self.options,
                budget=self.budget,
                advance=advance,
                context=context,
            )

    def attempt(self, removed: Mapping[str, int]) -> _Attempt:
        """Prune all layers, correct what measures better corrected, and measure."""
        with self.stage("solve layers", len(self.layers)) as advance:
            model, solved = solve_layers(
                self.runtime,
                self.model,
                self.plan,
                self.fit,
                removed,
                options=self.options,
                budget=self.budget,
                advance=advance,
            )
        best = self._judged(model, solved, removed)
        if self.correct:
            with self.stage("correct statistics", len(self.layers)) as advance:
                corrected = correct_statistics(
                    self.runtime, self.model, model, self.plan, self.fit, budget=self.budget, advance=advance
                )
                corrected = reestimate_batch_normalization(self.runtime, corrected, self.fit)
            other = self._judged(corrected, solved, removed)
            if (other.quality.output_error or 0.0) < (best.quality.output_error or 0.0):
                best = other
        return best

    def _judged(self, model: ir.Model, solved: Mapping[str, Solved], removed: Mapping[str, int]) -> _Attempt:
        session = self.runtime.session(serialize(model))
        with self.stage("evaluate"):
            quality = evaluate_sessions(session, self.held_out, self.dense)
            drop = None
            if self.evaluation is not None and self.dense_accuracy is not None:
                accuracy = evaluate_sessions(session, self.evaluation).accuracy
                drop = None if accuracy is None else self.dense_accuracy - accuracy
        return _Attempt(model, solved, removed, quality, drop)

    @property
    def prunable(self) -> int:
        """Number of weights that may be removed."""
        return sum(layer.size for layer in self.choice.pruned)


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
    correct: bool = True,
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
        calib: calibration data, see :func:`obs_onnx.data.open_source`; by default ``<stem>.calib.npz`` beside the
            model. One sample of five is held out to measure errors.
        labels: name of the labels in ``calib`` and ``evaluation``; by default ``labels`` if there are any.
        mode: ``weights``.
        targets: such as ``{"sparsity": 0.9}``; all must hold. By default the largest sparsity whose relative
            output error stays below 5%; a pattern N:M fixes the sparsity itself.
        pattern: ``2:4``, ``1x4`` ..., along the input channels; by default single weights.
        criterion: auto, obs, admm, lobs, magnitude or random: what chooses the weights that go.
        compensate: refit the kept weights (and biases).
        sequential: refit to the dense model's outputs on what the pruned layers before really give.
        correct: match per-channel output statistics wherever that lowers the held-out error.
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
    wanted = parse_targets(targets or {})
    zeros = parse_pattern(pattern)
    if mode != "weights":
        raise OptionError(f"mode {mode!r} is unknown: use weights")
    if effort not in EFFORTS:
        raise OptionError(f"effort {effort!r} is unknown: use one of {', '.join(EFFORTS)}")
    if rounds < 1:
        raise OptionError(f"{rounds} rounds: use at least 1")
    if zeros.kind == "nm" and wanted.sparsity is not None:
        raise OptionError(f"pattern {zeros} fixes the sparsity by itself: leave out the target sparsity")
    if zeros.kind != "nm" and not wanted.as_dict():
        wanted = parse_targets(DEFAULT_TARGETS)

    original, name, path = _open_model(model, custom_domains)
    destination = _destination(output, path)
    where = open_runtime(runtime, threads, custom_ops)
    canonical = canonicalize(original)
    layers, frozen = find_layers(canonical)
    choice = choose_layers(layers, protect, zeros)
    if not choice.pruned:
        raise OptionError(f"{name} has no layer to prune: run inspect to see why each was left alone")
    fixed = layer_sparsities(choice.pruned, layer_sparsity or {})
    moving = [layer for layer in layers if layer not in choice.kept]

    dense = where.session(serialize(canonical))
    source = open_source(_calibration(calib, path), dense.inputs, batch_size=BATCH, labels_key=labels, seed=seed)
    fit, held_out = split(source, HELD_OUT, seed)
    judged = None
    if evaluation is not None:
        judged = open_source(evaluation, dense.inputs, batch_size=BATCH, labels_key=labels, seed=seed)
    elif held_out.has_labels:
        judged = held_out
    accuracy = None if judged is None else evaluate_sessions(dense, judged).accuracy
    if wanted.drop is not None and accuracy is None:
        raise DataError("target drop needs labelled data: give --eval with labels")
    first = next(iter(held_out))
    run = _Run(
        model=canonical,
        layers=moving,
        choice=choice,
        plan=plan_stages(canonical, moving),
        runtime=where,
        fit=fit,
        held_out=held_out,
        options=SolveOptions(criterion, zeros, damping, compensate, sequential=sequential and compensate, seed=seed),
        effort=EFFORTS[effort],
        measure=choose_measure(loss, dense.run(first)),
        budget=memory or psutil.virtual_memory().available // 2,
        progress=progress,
        dense=dense,
        evaluation=judged,
        dense_accuracy=accuracy,
        fixed=fixed,
        correct=correct and compensate,
    )
    run.seconds["open"] = time.perf_counter() - start
    notes = [*source.notes]
    if zeros.kind != "nm":
        progress.say(_plan_note(run))
    if dry_run:
        figures = _figures(original, path, accuracy)
        return Pruned(
            canonical,
            Report(
                name, None, mode, criterion, wanted.as_dict(), met=False, before=figures, after=figures,
                frozen=(*frozen, *choice.reasons), seconds=run.seconds, pattern=pattern, seed=seed,
                notes=("dry run: nothing was pruned or written", _plan_note(run), *notes),
            ),
        )  # fmt: skip

    best = _find(run, wanted, rounds)
    with run.stage("verify"):
        counts = check_zeros(best.model, choice.pruned, best.removed, zeros)
        measured = measure(where, canonical, best.model, moving, held_out)
        bound = _bound(best, moving, measured.isolated_errors, measured.output_norms)
        expected = where.session(serialize(best.model)).run(first)
        check_model(where, best.model, first, expected)
    if destination is not None:
        with run.stage("write"):
            save_model(best.model, destination)
            try:
                check_model(where, load_model(destination, custom_domains=custom_domains), first, expected)
            except VerificationError:
                destination.unlink()
                raise
    before, after = _figures(original, path, accuracy), _figures(best.model, destination, _accuracy(run, best))
    if latency:
        with run.stage("latency"):
            before, after = _timed(run, original, best.model, before, after, batch, notes)
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
        layers=tuple(_line(layer, best, counts, measured.layer_errors) for layer in layers if layer in moving),
        frozen=(*frozen, *choice.reasons),
        seconds={**run.seconds, "total": time.perf_counter() - start},
        method=criterion,
        pattern=pattern,
        damping=max((solved.solution.damping for solved in best.solved.values()), default=None),
        seed=seed,
        environment={key: str(value) for key, value in where.environment().items()},
        notes=tuple(notes),
    )
    return Pruned(best.model, report)


def _find(run: _Run, wanted: Targets, rounds: int) -> _Attempt:
    """The model that satisfies the targets with the most zeros, or comes closest."""
    if run.options.pattern.kind == "nm":
        share = 1 - run.options.pattern.rows / run.options.pattern.columns
        return run.attempt({layer.name: math.floor(share * layer.size) for layer in run.choice.pruned})
    best: _Attempt | None = None
    for number in range(1, rounds + 1):
        context = None if best is None else best.model
        if wanted.sparsity is not None:
            sparsity = 1 - (1 - wanted.sparsity) ** (number / rounds)
            best = run.attempt(allocate(run.curves(sparsity, context), sparsity, run.fixed))
        else:
            best = _search(run, wanted, context, best)
    assert best is not None
    return best


def _search(run: _Run, wanted: Targets, context: ir.Model | None, best: _Attempt | None) -> _Attempt:
    """The attempt with the largest sparsity that satisfies the limits on error and accuracy."""
    center = 0.8 if best is None else sum(best.removed.values()) / run.prunable
    curves = run.curves(center, context)
    tried: list[_Attempt] = []

    def trial(sparsity: float) -> tuple[float, _Attempt]:
        attempt = run.attempt(allocate(curves, sparsity, run.fixed))
        tried.append(attempt)
        return attempt.strain(wanted), attempt

    def predict(sparsity: float) -> float:
        removed = allocate(curves, sparsity, run.fixed)
        shares = {name: np.array([count / curves[name].size]) for name, count in removed.items()}
        damage = sum(float(curves[name].damage(share)[0]) for name, share in shares.items())
        return math.sqrt(damage) / (wanted.error or 0.1)

    found = largest(trial, predict, tolerance=0.01, trials=run.effort.trials)
    return found.result if found else min(tried, key=lambda attempt: attempt.strain(wanted))


def _open_model(
    model: str | os.PathLike[str] | ir.Model | onnx.ModelProto, custom_domains: Sequence[str]
) -> tuple[ir.Model, str, Path | None]:
    """The model, its name for people, and its file if there is one."""
    if isinstance(model, ir.Model):
        return model, model.graph.name or "model", None
    if isinstance(model, onnx.ModelProto):
        return from_proto(model, custom_domains=custom_domains), model.graph.name or "model", None
    return load_model(model, custom_domains=custom_domains), str(model), Path(model)


def _destination(output: str | os.PathLike[str] | None, path: Path | None) -> Path | None:
    """Where the result goes; checked before anything costly starts."""
    if output is None:
        return None if path is None else path.with_name(f"{path.stem}.pruned.onnx")
    destination = Path(output)
    if not destination.resolve().parent.is_dir():
        raise OptionError(f"the folder of {destination} does not exist: create it or choose another output")
    return destination


def _calibration(calib: Any, path: Path | None) -> Any:
    if calib is not None:
        return calib
    neighbour = None if path is None else path.with_name(f"{path.stem}.calib.npz")
    if neighbour is not None and neighbour.exists():
        return neighbour
    beside = "" if neighbour is None else f" or put {neighbour.name} beside the model"
    raise OptionError(f"no calibration data: give --calib SRC{beside} (random:256 only to try things out)")


def _bound(
    best: _Attempt, layers: Sequence[Layer], errors: Mapping[str, float], norms: Mapping[str, float]
) -> Bound:
    weights = {name: solved.solution.w for name, solved in best.solved.items()}
    return network_bound(best.model, layers, errors, weights, norms)


def _accuracy(run: _Run, best: _Attempt) -> float | None:
    if run.dense_accuracy is None or best.drop is None:
        return None
    return run.dense_accuracy - best.drop


def _figures(model: ir.Model, path: Path | None, accuracy: float | None) -> Figures:
    """Sizes of a model and of its files."""
    parameters = nonzero = 0
    for value in model.graph.initializers.values():
        if value.const_value is not None and value.const_value.dtype.is_floating_point():
            array = value.const_value.numpy()
            parameters += array.size
            nonzero += int(np.count_nonzero(array))
    files = [] if path is None else [path, *(p for p in [path.with_name(path.name + ".data")] if p.exists())]
    return Figures(
        parameters=parameters,
        nonzero=nonzero,
        macs=count_macs(canonicalize(model)),
        file_bytes=sum(file.stat().st_size for file in files) if files else None,
        compressed_bytes=compressed_bytes(files) if files else None,
        accuracy=accuracy,
    )


def _timed(
    run: _Run,
    original: ir.Model,
    pruned: ir.Model,
    before: Figures,
    after: Figures,
    batch: int,
    notes: list[str],
) -> tuple[Figures, Figures]:
    """The figures with latencies, both models timed in turn."""
    timed = bench([serialize(original), serialize(pruned)], run.runtime, batch=batch, seconds=1.0)
    notes += [f"latency is noisy: {reason}" for reason in timed.noise]
    lines = [LatencyLine(one.median, one.p10, one.p90, one.runs) for one in timed.latencies]
    spec = run.runtime.spec
    return (
        replace(before, latency_ms=lines[0], runtime=spec),
        replace(after, latency_ms=lines[1], runtime=spec),
    )


def _line(
    layer: Layer, best: _Attempt, zeros: Mapping[str, int], errors: Mapping[str, float]
) -> LayerResult:
    solved = best.solved.get(layer.name)
    return LayerResult(
        name=layer.name,
        op_type=layer.op_type,
        shape=layer.layout.shape,
        weights=layer.size,
        kept=1 - zeros.get(layer.name, 0) / layer.size,
        predicted_error=math.sqrt(solved.solution.error) if solved else None,
        measured_error=errors[layer.name],
        method=solved.solution.method if solved else None,
        damping=solved.solution.damping if solved else None,
    )


def _plan_note(run: _Run) -> str:
    """What measuring will cost, from one timed batch."""
    feed = next(iter(run.held_out))
    start = time.perf_counter()
    run.dense.run(feed)
    rows = max((array.shape[0] for array in feed.values() if array.ndim), default=1)
    per_sample = (time.perf_counter() - start) / max(rows, 1)
    runs = len(run.layers) * (run.effort.levels + run.effort.refinements) / 2
    held = min(run.effort.held_out, run.held_out.count or run.effort.held_out)
    seconds = per_sample * (runs * held + 3 * (run.fit.count or run.effort.fit))
    return (
        f"measuring {len(run.layers)} layers at {run.effort.levels} to "
        f"{run.effort.levels + run.effort.refinements} sparsities on {held} samples: about {seconds:.0f} s of inference"
    )
