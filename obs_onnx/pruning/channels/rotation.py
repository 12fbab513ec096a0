"""Rotated, then cut: streams of channels stand on their principal axes where that lets more of them go."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.criteria.principal_axes import principal_axes
from obs_onnx.passes.canonical.plainer.factors import pairs
from obs_onnx.passes.channels.coupling import Coupling
from obs_onnx.passes.channels.rotation.record import record
from obs_onnx.passes.channels.rotation.rotatable import rotatable
from obs_onnx.passes.channels.rotation.rotate import array_of, blocks, rotated_arrays
from obs_onnx.passes.channels.rotation.scan import Rotatable, Stays
from obs_onnx.passes.graph.set_weights import SetWeights
from obs_onnx.passes.layers.stages import plan_stages
from obs_onnx.pruning.calibrated import Calibrated, DenseModel
from obs_onnx.pruning.channels.curves import compared_curves, statistics_of
from obs_onnx.pruning.channels.task import ChannelTask, Rotation
from obs_onnx.pruning.options import DAMAGE, ModeOptions
from obs_onnx.runtimes.sessions.block_session import is_weighty
from obs_onnx.runtimes.sessions.partial_run import open_whole
from obs_onnx.verification.distance import relative

__all__ = ["can_rotate", "rotated", "rotates"]

_LEVELS = (0.1, 0.3)  # shares of the channels removed, at which both forms are compared
_BETTER = 0.9  # times the damage, or the axes stay
_FIT, _TEST = 512, 64  # samples
_NOTHING = 1e-12  # damage that rounding makes

Axes = Mapping[tuple[int, ...], NDArray[np.float64]]
Matrices = Mapping[int, Axes]


def rotated(task: ChannelTask, *, copied: bool) -> ChannelTask:
    """The same task for a model that gives the same, some of whose groups stand on other axes.

    Args:
        task: the dense model, its data, and how channels are chosen.
        copied: all is measured on a float32 copy of a model that is written in bfloat16.
    """
    dense = task.calibrated.dense
    if not rotates(task.options) or not can_rotate(dense.model, copied=copied):
        return task
    found = _rotatable(task.channels.coupling)
    if not found:
        return task
    with task.recorder.stage("rotate"):
        matrices = _matrices(task, found)
        turned = _turned(task, found, matrices)
    error = _difference(turned.calibrated, dense)
    if not error <= task.calibrated.rounding:
        note = f"on other axes the model differs by {error:.1e} on held-out data: channels stay as they are"
        return replace(task, rotation=Rotation(note=note))
    factors = {str(second.inputs[1].name) for _, second in pairs(dense.model) if second.inputs[1] is not None}
    inner = {one.group.id for one in found if factors.intersection(one.readers)}
    better = _better(task, turned, {one.group.id for one in found} - inner) | inner
    kept = [one for one in found if one.group.id in better]
    if not kept:
        return task
    if len(kept) < len(found):
        turned = _turned(task, kept, matrices)
        error = _difference(turned.calibrated, dense)
    return replace(turned, rotation=replace(turned.rotation, note=_note(kept, error)))


def rotates(options: ModeOptions) -> bool:
    """Whether what is asked for goes by damage that can be compared, and mends it."""
    return options.rotate and options.compensate and options.allocation == DAMAGE


def can_rotate(model: ir.Model, *, copied: bool) -> bool:
    """Whether all weights of a model can be written anew: they are in memory, and of a type that computes."""
    return not copied and not is_weighty(model)


def _rotatable(coupling: Coupling) -> list[Rotatable]:
    """Groups that can be rotated."""
    found = []
    for group in coupling.groups:
        with suppress(Stays):
            one = rotatable(coupling, group)
            blocks(coupling, one)
            found.append(one)
    return found


def _matrices(task: ChannelTask, found: Sequence[Rotatable]) -> Matrices:
    """Principal axes of each group, as keep.json holds them: no finer than its weights."""
    dense, coupling = task.calibrated.dense, task.channels.coupling
    names = {name for one in found for name in one.readers}
    layers = [layer for layer in dense.layers if layer.name in names]
    fit = task.calibrated.data.for_damage()[0].limit(_FIT)
    evidence = statistics_of(task, dense.model, coupling, layers, plan_stages(dense.model, layers), fit)
    return {one.group.id: _as_stored(coupling, one, principal_axes(evidence, one)) for one in found}


def _as_stored(coupling: Coupling, found: Rotatable, matrices: Axes) -> Axes:
    """Numbers of single precision, unless a weight has more."""
    if any(array_of(coupling, site.initializer).dtype == np.float64 for site in found.sites):
        return matrices
    return {block: axes.astype(np.float32).astype(np.float64) for block, axes in matrices.items()}


def _turned(task: ChannelTask, found: Sequence[Rotatable], matrices: Matrices) -> ChannelTask:
    """The task for the model with some groups rotated."""
    calibrated, channels = task.calibrated, task.channels
    dense, coupling = calibrated.dense, channels.coupling
    changed = rotated_arrays(coupling, [(one, matrices[one.group.id]) for one in found])
    model = SetWeights(changed)(dense.model.clone()).model
    return replace(
        task,
        channels=replace(channels, coupling=coupling.of(model)),
        calibrated=replace(
            calibrated, dense=replace(dense, model=model, stages=plan_stages(model, dense.layers))
        ),
        rotation=Rotation(
            {one.group.id: record(coupling, one, matrices[one.group.id]) for one in found},
            {one.group.id: one.normed for one in found},
        ),
    )


def _difference(turned: Calibrated, dense: DenseModel) -> float:
    """Largest relative difference of an output on a batch of held-out data."""
    feed = turned.data.first
    expected, found = dense.session.run(feed), open_whole(dense.runtime, turned.dense.model).run(feed)
    return max(relative(found[name], array, 0.0) for name, array in expected.items())


def _better(task: ChannelTask, turned: ChannelTask, groups: Collection[int]) -> set[int]:
    """Groups whose channels do less damage when they go once they are rotated."""
    each = []
    for one in (task, turned):
        dense, coupling = one.calibrated.dense, one.channels.coupling
        fit, test = one.calibrated.data.for_damage()
        evidence = statistics_of(one, dense.model, coupling, dense.layers, dense.stages, fit.limit(_FIT))
        each.append(compared_curves(one, evidence, dense.stages, test.limit(_TEST), _LEVELS, groups))
    before, after = (
        {
            group: np.log(np.maximum(one.curve.damage(np.array(_LEVELS)), _NOTHING)).mean()
            for group, one in curves.items()
        }
        for curves in each
    )
    return {group for group in groups if after[group] < before[group] + np.log(_BETTER)}


def _note(kept: Sequence[Rotatable], error: float) -> str:
    names = ", ".join(one.group.name for one in kept)
    return (
        f"channels of {names} were rotated to principal axes before any were removed: without removal the "
        f"outputs differ by {error:.1e} from those of the dense model on held-out data"
    )
