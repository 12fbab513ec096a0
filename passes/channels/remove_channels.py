"""Removing channels for good: weights are cut, and whatever restates a size follows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.passes.channels.coupling import Coupling, Keep, couple
from obs_onnx.passes.graph.bodies import remove_unused_nodes
from obs_onnx.passes.graph.names import Names
from obs_onnx.passes.graph.writer import Writer, append
from obs_onnx.passes.ops import lookup
from obs_onnx.passes.shapes.infer_shapes import InferShapes
from obs_onnx.passes.traits.shrink import Shrink

__all__ = ["RemoveChannels"]


class RemoveChannels(ir.passes.InPlacePass):
    """Keep some channels of each group and remove the others from the graph.

    1. Attributes and operands that restate sizes follow, as the operators' tables say.
    2. Initializers lose the slices of removed channels.
    3. Shape and Size of values that shrink are corrected, so that arithmetic on them stays as it was.
    4. An input that shrinks keeps its shape; a Gather behind it drops what has gone.
    5. Shapes inside the graph are inferred again, strictly.

    Args:
        keep: for groups by id, a bool for each channel, at least one of them True; other groups stay.
        coupling: of the very model that the pass will run on, when it is at hand.

    Raises:
        ValueError: a mask does not fit its group, or an axis would be left without elements.
        ModelError: the shapes of the result contradict each other.
    """

    def __init__(self, keep: Keep, coupling: Coupling | None = None) -> None:
        super().__init__()
        self.keep, self.coupling = keep, coupling

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass on a prepared ``model``."""
        coupling = couple(model) if self.coupling is None else self.coupling
        if coupling.model is not model:
            raise ValueError("the coupling belongs to another model")
        alive, after = coupling.alive(self.keep), coupling.shapes(self.keep)
        if all(np.asarray(mask, bool).all() for mask in self.keep.values()):
            return ir.passes.PassResult(model, modified=False)
        concrete = coupling.graph.concrete
        for value, shape in after.items():
            if 0 in shape and 0 not in concrete.shapes[value]:
                raise ValueError(f"nothing would be left of {value.name}")
        names = Names(model)
        for node, action in coupling.graph.shrinks:  # 1.
            action(Shrink(names, node, concrete, alive))
        for value, axes in list(coupling.graph.labels.items()):  # 2.
            if concrete.holds(value) and after[value] != concrete.shapes[value]:
                _cut(value, [alive(labels) for labels in axes])
        remove_unused_nodes(model)
        for node in list(model.graph):  # 3.
            if lookup(node).shape_only:
                _correct(names, node, coupling, after)
        for value in list(model.graph.inputs):  # 4.
            if value in after and after[value] != concrete.shapes[value] and not concrete.holds(value):
                _gather(names, value, [alive(labels) for labels in coupling.axes(value) or ()])
        for value, shape in after.items():  # 5.
            shrinks = shape != concrete.shapes[value] and not concrete.holds(value)
            if shrinks and not value.is_graph_output() and not value.is_graph_input():
                value.shape = None
        InferShapes().call(model)
        return ir.passes.PassResult(model, modified=True)


def _cut(value: ir.Value, alive: Sequence[NDArray[np.bool_]]) -> None:
    tensor = value.const_value
    assert tensor is not None
    array = tensor.numpy()
    for axis, stays in enumerate(alive):
        if not stays.all():
            array = array.compress(stays, axis=axis)
    value.const_value = ir.Tensor(np.array(array, order="C"), dtype=tensor.dtype, name=value.name)
    value.shape = ir.Shape(array.shape)


def _gather(names: Names, value: ir.Value, alive: Sequence[NDArray[np.bool_]]) -> None:
    """Let whoever reads an input read what stays of it."""
    if not (uses := list(value.uses())):
        return
    write, kept = Writer(names, uses[0].node), value
    for axis, stays in enumerate(alive):
        if not stays.all():
            index = write.constant(np.flatnonzero(stays))
            kept = write.op("Gather", [kept, index], ir.AttrInt64("axis", axis))
    for node, slot in uses:
        node.replace_input_with(slot, kept)


def _correct(
    names: Names, node: ir.Node, coupling: Coupling, after: Mapping[ir.Value, tuple[int, ...]]
) -> None:
    source, output, concrete = node.inputs[0], node.outputs[0], coupling.graph.concrete
    if (
        source is None
        or source not in after
        or after[source] == concrete.shapes[source]
        or output not in concrete.values
    ):
        return
    dense, marks, axes = concrete.values[output], concrete.marks[output], []
    if node.op_type == "Shape":
        start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", None)
        now = np.array(after[source][start:end], np.int64)
        axes = (coupling.axes(source) or [])[start:end]
    else:
        now = np.array(math.prod(after[source]), np.int64)
    if np.array_equal(now, dense):
        return
    shrink = Shrink(names, node, concrete, lambda labels: np.ones(len(labels), bool))
    append(names, output, shrink.turned(output, now, dense, marks, axes, behind=True))
