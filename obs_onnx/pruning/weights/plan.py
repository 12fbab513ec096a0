"""Mode ``weights``: single weights (or N:M and block patterns of them) become zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from obs_onnx.allocation.targets import ERROR, SPARSITY, Targets
from obs_onnx.criteria.weight_derivatives import KINDS, WeightScores
from obs_onnx.criteria.weight_scores import ALLOCATIONS, WeightAllocation, criteria
from obs_onnx.passes.canonical.canonicalize import canonicalize
from obs_onnx.passes.errors import OptionError, named
from obs_onnx.passes.layers.find_layers import check_any, find_layers
from obs_onnx.passes.layers.layer import Frozen, Layer
from obs_onnx.pruning.calibrated import Calibrated
from obs_onnx.pruning.forecast.counted import Counted
from obs_onnx.pruning.forecast.forecast import Expected, Forecast, forecast
from obs_onnx.pruning.forecast.weights import weight_stages
from obs_onnx.pruning.inputs import Inputs
from obs_onnx.pruning.options import DAMAGE, ModeOptions
from obs_onnx.pruning.recorder import Recorder
from obs_onnx.pruning.strategy import Finished, allocation_notes, besides, check_allocation, with_default
from obs_onnx.pruning.weights.advice import advice
from obs_onnx.pruning.weights.attempt import WeightAttempt
from obs_onnx.pruning.weights.layer_choice import Choice, choose_layers, layer_sparsities
from obs_onnx.pruning.weights.result import finish_weights
from obs_onnx.pruning.weights.search import search_weights
from obs_onnx.pruning.weights.task import WeightTask, weight_scores
from obs_onnx.reconstruction.layers import SolveOptions
from obs_onnx.runtimes.bfloat16 import runnable
from obs_onnx.solvers import METHODS, UNSTRUCTURED, Pattern, parse_pattern
from obs_onnx.solvers.solve import Method
from obs_onnx.training.retraining import Retraining

__all__ = ["WeightPlan", "WeightStrategy"]

_TRIALS = 4  # of a search for the most zeros, usually
_SPARSITY = 0.7  # that it ends at, about


@dataclass(frozen=True)
class WeightPlan:
    """Which layers of a model can lose weights; see :class:`obs_onnx.pruning.strategy.Plan`.

    Attributes:
        stored: the canonical model in bfloat16, if ``model`` is a float32 copy of it.
        model: canonical, in types that the runtime takes.
        layers: that lose weights or are refitted.
        choice: what happens to which layer.
        frozen: what is left alone.
        pattern: of the zeros.
        fixed: sparsities that the user set, by layer name.
        options: how weights are chosen.
    """

    stored: ir.Model | None
    model: ir.Model
    layers: tuple[Layer, ...]
    choice: Choice
    frozen: tuple[Frozen, ...]
    pattern: Pattern
    fixed: Mapping[str, float]
    options: ModeOptions

    mode = "weights"
    leaves_zeros = True

    @property
    def criterion(self) -> str:
        """Name of the one that chooses, as it was asked for: auto takes the best for each layer."""
        return self.options.criterion

    def forecast(self, calibrated: Calibrated, targets: Targets, rounds: int, recorder: Recorder) -> Forecast:
        """What a search will take."""
        task, wanted = self.task(calibrated, recorder), targets.share(SPARSITY)
        tries = min(_TRIALS, calibrated.budget.effort.trials) if self.pattern.kind != "nm" else 1
        measured = f"measuring {len(self.layers)} layers" if task.measures else ""

        def stages(counted: Counted) -> Mapping[str, Expected]:
            found = weight_stages(counted, task, wanted or _SPARSITY, tries, wanted is not None)
            return {name: replace(one, times=rounds * one.times) for name, one in found.items()}

        return forecast(calibrated, 1.0, stages, measured, besides(calibrated, self.options, targets))

    def task(self, calibrated: Calibrated, recorder: Recorder) -> WeightTask:
        """What rounds of pruning weights start from."""
        options, by_gradients = self.options, self.options.criterion in KINDS
        scores = weight_scores(self.model, calibrated, options.criterion) if by_gradients else None
        correct = not options.sequential if options.correct is None else options.correct
        return WeightTask(
            self.model,
            self.choice,
            SolveOptions(
                options.criterion,
                self.pattern,
                options.damping,
                options.compensate,
                sequential=options.sequential and options.compensate,
                seed=options.seed,
                scores=scores,
            ),
            self.fixed,
            options.compensate and correct,
            options.refine,
            self._allocation(calibrated, scores) if options.allocation != DAMAGE else None,
            calibrated,
            recorder,
        )

    def _allocation(self, calibrated: Calibrated, scores: WeightScores | None) -> WeightAllocation:
        options, dense = self.options, calibrated.dense
        return WeightAllocation(
            options.allocation,
            dense.runtime,
            dense.stages,
            calibrated.data.fit,
            calibrated.budget.activations,
            options.damping,
            self.pattern,
            options.normalize,
            options.seed,
            None if scores is None or options.criterion != options.allocation else (self.model, scores),
        )

    def search(
        self,
        calibrated: Calibrated,
        targets: Targets,
        rounds: int,
        retraining: Retraining | None,
        recorder: Recorder,
    ) -> Finished[WeightAttempt]:
        """The best model within the targets, checked."""
        task = self.task(calibrated, recorder)
        best, runs = search_weights(task, targets, rounds, retraining)
        with recorder.stage("verify"):
            notes = allocation_notes(self.options)
            return finish_weights(task, best, targets, stored=self.stored, notes=notes, runs=runs)

    def advice(self, before: int | None, after: int | None) -> Sequence[str]:
        """Notes for the reader, from the compressed sizes."""
        return advice(
            self.mode,
            None if self.pattern == UNSTRUCTURED else str(self.pattern),
            compressed_before=before,
            compressed_after=after,
        )


class WeightStrategy:
    """Prunes single weights; see :class:`obs_onnx.pruning.strategy.Strategy`."""

    def checked(self, targets: Targets, options: ModeOptions) -> Targets:
        """The targets; an output error where neither they nor a pattern bound the search."""
        pattern = parse_pattern(options.pattern)
        targets.check_mode(WeightPlan.mode)
        if targets.lossless:
            channels = named("mode", "channels")
            raise OptionError(
                f"target {ERROR.name} of 1e-5 or less is about channels that change nothing: use {channels}"
            )
        if options.criterion not in criteria():
            raise OptionError(
                f"criterion {options.criterion!r} does not rank weights: use one of {', '.join(criteria())}"
            )
        method = METHODS.get(options.criterion)
        if isinstance(method, Method) and method.single and pattern.kind != "unstructured":
            raise OptionError(
                f"criterion {options.criterion} removes single weights, not {pattern}: use obs, admm or auto"
            )
        check_allocation(options, ALLOCATIONS)
        if pattern.kind != "nm":
            return with_default(targets)
        _check_fixed(pattern, targets, options)
        return targets

    def open(self, inputs: Inputs, options: ModeOptions) -> WeightPlan:
        """Find the layers."""
        pattern = parse_pattern(options.pattern)
        stored = canonicalize(inputs.model)
        model, copied = runnable(inputs.runtime, stored)
        layers, frozen = find_layers(model)
        choice = choose_layers(layers, options.protect, pattern)
        if not choice.pruned:
            check_any(model, inputs.name)
            raise OptionError(
                f"{inputs.name} has no layer to prune: run inspect to see why each was left alone"
            )
        return WeightPlan(
            stored if copied else None,
            model,
            tuple(layer for layer in layers if layer not in choice.kept),
            choice,
            (*frozen, *choice.reasons),
            pattern,
            layer_sparsities(choice.pruned, options.layer_sparsity or {}),
            options.part(ModeOptions),
        )


def _check_fixed(pattern: Pattern, targets: Targets, options: ModeOptions) -> None:
    """Refuse what contradicts a pattern that fixes the sparsity of every layer."""
    every = f"pattern {pattern} fixes the sparsity of every layer"
    if options.layer_sparsity:
        raise OptionError(f"{every}: leave out {named('layer_sparsity')}")
    if targets.share(SPARSITY) is not None:
        raise OptionError(f"pattern {pattern} fixes the sparsity by itself: leave out the target sparsity")
    if options.allocation != DAMAGE:
        raise OptionError(f"{every}: leave out {named('allocation')}")
