"""Mode ``channels``: coupled channels are removed from the graph for good."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from obs_onnx.allocation.amounts import Unit
from obs_onnx.allocation.regularizers import check_regularizers
from obs_onnx.allocation.targets import MACS, PARAMS, Targets
from obs_onnx.criteria.channels.registry import CRITERIA, DEFAULT
from obs_onnx.io import files_of
from obs_onnx.io.onnx_file import file_size
from obs_onnx.passes.canonical.own_constants import prepare
from obs_onnx.passes.canonical.plainer.factors import SplitLayers
from obs_onnx.passes.channels.coupling import couple
from obs_onnx.passes.errors import OptionError, named
from obs_onnx.passes.graph.names import chosen
from obs_onnx.passes.layers.find_layers import check_any, find_layers
from obs_onnx.passes.layers.layer import Frozen, Layer
from obs_onnx.pruning.calibrated import Calibrated
from obs_onnx.pruning.channels.attempt import ChannelAttempt
from obs_onnx.pruning.channels.costs import DenseCosts
from obs_onnx.pruning.channels.curves import statistics_of
from obs_onnx.pruning.channels.result import finish_channels
from obs_onnx.pruning.channels.rotation import can_rotate, rotated, rotates
from obs_onnx.pruning.channels.search import search_channels
from obs_onnx.pruning.channels.selection import Channels
from obs_onnx.pruning.channels.task import ChannelTask
from obs_onnx.pruning.forecast.channels import channel_stages, idle_groups, refined
from obs_onnx.pruning.forecast.counted import Counted
from obs_onnx.pruning.forecast.forecast import Expected, Forecast, forecast
from obs_onnx.pruning.inputs import Inputs
from obs_onnx.pruning.options import DAMAGE, ModeOptions
from obs_onnx.pruning.recorder import Recorder
from obs_onnx.pruning.strategy import Finished, allocation_notes, besides, check_allocation, with_default
from obs_onnx.pruning.weights.layer_choice import matching
from obs_onnx.runtimes.bfloat16 import runnable
from obs_onnx.training.loop import Trained
from obs_onnx.training.retraining import Retraining

__all__ = ["ChannelPlan", "ChannelStrategy"]

_TRIALS = 4.0  # of a search for the smallest model, usually
_KEPT = 0.6  # share of the multiply-accumulates that stays, where nothing says how many


@dataclass(frozen=True)
class ChannelPlan:
    """Which channels of a model can go; see :class:`obs_onnx.pruning.strategy.Plan`.

    Attributes:
        original: the model as it came in.
        file_bytes: size of its file.
        stored: the prepared model in bfloat16, if ``model`` is a float32 copy of it.
        model: prepared, in types that the runtime takes.
        channels: of ``model``.
        frozen: what is left alone.
        options: how channels are chosen, by a criterion with a name.
    """

    original: ir.Model
    file_bytes: int
    stored: ir.Model | None
    model: ir.Model
    channels: Channels
    frozen: tuple[Frozen, ...]
    options: ModeOptions

    mode = "channels"
    leaves_zeros = False

    @property
    def layers(self) -> Sequence[Layer]:
        """All layers of the model."""
        return self.channels.layers

    @property
    def criterion(self) -> str:
        """Name of the one that chooses."""
        return self.options.criterion

    def forecast(
        self,
        calibrated: Calibrated,
        targets: Targets,
        rounds: int,
        recorder: Recorder,
        tries: int | None = None,
    ) -> Forecast:
        """What a search will take.

        Args:
            calibrated, targets, rounds, recorder: see :meth:`search`.
            tries: models that are refitted in a round, where that is known.
        """
        dense, effort = calibrated.dense, calibrated.budget.effort
        task, groups = self._task(calibrated, recorder), len(self.channels.coupling.groups)
        measured, levels, samples = "", 0, 0
        fit, test = calibrated.data.for_damage()
        if self.options.allocation == DAMAGE:
            there = test.count or effort.samples
            levels, samples = effort.bounded(
                groups, dense.cost.macs, len(self.model.graph), there, dense.rows
            )
            samples = min(samples, there)
            measured = (
                f"measuring {groups} groups of channels at {levels} levels or more on {samples} samples"
            )
        evidence = statistics_of(task, dense.model, self.channels.coupling, dense.layers, dense.stages, fit)
        limited = any(one.cost and amount.unit is not Unit.LEAST for one, amount in targets)
        usual = 1.0 if limited else min(_TRIALS, effort.trials)
        times = rounds * float(tries or usual)
        idle = idle_groups(calibrated, evidence) if levels else set()

        def stages(counted: Counted) -> Mapping[str, Expected]:
            found = channel_stages(counted, evidence, idle, levels, samples, times)
            return found | (refined(counted, counted.small) if self.options.refine else {})

        kept = targets.share(MACS) or targets.share(PARAMS) or _KEPT
        return forecast(
            calibrated, min(kept, 1.0), stages, measured, besides(calibrated, self.options, targets)
        )

    def task(self, calibrated: Calibrated, recorder: Recorder) -> ChannelTask:
        """What rounds of removing channels start from: streams may stand on other axes."""
        return rotated(self._task(calibrated, recorder), copied=self.stored is not None)

    def _task(self, calibrated: Calibrated, recorder: Recorder) -> ChannelTask:
        """The same on the axes of the model as it came in."""
        costs = DenseCosts(
            calibrated.dense,
            calibrated.front,
            calibrated.data.sample,
            self.file_bytes,
            calibrated.stopwatch,
            calibrated.tool,
        )
        return ChannelTask(self.channels, self.options, calibrated, costs, recorder)

    def search(
        self,
        calibrated: Calibrated,
        targets: Targets,
        rounds: int,
        retraining: Retraining | None,
        recorder: Recorder,
    ) -> Finished[ChannelAttempt]:
        """The best model within the targets, checked."""
        task = self.task(calibrated, recorder)
        best, runs, notes = search_channels(task, targets, rounds, retraining)
        return self.finish(task, best, targets, runs, notes)

    def finish(
        self,
        task: ChannelTask,
        best: ChannelAttempt,
        targets: Targets,
        runs: tuple[Trained, ...] = (),
        notes: Sequence[str] = (),
    ) -> Finished[ChannelAttempt]:
        """An attempt with its promises checked.

        Raises:
            VerificationError: one is broken.
        """
        with task.recorder.stage("verify"):
            return finish_channels(
                task,
                best,
                targets,
                original=self.original,
                stored=self.stored,
                notes=[*allocation_notes(self.options), *notes],
                runs=runs,
            )

    def advice(self, before: int | None, after: int | None) -> Sequence[str]:
        """Nothing to warn of: the tensors really shrink."""
        return ()


class ChannelStrategy:
    """Removes channels; see :class:`obs_onnx.pruning.strategy.Strategy`."""

    def checked(self, targets: Targets, options: ModeOptions) -> Targets:
        """The targets; an output error where none bounds the search."""
        targets.check_mode(ChannelPlan.mode)
        if _criterion(options) not in CRITERIA:
            raise OptionError(
                f"criterion {options.criterion!r} does not rank channels: use auto, {', '.join(CRITERIA)}"
            )
        check_allocation(options, CRITERIA)
        if options.low_rank and not rotates(options):
            raise OptionError(
                f"{named('low_rank')} chooses ranks by measured damage along principal axes: it needs "
                f"{named('rotate')} and {named('compensate')}, and {named('allocation')} {DAMAGE}"
            )
        check_regularizers(options.regularize or {})
        return with_default(targets)

    def open(self, inputs: Inputs, options: ModeOptions) -> ChannelPlan:
        """Find the channels."""
        stored = prepare(inputs.model)
        model, copied = runnable(inputs.runtime, stored)
        if options.low_rank and can_rotate(model, copied=copied):
            SplitLayers().call(model)
        layers = find_layers(model)[0]
        for pattern in options.protect:
            if not _is_name(model, pattern):
                raise OptionError(
                    f"{named('protect')} {pattern!r} matches no node or weight: "
                    "run inspect to see their names"
                )
        caches = inputs.front.caches
        coupling = couple(model, options.protect, () if caches is None else caches.names)
        if not coupling.groups:
            check_any(model, inputs.name)
            raise OptionError(
                f"{inputs.name} has no channels that can be removed: run inspect to see what keeps them"
            )
        protected = [y.name for pattern in options.protect for y in matching(layers, pattern)]
        path = inputs.file
        return ChannelPlan(
            original=inputs.model,
            file_bytes=sum(one.stat().st_size for one in files_of(path))
            if path
            else file_size(inputs.original),
            stored=stored if copied else None,
            model=model,
            channels=Channels(coupling, layers, frozenset(protected)),
            frozen=tuple(coupling.frozen),
            options=replace(options.part(ModeOptions), criterion=_criterion(options)),
        )


def _criterion(options: ModeOptions) -> str:
    return DEFAULT if options.criterion == "auto" else options.criterion


def _is_name(model: ir.Model, pattern: str) -> bool:
    names = [str(node.name) for node in model.graph]
    names += [str(value.name) for node in model.graph for value in node.outputs]
    return bool(chosen(pattern, (*names, *map(str, model.graph.initializers))))
