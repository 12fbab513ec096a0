"""What every round of removing channels starts from, and the smaller model that it ends with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from obs_onnx.allocation.targets import Targets
from obs_onnx.calibration.layer_weights import Tensors, regrouped
from obs_onnx.criteria.channel_statistics import ChannelStatistics
from obs_onnx.io.scratch import let_go, put_away
from obs_onnx.passes.channels.branches import LeaveOut
from obs_onnx.passes.channels.rotation.record import RotatedGroup
from obs_onnx.passes.graph.set_weights import SetWeights
from obs_onnx.progress import Advance
from obs_onnx.pruning.calibrated import Calibrated
from obs_onnx.pruning.channels.attempt import ChannelAttempt, Keeps
from obs_onnx.pruning.channels.costs import DenseCosts
from obs_onnx.pruning.channels.selection import Channels, Selection
from obs_onnx.pruning.judgement import judge, with_model
from obs_onnx.pruning.options import ModeOptions
from obs_onnx.pruning.recorder import Recorder
from obs_onnx.pruning.retrained import parameters_of, refined, retrained
from obs_onnx.reconstruction.channels import Refitted, emptied, solve_alone, solve_channels, spread
from obs_onnx.runtimes.sessions.block_session import is_weighty
from obs_onnx.training.loop import Trained
from obs_onnx.training.retraining import Retraining

__all__ = ["ChannelTask", "Rotation", "attempt_removal", "refine_attempt", "retrain_attempt"]


@dataclass(frozen=True)
class Rotation:
    """What was turned to other axes before anything was removed.

    Attributes:
        groups: which, by their numbers, and how.
        normed: layers behind a norm over the channels of a group, by group.
        note: for the reader.
    """

    groups: Mapping[int, RotatedGroup] = field(default_factory=dict)
    normed: Mapping[int, Sequence[str]] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class ChannelTask:
    """Channels of a calibrated model, and how they are to be chosen.

    Attributes:
        channels: of the dense model.
        options: how they are chosen, by a criterion with a name.
        calibrated: the dense model and the data.
        costs: that limits and smaller models are measured by.
        recorder: of the stages.
        start: initializers that every attempt starts from in place of the dense ones.
        rotation: how the dense model was brought to the form that is pruned.
    """

    channels: Channels
    options: ModeOptions
    calibrated: Calibrated
    costs: DenseCosts
    recorder: Recorder
    start: Tensors = field(default_factory=dict)
    rotation: Rotation = Rotation()

    @property
    def by_threshold(self) -> bool:
        """Whether what scores lowest goes, whatever it saves: costs are in the scores, or do not count."""
        return self.options.normalize or bool(self.options.regularize)


def attempt_removal(
    task: ChannelTask,
    keep: Keeps,
    expected: Mapping[int, float],
    evidence: ChannelStatistics,
    start: Tensors | None = None,
    chosen: Mapping[str, float] | None = None,
) -> ChannelAttempt:
    """Remove channels of the dense model, refit, and measure.

    Args:
        task: the model and its data.
        keep: channels that stay; groups of which nothing is kept have to be branches.
        expected: damage by group, for the report.
        evidence: of the dense model.
        start: its weights by now, where they were trained.
        chosen: damping by layer, where an attempt before has chosen it.
    """
    dense, selection = task.calibrated.dense, task.channels.select(keep)
    with task.recorder.stage("remove and refit", len(dense.layers)) as advance:
        found = _refitted(task, selection, evidence, start, chosen, advance)
    judged = judge(found.model, task.calibrated, task.recorder)
    return ChannelAttempt(
        judged.quality,
        judged.drop,
        found.model,
        selection.keep,
        found.tensors,
        expected,
        task.costs.of(found.model),
        selection.left_out,
        found.alone,
        damping=found.damping,
        labelled=judged.labelled,
    )


def _refitted(
    task: ChannelTask,
    selection: Selection,
    evidence: ChannelStatistics,
    start: Tensors | None,
    chosen: Mapping[str, float] | None,
    advance: Advance,
) -> Refitted:
    """The smaller model, and its weights in the places of the dense one's."""
    options, dense, coupling = task.options, task.calibrated.dense, task.channels.coupling
    tensors: Tensors = dict(start or {})
    if not (options.compensate and options.sequential):
        if options.compensate:
            tensors.update(solve_alone(evidence, selection.keep))
        tensors.update(emptied(dense.model, dense.layers, selection.empty))
        small = SetWeights(tensors)(dense.model.clone()).model
        task.channels.remove(selection, small)
        rounded = regrouped(small)
        tensors.update(spread(coupling, selection.keep, rounded))
        SetWeights(rounded)(small)
        if is_weighty(dense.model):
            put_away(small)
            let_go(dense.model)
        return Refitted(small, tensors)
    found = solve_channels(
        dense.runtime,
        coupling,
        dense.stages,
        task.calibrated.data.fit,
        selection.keep,
        fixed=task.channels.protected,
        damping=options.damping,
        budget=task.calibrated.budget.activations,
        advance=advance,
        start=start,
        empty=selection.empty,
        chosen=chosen,
        work=task.calibrated.work,
    )
    tensors.update(spread(coupling, selection.keep, found.tensors))
    if selection.empty:
        LeaveOut(selection.empty)(found.model)
    return found._replace(tensors=tensors)


def retrain_attempt(
    task: ChannelTask,
    attempt: ChannelAttempt,
    retraining: Retraining,
    before: Sequence[Trained],
    targets: Targets,
    last: bool,
) -> tuple[ChannelAttempt, Trained]:
    """The attempt after retraining, or as it was where that broke a limit that it held; what was done.

    Args:
        task: the model and its data.
        attempt: not changed.
        retraining: how.
        before: what was trained after the rounds before.
        targets: whose limits count.
        last: no round follows.
    """
    fixed = [layer for layer in task.calibrated.dense.layers if layer.name in task.channels.protected]
    found = retrained(
        attempt,
        retraining,
        parameters_of(fixed),
        before,
        keep_zeros=False,
        last=last,
        targets=targets,
        calibrated=task.calibrated,
        recorder=task.recorder,
    )
    if not found.kept:
        return attempt, found.training
    tensors = {**attempt.tensors, **spread(task.channels.coupling, attempt.keep, found.training.weights)}
    after = with_model(attempt, found.model, found.judged, tensors=tensors, training=found.training)
    return after, found.training


def refine_attempt(task: ChannelTask, attempt: ChannelAttempt, targets: Targets) -> ChannelAttempt:
    """The attempt with all weights corrected together, or as it was where that is not better.

    Args:
        task: the model and its data.
        attempt: not changed.
        targets: whose limits count.
    """
    options = task.options
    if not (options.refine and options.compensate and options.sequential):
        return attempt
    spared = {*task.channels.protected, *task.channels.select(dict(attempt.keep)).empty}
    fixed = [layer for layer in task.calibrated.dense.layers if layer.name in spared]
    found = refined(
        attempt, parameters_of(fixed), targets=targets, calibrated=task.calibrated, recorder=task.recorder
    )
    weights = spread(task.channels.coupling, attempt.keep, dict(found.refinement.weights))
    tensors = {**attempt.tensors, **weights}
    return with_model(attempt, found.model, found.judged, tensors=tensors, refined=found.refinement)
