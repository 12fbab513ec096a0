"""The promises of a model with zeros, checked, and what the report says of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import onnx_ir as ir

from obs_onnx.allocation.targets import SPARSITY, Targets
from obs_onnx.passes.graph.set_weights import SetWeights
from obs_onnx.passes.layers.layer import Layer
from obs_onnx.pruning.judgement import missed_losses, refinement_notes
from obs_onnx.pruning.shown_layers import points_of, widths_of
from obs_onnx.pruning.strategy import Finished, refitted_alone
from obs_onnx.pruning.weights.attempt import WeightAttempt
from obs_onnx.pruning.weights.task import WeightTask
from obs_onnx.results.pruning import LayerResult, Missed
from obs_onnx.training.loop import Trained
from obs_onnx.verification.error_bound import network_bound
from obs_onnx.verification.layer_errors import measure
from obs_onnx.verification.zeros import check_zeros

__all__ = ["finish_weights", "layer_line"]


def finish_weights(
    task: WeightTask,
    best: WeightAttempt,
    targets: Targets,
    *,
    stored: ir.Model | None,
    notes: Iterable[str] = (),
    runs: tuple[Trained, ...] = (),
) -> Finished[WeightAttempt]:
    """Check the zeros, measure layer by layer, bound the error.

    Args:
        task: the dense model and its data.
        best: the attempt that was chosen.
        targets: whose limits count.
        stored: the canonical model in bfloat16, if a float32 copy of it was pruned.
        notes: on what was asked for.
        runs: of retraining.

    Raises:
        VerificationError: a weight is not zero that should be, the pattern is broken, or an output changed by
            more than its bound.
    """
    dense, pruned = task.calibrated.dense, task.choice.pruned
    masks = {name: solved.solution.mask for name, solved in best.solved.items()}
    counts = check_zeros(best.model, pruned, masks, task.options.pattern)
    measured = measure(dense.runtime, dense.model, best.model, dense.layers, task.calibrated.data.held_out)
    bound = None
    if not best.renormalised:
        errors, norms, changes = measured.isolated_errors, measured.output_norms, measured.output_changes
        scales: dict[str, float] = {}
        for part in best.quality.parts:
            scales[part.output] = min(part.norm, scales.get(part.output, math.inf))
        bound = network_bound(best.model, dense.layers, errors, {}, norms, changes, scales)
    reached = 1 - sum(layer.size - counts[layer.name] for layer in pruned) / task.prunable
    return Finished(
        attempt=best,
        model=best.model if stored is None else _in_bfloat16(best, stored),
        missed=(*_too_dense(targets, reached), *missed_losses(targets, best)),
        copied=stored is not None,
        layers=tuple(layer_line(layer, best, counts, measured.layer_errors) for layer in dense.layers),
        bound=bound,
        damping=max((solved.solution.damping for solved in best.solved.values()), default=None),
        runs=runs,
        notes=(
            *notes,
            *refinement_notes(best),
            *refitted_alone(name for name, solved in best.solved.items() if solved.alone),
            *_copied(dense.runtime.spec, stored),
        ),
    )


def _too_dense(targets: Targets, reached: float) -> tuple[Missed, ...]:
    """The sparsity, where fewer weights are zero than it asks for."""
    wanted = targets.share(SPARSITY)
    return () if wanted is None or reached >= wanted - 1e-12 else (Missed(SPARSITY.name, wanted, reached),)


def _in_bfloat16(best: WeightAttempt, stored: ir.Model) -> ir.Model:
    """The model as it is stored, with the weights of its copy."""
    changed = {name: array for one in best.solved.values() for name, array in one.tensors.items()}
    changed.update({} if best.training is None else best.training.weights)
    changed.update({} if best.refined is None else best.refined.weights)
    return SetWeights(changed)(stored.clone()).model


def _copied(runtime: str, stored: ir.Model | None) -> list[str]:
    """A note where a copy was pruned."""
    if stored is None:
        return []
    return [f"{runtime} has no kernels for bfloat16: all was computed and measured on a float32 copy"]


def layer_line(
    layer: Layer, best: WeightAttempt, zeros: Mapping[str, int], errors: Mapping[str, float | None]
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
        widths=widths_of(layer),
        curve=points_of(best.curves.get(layer.name), layer.size),
    )
