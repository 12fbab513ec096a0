"""A smaller model, how it was made and how it does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.allocation.curves import Curve
from obs_onnx.calibration.layer_weights import Tensors
from obs_onnx.passes.channels.coupling import Group
from obs_onnx.pruning.judgement import Attempt

__all__ = ["ChannelAttempt", "Keeps", "Least"]

Keeps: TypeAlias = dict[int, NDArray[np.bool_]]
"""Channels that stay, as a mask, by group."""


@dataclass(frozen=True)
class Least:
    """The least that something can cost, reckoned as costs are.

    Attributes:
        rounded: with kept counts as they have to be.
        any: with any kept counts, as predicted.
    """

    rounded: float
    any: float


@dataclass(frozen=True)
class ChannelAttempt(Attempt):
    """A smaller model and how it does.

    Attributes:
        keep: channels of the dense model that stay, by group.
        tensors: initializers of the dense model with the compensated weights of ``model`` in their places.
        expected: damage by group that the curves predict.
        costs: reached, as shares of the dense model's, or in the unit of a cost that is additive, by target.
        least: what costs could be if nothing but they counted, where they are over their limits.
        left_out: groups that are gone altogether; ``keep`` has a channel of theirs, without effect.
        alone: names of layers that were refitted on what the dense model gives to them, since the lengths of
            their inputs follow from the data.
        damping: relative damping that was chosen for each layer that was refitted.
        curves: damage by group, as far as it was measured, as shares of the channels removed.
    """

    keep: Mapping[int, NDArray[np.bool_]]
    tensors: Tensors
    expected: Mapping[int, float]
    costs: Mapping[str, float]
    left_out: frozenset[int] = frozenset()
    alone: frozenset[str] = frozenset()
    least: Mapping[str, Least] = field(default_factory=dict)
    damping: Mapping[str, float] = field(default_factory=dict)
    curves: Mapping[int, Curve] = field(default_factory=dict)

    def kept(self, group: Group) -> int:
        """Channels of a group of the dense model that are left."""
        if group.id in self.left_out:
            return 0
        return int(self.keep[group.id].sum()) if group.id in self.keep else group.n

    def stays(self, group: Group) -> tuple[int, ...]:
        """Which channels of a group of the dense model are left."""
        if group.id in self.left_out:
            return ()
        mask = self.keep.get(group.id)
        return tuple(range(group.n)) if mask is None else tuple(np.flatnonzero(mask).tolist())

    def lost(self, dense: ir.Model) -> list[str]:
        """Weights and biases that went with whole branches."""
        held = self.model.graph.initializers
        return [name for name in dense.graph.initializers if name not in held] if self.left_out else []

    def over(self, limits: Mapping[str, float]) -> list[str]:
        """Names of the costs that are over their limits."""
        return [name for name, limit in limits.items() if self.costs[name] > limit * (1 + 1e-9)]
