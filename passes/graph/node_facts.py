"""Small questions that the families ask about a node: constants, shapes, attributes."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.passes.errors import ModelError, boundary
from obs_onnx.passes.graph.scopes import bodies

__all__ = [
    "FLOATS",
    "INFERRED",
    "array",
    "axes",
    "constant",
    "constant_cone",
    "data_inputs",
    "dims",
    "dtype",
    "float_attribute",
    "input_of",
    "inside",
    "int_attribute",
    "ints_attribute",
    "ints_input",
    "is_float",
    "size",
    "text_attribute",
    "type_of",
    "version",
]

_LONGEST_CONE = 64  # nodes between stored tensors and a weight that is computed from them

INFERRED = "obs_onnx.shape"  # in a value's meta: the inferred shape of an output with a declared shape

FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)


def input_of(node: ir.Node, index: int) -> ir.Value | None:
    """Input number ``index``, or None where it is absent."""
    return node.inputs[index] if index < len(node.inputs) else None


def inside(node: ir.Node) -> AbstractContextManager[None]:
    """Where a node of a model is looked at; what fails is a ModelError that names it."""
    return boundary(f"node {node.name!r} ({node.op_type}) is not what its operator expects")


def constant(node: ir.Node, index: int) -> ir.TensorProtocol | None:
    """The tensor behind input ``index`` when that is an initializer, else None."""
    value = input_of(node, index)
    if value is None or not value.is_initializer():
        return None
    return value.const_value


def array(node: ir.Node, index: int) -> NDArray[np.generic] | None:
    """Values of :func:`constant`; do not ask for large tensors without need."""
    tensor = constant(node, index)
    return None if tensor is None else tensor.numpy()


def is_float(tensor: ir.TensorProtocol) -> bool:
    """True for float16, bfloat16, float32 and float64."""
    return tensor.dtype in FLOATS


def dims(value: ir.Value | None) -> tuple[int | None, ...] | None:
    """Shape with None for symbolic (or impossible) dimensions, or None when the rank is unknown."""
    if value is None:
        return None
    shape = value.meta.get(INFERRED) or value.shape
    if value.const_value is not None:
        shape = value.const_value.shape
    if shape is None:
        return None
    return tuple(dim if isinstance(dim, int) and dim >= 0 else None for dim in shape)


def dtype(value: ir.Value) -> ir.DataType | None:
    """Type of the elements, that of the tensor where there is one; None when unknown."""
    return value.dtype if value.const_value is None else value.const_value.dtype


def type_of(value: ir.Value) -> ir.TypeProtocol | None:
    """The type, from the tensor where there is one; None when unknown."""
    return value.type if value.const_value is None else ir.TensorType(value.const_value.dtype)


def size(value: ir.Value | None) -> int:
    """Number of elements, where a symbolic dimension (or an unknown shape) counts as one."""
    return math.prod(1 if dim is None else dim for dim in dims(value) or ())


def int_attribute(node: ir.Node, name: str, default: int = 0) -> int:
    """An integer attribute of ``node``; ModelError when it is of another type."""
    attribute = _attribute(node, name, ir.AttributeType.INT)
    return default if attribute is None else int(attribute.as_int())


def float_attribute(node: ir.Node, name: str, default: float) -> float:
    """A float attribute of ``node``; ModelError when it is of another type."""
    attribute = _attribute(node, name, ir.AttributeType.FLOAT)
    return default if attribute is None else float(attribute.as_float())


def text_attribute(node: ir.Node, name: str, default: str) -> str:
    """A string attribute of ``node``; ModelError when it is of another type."""
    attribute = _attribute(node, name, ir.AttributeType.STRING)
    return default if attribute is None else str(attribute.value)


def ints_attribute(node: ir.Node, name: str, default: tuple[int, ...] = ()) -> tuple[int, ...]:
    """A list of integers of ``node``, where an empty list counts as absent; ModelError for another type."""
    attribute = _attribute(node, name, ir.AttributeType.INTS)
    return default if attribute is None else tuple(int(i) for i in attribute.as_ints()) or default


def _attribute(node: ir.Node, name: str, kind: ir.AttributeType) -> ir.Attr | None:
    attribute = node.attributes.get(name)
    if attribute is not None and (attribute.is_ref() or attribute.type != kind):
        raise ModelError(
            f"attribute {name!r} of node {node.name!r} ({node.op_type}) is no {kind.name.lower()}"
        )
    return attribute


def ints_input(node: ir.Node, index: int) -> tuple[int, ...] | None:
    """Integers of a constant input, else None."""
    values = array(node, index)
    return None if values is None else tuple(int(value) for value in values.reshape(-1))


def axes(node: ir.Node) -> tuple[int, ...] | None:
    """Axes given as attribute or as constant second input; empty when absent, None when not constant."""
    if input_of(node, 1) is None:
        return ints_attribute(node, "axes")
    return ints_input(node, 1)


def version(node: ir.Node) -> int | None:
    """Opset version of the node's domain, as far as the graph knows it."""
    return None if node.graph is None else node.graph.opset_imports.get(node.domain)


def constant_cone(value: ir.Value | None) -> list[ir.Node] | None:
    """The nodes of the main graph that compute ``value`` from initializers alone, consumers first.

    Empty for an initializer; None when the value depends on anything else, or on too many nodes.
    """
    if value is None:
        return None
    cone: dict[ir.Node, None] = {}
    waiting = [value]
    while waiting:
        value = waiting.pop()
        node = value.producer()
        if node is None:
            if not value.is_initializer():
                return None
            continue
        if any(True for _ in bodies(node)):
            return None
        if node not in cone:
            if len(cone) == _LONGEST_CONE:
                return None
            cone[node] = None
            waiting.extend(data_inputs(node))
    return list(cone)


def data_inputs(node: ir.Node) -> list[ir.Value]:
    """Inputs whose values matter; CastLike only asks for the type of its second one."""
    inputs = node.inputs[:1] if node.op_type == "CastLike" else node.inputs
    return [value for value in inputs if value is not None]
