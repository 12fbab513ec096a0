"""Mode ``weights``: single weights (or N:M and block patterns of them) become zero."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import onnx_ir as ir

from obs_onnx.allocation.targets import COSTS, Targets
from obs_onnx.criteria.reference_loss import LabelledBatches
from obs_onnx.criteria.weight_derivatives import KINDS, WeightDerivatives, WeightScores
from obs_onnx.criteria.weight_scores import ALLOCATIONS, WeightAllocation
from obs_onnx.passes.canonical.canonicalize import canonicalize
from obs_onnx.passes.errors import OptionError
from obs_onnx.passes.graph.set_weights import SetWeights
from obs_onnx.passes.layers.find_layers import find_layers
from obs_onnx.passes.layers.layer import Layer
from obs_onnx.passes.layers.stages import Plan, plan_stages
from obs_onnx.pruning.context import PruningContext
from obs_onnx.pruning.mode import DAMAGE, Finished, Opened, Options, allocation_notes, check_allocation
from obs_onnx.pruning.weights.advice import advice
from obs_onnx.pruning.weights.layer_choice import choose_layers, layer_sparsities
from obs_onnx.pruning.weights.search import Attempt, Trials
from obs_onnx.reconstruction.layers import SolveOptions
from obs_onnx.results.pruning import LayerResult
from obs_onnx.runtimes.bfloat16 import runnable
from obs_onnx.solvers import METHODS, UNSTRUCTURED, parse_pattern
from obs_onnx.verification.error_bound import network_bound
from obs_onnx.verification.layer_errors import measure
from obs_onnx.verification.zeros import check_zeros

__all__ = ["WeightsMode", "layer_line"]


class WeightsMode:
    """Prunes single weights; see :class:`obs_onnx.pruning.mode.Mode`."""

    name = "weights"
    leaves_zeros = True

    def __init__(self, wanted: Targets, options: Options) -> None:
        self.pattern = parse_pattern(options.pattern)
        for cost in COSTS:
            if cost in wanted.as_dict():
                raise OptionError(
                    f"target {cost} needs channel removal, zeros do not lower it: use --mode channels"
                )
        if options.criterion not in (*METHODS, *KINDS):
            raise OptionError(
                f"criterion {options.criterion!r} does not rank weights: "
                f"use one of {', '.join((*METHODS, *KINDS))}"
            )
        if options.criterion == "lobs" and self.pattern.kind != "unstructured":
            raise OptionError(
                f"criterion lobs removes single weights, not {self.pattern}: use obs, admm or auto"
            )
        if self.pattern.kind == "nm":
            if options.layer_sparsity:
                raise OptionError(
                    f"pattern {self.pattern} fixes the sparsity of every layer: leave out --layer"
                )
            if wanted.sparsity is not None:
                raise OptionError(
                    f"pattern {self.pattern} fixes the sparsity by itself: leave out the target sparsity"
                )
        if options.round_to is not None:
            raise OptionError("--round-to is about channels: use --mode channels")
        check_allocation(options, ALLOCATIONS)
        if options.regularize:
            raise OptionError("--regularize is about channels: zeros do not lower a cost")
        if options.allocation != DAMAGE and self.pattern.kind == "nm":
            raise OptionError(
                f"pattern {self.pattern} fixes the sparsity of every layer: leave out --allocation"
            )
        self.bound_by_default = self.pattern.kind != "nm"
        self._options = options

    def open(self, opened: Opened) -> None:
        """Find the layers."""
        self._opened = opened
        self._stored = canonicalize(opened.model)
        self.model, self._copied = runnable(opened.runtime, self._stored)
        layers, frozen = find_layers(self.model)
        self._choice = choose_layers(layers, self._options.protect, self.pattern)
        if not self._choice.pruned:
            raise OptionError(
                f"{opened.name} has no layer to prune: run inspect to see why each was left alone"
            )
        self._fixed = layer_sparsities(self._choice.pruned, self._options.layer_sparsity)
        self._layers = [layer for layer in layers if layer not in self._choice.kept]
        self.frozen = (*frozen, *self._choice.reasons)

    def study(self, shared: Mapping[str, Any], wanted: Targets) -> Trials:
        """Everything that trials share."""
        options = self._options
        sequential = options.sequential and options.compensate
        scored = partial(self._scores, shared) if options.criterion in KINDS else None
        scores = None if scored is None else scored(self.model)
        correct = not options.sequential if options.correct is None else options.correct
        plan = plan_stages(self.model, self._layers)
        return Trials(
            model=self.model,
            layers=self._layers,
            plan=plan,
            choice=self._choice,
            options=SolveOptions(
                options.criterion,
                self.pattern,
                options.damping,
                options.compensate,
                sequential=sequential,
                seed=options.seed,
                scores=scores,
            ),
            fixed=self._fixed,
            correct=options.compensate and correct,
            allocation=self._allocation(shared, plan, scores) if options.allocation != DAMAGE else None,
            scored=scored,
            **shared,
        )

    def _scores(self, shared: Mapping[str, Any], model: ir.Model) -> WeightScores:
        """What gradients say about every weight; computed when the first layer is solved."""
        lessons = LabelledBatches(shared["runtime"], model, shared["fit"], self._options.seed)
        names = [layer.name for layer in self._layers]
        return WeightScores(WeightDerivatives(lessons, names, self._options.seed), self._options.criterion)

    def _allocation(
        self, shared: Mapping[str, Any], plan: Plan, scores: WeightScores | None
    ) -> WeightAllocation:
        options = self._options
        return WeightAllocation(
            options.allocation,
            shared["runtime"],
            plan,
            shared["fit"],
            shared["budget"],
            options.damping,
            self.pattern,
            options.normalize,
            options.seed,
            None if scores is None or options.criterion != options.allocation else (self.model, scores),
        )

    def cost_note(self, study: PruningContext) -> str | None:
        """What measuring will cost."""
        if self.pattern.kind == "nm" or self._options.allocation != DAMAGE:
            return None
        return study.cost_note("layers", len(self._layers))

    def finish(self, study: PruningContext, best: Attempt, wanted: Targets) -> Finished:
        """Check the zeros, measure layer by layer, bound the error."""
        where, pruned = study.runtime, self._choice.pruned
        final, notes = best.model, allocation_notes(self._options)
        if self._copied:
            changed = {name: array for one in best.solved.values() for name, array in one.tensors.items()}
            changed.update({} if best.training is None else best.training.weights)
            final = SetWeights(changed)(self._stored.clone()).model
            notes.append(
                f"{where.spec} has no kernels for bfloat16: all was computed and measured on a float32 copy"
            )
        masks = {name: solved.solution.mask for name, solved in best.solved.items()}
        counts = check_zeros(best.model, pruned, masks, self.pattern)
        measured = measure(where, self.model, best.model, self._layers, study.held_out)
        bound = None
        if not best.renormalised:
            bound = network_bound(
                best.model,
                self._layers,
                measured.isolated_errors,
                {},
                measured.output_norms,
                measured.output_changes,
            )
        prunable = sum(layer.size for layer in pruned)
        reached = 1 - sum(layer.size - counts[layer.name] for layer in pruned) / prunable
        return Finished(
            model=final,
            met=best.strain(wanted) <= 1 and reached >= (wanted.sparsity or 0.0) - 1e-12,
            copied=self._copied,
            layers=tuple(layer_line(layer, best, counts, measured.layer_errors) for layer in self._layers),
            bound=bound,
            damping=max((solved.solution.damping for solved in best.solved.values()), default=None),
            training=best.training,
            notes=tuple(notes),
        )

    def advice(self, before: int | None, after: int | None) -> Sequence[str]:
        """Notes for the reader, from the compressed sizes."""
        return advice(
            self.name,
            None if self.pattern == UNSTRUCTURED else str(self.pattern),
            compressed_before=before,
            compressed_after=after,
        )

    def runnable(self, model: ir.Model) -> ir.Model:
        """A written model, in the form that the runtime takes."""
        return runnable(self._opened.runtime, model)[0]


def layer_line(
    layer: Layer, best: Attempt, zeros: Mapping[str, int], errors: Mapping[str, float]
) -> LayerResult:
    """A layer's line in the report.

    Args:
        layer: which one.
        best: the attempt that was kept.
        zeros: weights that are zero, by layer name.
        errors: relative output errors inside the pruned network, by layer name.
    """
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
