"""Which channels stay: masks, groups that go altogether, and the model without them."""

from __future__ import annotations

import nets
import numpy as np
import onnx_ir as ir

from obs_onnx.passes.canonical.own_constants import prepare
from obs_onnx.passes.channels.coupling import couple
from obs_onnx.passes.layers.find_layers import find_layers
from obs_onnx.pruning.channels.selection import Channels


def channels() -> Channels:
    model = prepare(ir.from_proto(nets.residual()))
    return Channels(couple(model), find_layers(model)[0])


def test_the_smaller_model_has_the_channels_that_stay() -> None:
    whole = channels()
    group = whole.coupling.groups[0]
    keep = {group.id: np.arange(group.n) % 2 == 0}
    selection = whole.select(keep)
    assert (selection.left_out, selection.empty) == (frozenset(), frozenset())
    small = whole.smaller(keep)
    site = group.sites[0]
    before, after = (m.graph.initializers[site.initializer].shape for m in (whole.coupling.model, small))
    assert after[site.axis] == int(keep[group.id].sum()) < before[site.axis]


def test_a_branch_goes_altogether() -> None:
    whole = channels()
    group, branch = next(iter(whole.branches.items()))
    n = whole.coupling.groups[group].n
    selection = whole.select({group: np.zeros(n, bool)})
    assert selection.left_out == {group}
    assert selection.empty == set(branch.layers)
    assert selection.keep[group].sum() == 1
    names = {str(node.name) for node in whole.smaller({group: np.zeros(n, bool)}).graph}
    assert not names & branch.dead
