"""Shapes of what a Loop carries, which ONNX leaves open because an iteration may change them."""

from __future__ import annotations

import onnx_ir as ir

from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.graph.bodies import copy_body, infer_body
from obs_onnx.passes.graph.emitter import OLDEST, Emitter
from obs_onnx.passes.graph.names import Names
from obs_onnx.passes.graph.scopes import bodies
from obs_onnx.passes.shapes.infer_shapes import InferShapes

__all__ = ["CarriedShapes"]

Dims = tuple[int | str | None, ...]


class CarriedShapes(ir.passes.InPlacePass):
    """Fill in the shapes of carried values that no iteration of a Loop changes, and what follows from them.

    A shape starts as that of the initial value; where the body gives another size, that size is unknown, and
    where it gives another rank, the shape is. That is repeated until nothing changes.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass on ``model``."""
        modified = False
        if model.graph.opset_imports.get("", 1) < OLDEST:
            return ir.passes.PassResult(model, modified)
        for node in model.graph:
            unknown = any(node_facts.dims(y) is None for y in node.outputs if y.name)
            if node.op_type == "Loop" and node.domain == "" and unknown and _complete(model, node):
                modified = True
                InferShapes().call(model)
        return ir.passes.PassResult(model, modified)


def _complete(model: ir.Model, node: ir.Node) -> bool:
    """Shapes of the outputs of one Loop and of the inputs of its body; whether there are new ones."""
    (body,) = bodies(node)
    emitter = Emitter(model, Names(model), str(node.name))
    carried = list(node.inputs[2:])
    shapes = [None if x is None else _dims(x) for x in carried]
    while True:
        trial = copy_body(emitter, body)
        for value, x, dims in zip(trial.inputs[2:], carried, shapes, strict=True):
            value.type = value.type if x is None else x.type or value.type
            value.shape = None if dims is None else ir.Shape(dims)
        infer_body(emitter, trial)
        after = [_dims(y) for y in trial.outputs[1:]]
        joined = [_join(before, new) for before, new in zip(shapes, after[: len(shapes)], strict=True)]
        if joined == shapes:
            break
        shapes = joined
    _take(list(body.inputs[2:]), shapes)
    _take(list(body.outputs[1:]), after)
    for output, dims in zip(node.outputs[len(shapes) :], after[len(shapes) :], strict=True):
        _take([output], [None if dims is None else (None, *dims)])
    return _take(list(node.outputs[: len(shapes)]), shapes)


def _take(values: list[ir.Value], shapes: list[Dims | None]) -> bool:
    """Give shapes to those of ``values`` that have none."""
    found = False
    for value, dims in zip(values, shapes, strict=True):
        if dims is not None and value.shape is None:
            value.shape, found = ir.Shape(dims), True
    return found


def _dims(value: ir.Value) -> Dims | None:
    if value.const_value is not None:
        return tuple(value.const_value.shape.numpy())
    if value.shape is None:
        return None
    return tuple(dim if isinstance(dim, int) else dim.value for dim in value.shape)


def _join(a: Dims | None, b: Dims | None) -> Dims | None:
    if a is None or b is None or len(a) != len(b):
        return None
    return tuple(m if m == n else None for m, n in zip(a, b, strict=True))
