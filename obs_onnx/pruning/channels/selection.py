"""The coupled channels of a dense model, and the smaller model without some of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx_ir as ir

from obs_onnx.io.scratch import let_go, put_away
from obs_onnx.passes.channels.branches import Branch, LeaveOut, find_branches
from obs_onnx.passes.channels.coupling import Coupling
from obs_onnx.passes.channels.remove_channels import RemoveChannels
from obs_onnx.passes.layers.layer import Layer
from obs_onnx.pruning.channels.attempt import Keeps
from obs_onnx.runtimes.sessions.block_session import is_weighty

__all__ = ["Channels", "Selection", "quanta"]

_MULTIPLES = 8


def quanta(coupling: Coupling, largest_quantum: int) -> dict[int, int]:
    """What the kept count of each group is a multiple of, if nothing else is wanted.

    The largest power of two, up to that of the runtime, that leaves a group at least eight counts.
    """
    return {
        group.id: max(1, min(largest_quantum, 2 ** int(math.log2(max(group.n / _MULTIPLES, 1)))))
        for group in coupling.groups
    }


@dataclass(frozen=True)
class Selection:
    """Which channels stay.

    Attributes:
        keep: masks by group, each with a channel at least.
        left_out: groups of which nothing is to stay; their channel is without effect.
        empty: layers that give zeros then.
    """

    keep: Keeps
    left_out: frozenset[int]
    empty: frozenset[str]


@dataclass(frozen=True)
class Channels:
    """The coupled channels of a dense model.

    Attributes:
        coupling: of the model.
        layers: of the model.
        protected: names of those that the user wants left alone.
    """

    coupling: Coupling
    layers: Sequence[Layer]
    protected: frozenset[str] = frozenset()

    @cached_property
    def branches(self) -> Mapping[int, Branch]:
        """Groups that may go altogether."""
        return find_branches(self.coupling, self.layers)

    def select(self, keep: Keeps) -> Selection:
        """The selection of ``keep``; groups of which nothing is kept have to be :attr:`branches`."""
        left_out = frozenset(group for group, mask in keep.items() if not mask.any())
        first = {group: np.arange(len(keep[group])) == 0 for group in left_out}
        empty = frozenset(name for group in left_out for name in self.branches[group].layers)
        return Selection({**keep, **first}, left_out, empty)

    def remove(self, selection: Selection, model: ir.Model) -> None:
        """Take the channels out of a model with the structure of the dense one, weights as they are."""
        RemoveChannels(selection.keep, self.coupling.of(model)).call(model)
        if selection.empty:
            LeaveOut(selection.empty)(model)

    def smaller(self, keep: Keeps) -> ir.Model:
        """The dense model without the channels, weights as they are."""
        small = self.coupling.model.clone()
        self.remove(self.select(keep), small)
        if is_weighty(self.coupling.model):
            put_away(small)
            let_go(self.coupling.model)
        return small
