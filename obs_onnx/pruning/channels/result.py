"""The promises of a smaller model, checked, and what the report says of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx_ir as ir

from obs_onnx.allocation.targets import ERROR, LATENCY, Targets
from obs_onnx.passes.channels.coupling import Coupling, couple
from obs_onnx.passes.channels.keep_file import keep_file
from obs_onnx.passes.channels.places import standing
from obs_onnx.passes.channels.remove_channels import RemoveChannels
from obs_onnx.passes.graph.set_weights import SetWeights
from obs_onnx.passes.layers.find_layers import find_layers
from obs_onnx.passes.layers.layer import Layer
from obs_onnx.passes.printable import first_of
from obs_onnx.pruning.channels.attempt import ChannelAttempt
from obs_onnx.pruning.channels.task import ChannelTask
from obs_onnx.pruning.judgement import missed_losses, refinement_notes
from obs_onnx.pruning.shown_layers import points_of, widths_of
from obs_onnx.pruning.strategy import Finished, refitted_alone
from obs_onnx.results.pruning import Agreement, GroupResult, LayerResult, Missed, plain
from obs_onnx.training.loop import Trained
from obs_onnx.verification.removal import check_removal

__all__ = ["finish_channels"]

_NO_FASTER = "no removal of channels makes the model faster: it stays as it is"
_NAMED = 8  # outputs in a note


def finish_channels(
    task: ChannelTask,
    best: ChannelAttempt,
    targets: Targets,
    *,
    original: ir.Model,
    stored: ir.Model | None,
    notes: Iterable[str] = (),
    runs: tuple[Trained, ...] = (),
) -> Finished[ChannelAttempt]:
    """Compare with the dense model in which the removed channels are silenced.

    Args:
        task: the dense model and its data.
        best: the attempt that was chosen.
        targets: whose limits count.
        original: the model as it came in.
        stored: the prepared model in bfloat16, if a float32 copy of it was pruned.
        notes: on what was asked for.
        runs: of retraining.

    Raises:
        VerificationError: the outputs differ.
    """
    dense, coupling = task.calibrated.dense, task.channels.coupling
    compensated = SetWeights(best.tensors)(dense.model.clone()).model
    feed = task.calibrated.data.first
    agreement = check_removal(
        dense.runtime,
        coupling.of(compensated),
        best.keep,
        best.model,
        feed,
        dense.model,
        task.calibrated.front.caches,
    )
    silenced = sum(int((~mask).sum()) for mask in best.keep.values())
    limits = task.costs.limits(targets)
    return Finished(
        attempt=best,
        model=best.model if stored is None else _in_bfloat16(task, best, stored),
        missed=(*_missed_costs(task, best, targets, limits), *missed_losses(targets, best)),
        copied=stored is not None,
        latency_limit=limits.get(LATENCY.name),
        layers=_lines(dense.layers, best, coupling),
        groups=tuple(
            GroupResult(
                name=group.name,
                channels=group.n,
                kept=best.kept(group),
                tensors=len(group.sites),
                expected_damage=best.expected.get(group.id),
                curve=points_of(best.curves.get(group.id), group.n),
                stays=best.stays(group),
            )
            for group in coupling.groups
        ),
        damping=task.options.damping,
        keep=keep_file(original, coupling, best.keep, best.lost(coupling.model), _rotated(task, best)),
        runs=runs,
        proof=agreement,
        notes=(
            *notes,
            *((task.rotation.note,) if task.rotation.note else ()),
            *_proof(agreement, silenced, rotated=bool(task.rotation.names)),
            *refinement_notes(best),
            *refitted_alone(sorted(best.alone)),
            *_notes(task, best, limits, copied=stored is not None),
        ),
        alerts=(*_unproven(agreement), *_unchanged(best, targets)),
    )


def _in_bfloat16(task: ChannelTask, best: ChannelAttempt, stored: ir.Model) -> ir.Model:
    """The model as it is stored, with the weights and without the channels of its copy."""
    final = SetWeights(best.tensors)(stored.clone()).model
    coupling = couple(final, caches=task.channels.coupling.caches)
    RemoveChannels(task.channels.coupling.same_in(coupling, best.keep), coupling).call(final)
    return final


def _rotated(task: ChannelTask, best: ChannelAttempt) -> list[str]:
    """Groups that were cut along other axes than those of the model as it came in."""
    groups = task.channels.coupling.groups
    cut = {group.name for group in groups if not best.keep.get(group.id, np.ones(1, bool)).all()}
    return [name for name in task.rotation.names if name in cut]


def _proof(found: Agreement, silenced: int, *, rotated: bool) -> list[str]:
    """What was compared, and how near it is."""
    if found.largest is None:
        return []
    form = "rotated" if rotated else "dense"
    dense = f"of the {form} model with the same weights and {silenced} channels silenced"
    parts = [
        f"{_outputs(found.differences)} equal those {dense}: relative difference {found.largest:.1e}, "
        f"allowed {found.tolerance:.0e}"
    ]
    if found.fed:
        parts.append(f"{', '.join(found.fed)} with its decisions and random numbers in both models")
    if found.unfused:
        parts.append("operator by operator, since fused ones round in blocks that removal moves")
    return ["; ".join(parts)]


def _unproven(found: Agreement) -> list[str]:
    """What could not be compared, and why."""
    if not found.left_out:
        return []
    reasons = "; ".join(f"output {name} {reason}" for name, reason in found.left_out.items())
    if found.largest is None:
        return [f"nothing could be compared with the dense model, so nothing is proven: {reasons}"]
    return [f"not compared with the dense model: {reasons}"]


def _unchanged(best: ChannelAttempt, targets: Targets) -> list[str]:
    """That the model lost nothing, and what would let something go."""
    if best.left_out or any(not mask.all() for mask in best.keep.values()):
        return []
    if targets.lossless:
        return ["nothing was removed: every channel changes the outputs; allow an error, or name a cost"]
    losses = " and ".join(
        f"{one.name}={plain(amount.value)}" for one, amount in targets if one.loss is not None
    )
    if not losses:
        return ["nothing was removed: the dense model is within what was asked for"]
    return [
        f"nothing was removed: nothing that was tried holds {losses}; allow more, or name a cost "
        "(--target macs=0.8) and see what it loses"
    ]


def _outputs(names: Iterable[str]) -> str:
    """Outputs by their names, as far as a line holds them."""
    return f"outputs {first_of(list(names), _NAMED)}"


def _notes(
    task: ChannelTask, best: ChannelAttempt, limits: Mapping[str, float], *, copied: bool
) -> list[str]:
    """What a reader has to know about where the model runs."""
    runtime, stopwatch = task.calibrated.dense.runtime, task.calibrated.stopwatch
    notes = []
    if copied:
        notes.append(
            f"{runtime.spec} has no kernels for bfloat16: all was computed and measured on a float32 copy"
        )
    if stopwatch is not None:
        notes += [*stopwatch.notes]
    elif task.options.round_to is None and runtime.quantum > 1:
        notes.append(
            f"channel counts are multiples of a power of two up to {runtime.quantum}, "
            f"which {runtime.spec} runs faster; another multiple can be asked for"
        )
    return notes


def _missed_costs(
    task: ChannelTask, best: ChannelAttempt, targets: Targets, limits: Mapping[str, float]
) -> list[Missed]:
    """Limits on costs that do not hold."""
    over, missed = best.over(limits), []
    for target, amount in targets:
        if target.name not in over:
            continue
        reached = task.costs.amount(target, amount.unit, best.costs[target.name])
        least, possible = best.least.get(target.name), None
        advice = f"{ERROR.name}=0 lets no more go: allow an error" if targets.lossless else ""
        if least is not None:
            possible = task.costs.amount(target, amount.unit, min(least.rounded, best.costs[target.name]))
            advice = "one channel of each group and what is left alone take more than that"
            if least.any <= limits[target.name]:
                fewer = task.costs.amount(target, amount.unit, least.any)
                advice = f"without multiples of channel counts (round-to 1) it could be {plain(fewer)}"
        elif target.timed:
            gone = any(not mask.all() for mask in best.keep.values()) or best.left_out
            advice = "no faster model was found" if gone else _NO_FASTER
        missed.append(Missed(target.name, amount.plain, reached, possible, advice))
    return missed


def _lines(layers: Iterable[Layer], best: ChannelAttempt, coupling: Coupling) -> tuple[LayerResult, ...]:
    """A line for each layer."""
    dense = coupling.model
    held, small = best.model.graph.initializers, {one.name: one for one in find_layers(best.model)[0]}
    found = []
    for layer in layers:
        value, after = held.get(layer.name), small.get(layer.name)
        left = _size(best.model, layer.name)
        found.append(
            LayerResult(
                name=layer.name,
                op_type=layer.op_type,
                shape=layer.layout.shape,
                weights=layer.size,
                kept=left / _size(dense, layer.name),
                widths=widths_of(layer),
                kept_widths=(0, 0) if value is None else None if after is None else widths_of(after),
                reads=_group_at(coupling, layer.uses[0].x),
                writes=_group_at(coupling, layer.uses[0].y),
            )
        )
    return tuple(found)


def _group_at(coupling: Coupling, value: str) -> str | None:
    """The first group whose channels stand in a value."""
    return next((group.name for group in coupling.groups if standing(coupling, group, value)), None)


def _size(model: ir.Model, name: str) -> int:
    held = model.graph.initializers.get(name)
    return 0 if held is None or held.const_value is None else held.const_value.size
