"""Mode ``channels``: coupled channels are removed from the graph for good."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import onnx_ir as ir

from obs_onnx.allocation.regularizers import check_regularizers
from obs_onnx.allocation.targets import Targets
from obs_onnx.criteria.channels import CRITERIA
from obs_onnx.io.onnx_file import serialize
from obs_onnx.passes.canonical.own_constants import prepare
from obs_onnx.passes.channels.coupling import couple
from obs_onnx.passes.channels.keep_file import keep_file
from obs_onnx.passes.channels.remove_channels import RemoveChannels
from obs_onnx.passes.errors import OptionError, named
from obs_onnx.passes.graph.set_weights import SetWeights
from obs_onnx.passes.layers.find_layers import find_layers
from obs_onnx.passes.layers.layer import Layer
from obs_onnx.passes.layers.stages import plan_stages
from obs_onnx.pruning.channels.attempt import ChannelAttempt, ChannelOptions
from obs_onnx.pruning.channels.search import ChannelTrials
from obs_onnx.pruning.context import PruningContext
from obs_onnx.pruning.mode import Finished, Opened, allocation_notes, check_allocation
from obs_onnx.pruning.options import DAMAGE, ModeOptions
from obs_onnx.pruning.weights.layer_choice import matches
from obs_onnx.results.pruning import GroupResult, LayerResult
from obs_onnx.runtimes.bfloat16 import runnable
from obs_onnx.verification.removal import check_removal

__all__ = ["ChannelsMode"]

_DEFAULT = "obs"


class ChannelsMode:
    """Removes channels; see :class:`obs_onnx.pruning.mode.Mode`."""

    name = "channels"
    bound_by_default = True
    leaves_zeros = False

    def __init__(self, wanted: Targets, options: ModeOptions) -> None:
        if wanted.sparsity is not None:
            raise OptionError(
                f"target sparsity is about single weights: use {named('mode', 'weights')}, or target macs"
            )
        self._criterion = _DEFAULT if options.criterion == "auto" else options.criterion
        if self._criterion not in CRITERIA:
            raise OptionError(
                f"criterion {options.criterion!r} does not rank channels: use auto, {', '.join(CRITERIA)}"
            )
        check_allocation(options, CRITERIA)
        check_regularizers(options.regularize or {})
        self._options = options

    def open(self, opened: Opened) -> None:
        """Find the channels."""
        self._opened = opened
        self._stored = prepare(opened.model)
        self.model, self._copied = runnable(opened.runtime, self._stored)
        self._layers = find_layers(self.model)[0]
        self._protected = frozenset(
            layer.name for layer in self._layers if any(matches(layer, p) for p in self._options.protect)
        )
        for pattern in self._options.protect:
            if not _is_name(self.model, pattern):
                raise OptionError(
                    f"{named('protect')} {pattern!r} matches no node or weight: "
                    "run inspect to see their names"
                )
        self._coupling = couple(self.model, self._options.protect)
        if not self._coupling.groups:
            raise OptionError(
                f"{opened.name} has no channels that can be removed: run inspect to see what keeps them"
            )
        self.frozen = tuple(self._coupling.frozen)

    def study(self, shared: Mapping[str, Any], wanted: Targets) -> ChannelTrials:
        """Everything that trials share."""
        options, path = self._options, self._opened.path
        return ChannelTrials(
            model=self.model,
            layers=self._layers,
            plan=plan_stages(self.model, self._layers),
            coupling=self._coupling,
            options=ChannelOptions(
                self._criterion,
                options.damping,
                options.compensate,
                options.sequential,
                options.round_to,
                self._protected,
                None if options.allocation == DAMAGE else options.allocation,
                options.normalize,
                options.regularize or {},
            ),
            runtime_quantum=self._opened.runtime.quantum,
            dense_bytes=path.stat().st_size if path else len(serialize(self._opened.model)),
            **shared,
        )

    def cost_note(self, study: PruningContext) -> str | None:
        """What measuring will cost."""
        if self._options.allocation != DAMAGE:
            return None
        return study.cost_note("groups of channels", len(self._coupling.groups))

    def finish(self, study: ChannelTrials, best: ChannelAttempt, wanted: Targets) -> Finished:
        """Compare with the dense model in which the removed channels are silenced."""
        compensated = SetWeights(best.tensors)(self.model.clone()).model
        feed = next(iter(study.held_out))
        deviation, tolerance = check_removal(
            study.runtime, self._coupling.of(compensated), best.keep, best.model, feed
        )
        notes = [
            *allocation_notes(self._options),
            f"outputs equal those of the dense model with the same weights and {_count(best)} channels "
            f"silenced: relative difference {deviation:.1e}, allowed {tolerance:.0e}",
        ]
        final = best.model
        if self._copied:
            final = SetWeights(best.tensors)(self._stored.clone()).model
            stored = couple(final)
            RemoveChannels(self._coupling.same_in(stored, best.keep), stored).call(final)
            notes.append(
                f"{study.runtime.spec} has no kernels for bfloat16: "
                "all was computed and measured on a float32 copy"
            )
        if study.stopwatch is not None:
            notes += [*study.stopwatch.notes, *_shortfall(best, study.limits(wanted))]
        elif self._options.round_to is None and study.runtime.quantum > 1:
            notes.append(
                f"channel counts are multiples of a power of two up to {study.runtime.quantum}, "
                f"which {study.runtime.spec} runs faster; another multiple can be asked for"
            )
        return Finished(
            model=final,
            met=best.met(wanted, study.limits(wanted)),
            copied=self._copied,
            layers=tuple(_layer_lines(self._layers, best)),
            groups=tuple(
                GroupResult(
                    name=group.name,
                    channels=group.n,
                    kept=best.kept(group),
                    tensors=len(group.sites),
                    expected_damage=best.expected.get(group.id),
                )
                for group in self._coupling.groups
            ),
            damping=self._options.damping,
            training=best.training,
            keep=keep_file(self._opened.model, self._coupling, best.keep, best.lost(self._coupling.model)),
            notes=tuple(notes),
        )

    def advice(self, before: int | None, after: int | None) -> Sequence[str]:
        """Nothing to warn of: the tensors really shrink."""
        return ()

    def runnable(self, model: ir.Model) -> ir.Model:
        """A written model, in the form that the runtime takes."""
        return runnable(self._opened.runtime, model)[0]


def _shortfall(best: ChannelAttempt, limits: Mapping[str, float]) -> list[str]:
    """Why a limit on latency does not hold."""
    limit, found = limits.get("latency"), best.costs["latency"]
    if limit is None or found <= limit:
        return []
    if all(mask.all() for mask in best.keep.values()):
        return ["no removal of channels was found that makes the model faster: it stays as it is"]
    return [
        f"latency {limit:.3f} of the dense model's could not be reached: "
        f"this is the fastest model found, at {found:.3f}"
    ]


def _is_name(model: ir.Model, pattern: str) -> bool:
    names = [str(node.name) for node in model.graph]
    names += [str(value.name) for node in model.graph for value in node.outputs]
    return any(fnmatchcase(name, pattern) for name in (*names, *map(str, model.graph.initializers)))


def _count(best: ChannelAttempt) -> int:
    return sum(int((~mask).sum()) for mask in best.keep.values())


def _layer_lines(layers: Sequence[Layer], best: ChannelAttempt) -> list[LayerResult]:
    lines = []
    for layer in layers:
        held = best.model.graph.initializers.get(layer.name)
        left = 0 if held is None or held.const_value is None else held.const_value.size
        lines.append(
            LayerResult(
                name=layer.name,
                op_type=layer.op_type,
                shape=layer.layout.shape,
                weights=layer.size,
                kept=left / layer.size,
            )
        )
    return lines
