"""One gate for every channel of a coupled group, wherever elements that go with the channel are summed.

A channel without effect is one whose elements count as nothing in every sum over the channels (see
:mod:`obs_onnx.passes.channels.silence`). Gates of one stand at the same places: with a gate of zero the
channel is silenced, and in between

    L(gate) = L(1) - (1 - gate) g + (1 - gate)^2 h / 2 + ...,      g = dL/dgate,   h = d2L/dgate2

so that ``-g + h / 2`` is what its removal does to the loss, to second order. Places where channels
are not summed but compared or normalised stay as they are: derivatives do not see them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.passes.channels.coupling import Coupling, Group
from obs_onnx.passes.channels.places import combining
from obs_onnx.passes.errors import GradientError
from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.graph.emitter import Emitter
from obs_onnx.passes.graph.inputs import real_inputs
from obs_onnx.passes.graph.names import Names
from obs_onnx.passes.ops import linear
from obs_onnx.passes.traits.linear import ConvGeometry

__all__ = ["GatePlace", "gate_groups", "gate_places"]

_SUMS = ("sum", "mean")


@dataclass(frozen=True)
class GatePlace:
    """An input of a node along whose axis channels of a group are summed.

    Attributes:
        node: its name.
        slot, axis: of the input.
        channel: (elements,) the channel that each element of the axis goes with; n where with none.
    """

    node: str
    slot: int
    axis: int
    channel: NDArray[np.int64]


def gate_places(coupling: Coupling, group: Group) -> list[GatePlace]:
    """Where gates of ``group`` stand: in front of activations where possible, otherwise of weights.

    Raises:
        GradientError: an element goes with several channels of the group.
    """
    found: dict[tuple[str, int, int], GatePlace] = {}
    for mix in combining(coupling, group):
        if mix.kind not in _SUMS:
            continue
        slot, axis = _data_side(coupling, mix.node, mix.slot, mix.axis)
        name = str(mix.node.name)
        if (name, slot, axis) in found:
            continue
        value = mix.node.inputs[slot]
        assert value is not None
        incidence = coupling.incidence(group, value, axis).tocoo()
        channel = np.full(incidence.shape[1], group.n)
        if len(np.unique(incidence.col)) != incidence.nnz:
            raise GradientError(f"{value.name!r}: elements go with several channels of {group.name}")
        channel[incidence.col] = incidence.row
        found[name, slot, axis] = GatePlace(name, slot, axis, channel)
    return list(found.values())


def gate_groups(
    model: ir.Model, places: Mapping[str, tuple[int, Sequence[GatePlace]]], per_example: bool = False
) -> bool:
    """Multiply with gates at ``places``.

    Args:
        model: one with the nodes of the places, canonical and with inferred shapes; changed in place.
        places: gate name -> (number of channels, where it stands).
        per_example: give each example gates of its own, shape (N, channels), ones made while the graph runs.
            Otherwise a gate is a new input (channels,) of the model.

    Returns:
        Whether that was possible: examples cannot have gates of their own where the first axis of a gated
        value is not that of the inputs, or not free. The model is then unchanged.

    Raises:
        GradientError: a node is not there, or a name is taken.
    """
    nodes = {str(node.name): node for node in model.graph}
    for _, standing in places.values():
        for place in standing:
            if place.node not in nodes:
                raise GradientError(f"the model has no node {place.node!r}")
            if per_example and not _per_example(model, nodes[place.node], place):
                return False
    emitter = Emitter(model, Names(model), "gates")
    for name, (n, standing) in places.items():
        like = next((nodes[place.node].inputs[place.slot] for place in standing), None)
        if like is None:
            continue
        gate = _gate(emitter, name, n, like, per_example)
        gated: dict[tuple[ir.Value, int], ir.Value] = {}
        for place in standing:
            node = nodes[place.node]
            x = node.inputs[place.slot]
            assert x is not None
            if (x, place.axis) not in gated:
                gated[x, place.axis] = _times(emitter, x, place, gate, n, per_example)
            node.replace_input_with(place.slot, gated[x, place.axis])
    model.graph.sort()
    return True


def _data_side(coupling: Coupling, node: ir.Node, slot: int, axis: int) -> tuple[int, int]:
    """The activation that a weight's summed axis meets, and its axis there; else the place itself."""
    value = node.inputs[slot]
    assert value is not None
    found = linear(node)
    if found is None or found.weight_input != slot or not coupling.graph.concrete.holds(value):
        return slot, axis
    data = node.inputs[found.data_input]
    shape = None if data is None else coupling.graph.concrete.shapes.get(data)
    if data is None or shape is None or coupling.graph.concrete.holds(data):
        return slot, axis
    if isinstance(found.geometry, ConvGeometry):
        return found.data_input, 1
    return found.data_input, found.geometry.input_axis % len(shape)


def _per_example(model: ir.Model, node: ir.Node, place: GatePlace) -> bool:
    x = node.inputs[place.slot]
    if x is None or x.is_initializer() or not x.shape or place.axis == 0:
        return False
    batch = _batch(model)
    first = x.shape[0]
    return batch is not None and isinstance(first, ir.SymbolicDim) and first.value == batch


def _batch(model: ir.Model) -> str | None:
    """Symbol of the first axis that all inputs share."""
    symbols = set()
    for value in real_inputs(model):
        first = value.shape[0] if value.shape else None
        symbols.add(first.value if isinstance(first, ir.SymbolicDim) else None)
    return symbols.pop() if len(symbols) == 1 else None


def _gate(emitter: Emitter, name: str, n: int, like: ir.Value, per_example: bool) -> ir.Value:
    if emitter.names.fresh(name) != name:
        raise GradientError(f"the name {name} is taken in the model")
    dtype = node_facts.dtype(like)
    if dtype is None:
        raise GradientError(f"the type of {like.name!r} is unknown")
    if not per_example:
        gate = ir.Value(name=name, shape=ir.Shape([n]), type=ir.TensorType(dtype))
        emitter.model.graph.inputs.append(gate)
        return gate
    first = real_inputs(emitter.model)[0]
    shape = emitter.op("Concat", emitter.size_of(first, 0), emitter.ints([n]), axis=0)
    gate = emitter.op("ConstantOfShape", shape, value=ir.Tensor(np.ones(1, dtype.numpy()), dtype=dtype))
    assert first.shape is not None
    gate.shape, gate.name = ir.Shape([first.shape[0], n]), name
    return gate


def _times(
    emitter: Emitter, x: ir.Value, place: GatePlace, gate: ir.Value, n: int, per_example: bool
) -> ir.Value:
    """``x`` times the gates of its elements."""
    rank, factor = emitter.rank(x), gate
    if not np.array_equal(place.channel, np.arange(n)):
        if (place.channel == n).any():
            others = emitter.slice(gate, [0], [1], [-1])
            factor = emitter.op("Concat", gate, emitter.filled(1.0, others), axis=-1)
        factor = emitter.op("Gather", factor, emitter.ints(place.channel.tolist()), axis=int(per_example))
    if per_example:
        spread = emitter.unsqueeze(factor, [i for i in range(1, rank) if i != place.axis])
    else:
        spread = emitter.unsqueeze(factor, list(range(1, rank - place.axis)))
    return emitter.shaped(emitter.mul(x, spread), x)
