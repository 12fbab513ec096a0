"""Constants of a node that may be stored as integers: what stands between them and the node only scales them.

Such constants are the result of DequantizeLinear, or of a Cast whose result is multiplied by scales, from
whose zero points may have been subtracted before. A cast between floating-point types may follow.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.traits.linear import Integers, Linear

__all__ = ["BLOCKS", "Blocks", "Held", "held", "integers_behind", "multiplied", "stored"]

_KINDS = ir.DataType
_TYPES = {
    **{kind: (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for kind, bits in (
        (_KINDS.INT4, 4), (_KINDS.INT8, 8), (_KINDS.INT16, 16), (_KINDS.INT32, 32)
    )},
    **{kind: (0, 2**bits - 1) for kind, bits in ((_KINDS.UINT4, 4), (_KINDS.UINT8, 8), (_KINDS.UINT16, 16))},
}  # fmt: skip
"""Integer types that weights are stored in: the lowest and the highest number."""


BLOCKS = "obs_onnx.blocks"
"""Key in ``Value.meta`` of integers that were in blocks: a :class:`Blocks`."""


@dataclass(frozen=True)
class Blocks:
    """How integers with a scale each lie in a file.

    Attributes:
        block: inputs that share a scale there.
        bits: of an integer.
        zeros: whether there are zero points.
        bias: whether the bias is an input of the same node.
        flat: whether scales and zero points lie in one axis.
        rest: other attributes of the node.
    """

    block: int
    bits: int
    zeros: bool
    bias: bool
    flat: bool
    rest: tuple[ir.Attr, ...] = ()


@dataclass(frozen=True)
class Held:
    """A constant of a node.

    Attributes:
        shape: of the tensor that the node reads.
        dtype: of its elements.
        integers: how it is stored, if not as it is.
    """

    shape: tuple[int, ...]
    dtype: ir.DataType
    integers: Integers | None = None

    @property
    def is_float(self) -> bool:
        """Whether the node reads numbers of a floating-point type."""
        return self.dtype in node_facts.FLOATS


def held(node: ir.Node, index: int) -> Held | None:
    """The constant at input ``index``; None where that is computed from anything else than integers."""
    value = node_facts.input_of(node, index)
    tensor = node_facts.constant(node, index)
    if tensor is not None:
        return Held(tuple(int(dim) for dim in tensor.shape.numpy()), tensor.dtype)
    found = None if value is None else integers_behind(value)
    producer = None if value is None else value.producer()
    if found is None or producer is None:
        return None
    kind = _kind(producer)
    return None if kind is None else Held(found.shape, kind, found)


def integers_behind(value: ir.Value) -> Integers | None:
    """How a value is stored that is computed from constant integers, by scales and zero points alone."""
    node = value.producer()
    if node is None or node.graph is None or not node.outputs or value is not node.outputs[0]:
        return None
    source = node_facts.input_of(node, 0)
    if node.op_type == "Cast" and node.domain == "" and source is not None:
        target = node_facts.int_attribute(node, "to")
        return integers_behind(source) if target in node_facts.FLOATS and _alone(source) else None
    if node.op_type == "DequantizeLinear" and node.domain in ("", "com.microsoft"):
        return _dequantized(node)
    return _multiplied(node) if node.op_type == "Mul" and node.domain == "" else None


def _kind(node: ir.Node) -> ir.DataType | None:
    """Type of the numbers that a node makes of integers."""
    if node.op_type == "Cast":
        return ir.DataType(node_facts.int_attribute(node, "to"))
    if given := node_facts.int_attribute(node, "output_dtype"):
        return ir.DataType(given)
    scales = (node_facts.constant(node, index) for index in (1, 0))
    return next((scale.dtype for scale in scales if scale is not None and node_facts.is_float(scale)), None)


def _alone(value: ir.Value) -> bool:
    return len(value.uses()) == 1 and not value.is_graph_output()


def _named(node: ir.Node, index: int) -> str:
    value = node_facts.input_of(node, index)
    assert value is not None
    return str(value.name)


def _shape(tensor: ir.TensorProtocol) -> tuple[int, ...]:
    return tuple(int(dim) for dim in tensor.shape.numpy())


def _dequantized(node: ir.Node) -> Integers | None:
    q, scale = node_facts.constant(node, 0), node_facts.constant(node, 1)
    given = node_facts.input_of(node, 2) is not None
    zero = node_facts.constant(node, 2)
    if q is None or scale is None or q.dtype not in _TYPES or (given and zero is None):
        return None
    shape, size = _shape(q), _shape(scale)
    axis = node_facts.int_attribute(node, "axis", 1)
    block = node_facts.int_attribute(node, "block_size")
    if scale.size == 1:
        grid, block = (1,) * len(shape), 0
    elif len(size) == 1 and not block and len(shape) > axis % max(len(shape), 1):
        along = axis % len(shape)
        grid = tuple(n if i == along else 1 for i, n in enumerate(shape))
    elif len(size) == len(shape):
        grid = size
    else:
        return None
    lowest, highest = _TYPES[q.dtype]
    zeros = _named(node, 2) if zero is not None else None
    return _fitting(
        Integers(_named(node, 0), _named(node, 1), zeros, shape, grid, block, lowest, highest, 0), scale, zero
    )


def _multiplied(node: ir.Node) -> Integers | None:
    """``Cast(q) * scale`` or ``(Cast(q) - zero) * scale``, in any order of the factors."""
    side = next((i for i in (0, 1) if node_facts.constant(node, i) is not None), None)
    scale = None if side is None else node_facts.constant(node, side)
    product = None if side is None else node_facts.input_of(node, 1 - side)
    if side is None or scale is None or product is None or not node_facts.is_float(scale):
        return None
    inner = product.producer()
    if inner is None or not _alone(product):
        return None
    zero, zeros = None, None
    if inner.op_type == "Sub" and inner.domain == "":
        zero, zeros = node_facts.constant(inner, 1), _named(inner, 1)
        product = node_facts.input_of(inner, 0)
        inner = None if product is None else product.producer()
        if inner is None or zero is None or product is None or not _alone(product):
            return None
    if inner.op_type != "Cast" or inner.domain != "":
        return None
    q = node_facts.constant(inner, 0)
    if q is None or q.dtype not in _TYPES:
        return None
    shape, size = _shape(q), _shape(scale)
    grid = (1,) * (len(shape) - len(size)) + size
    lowest, highest = _TYPES[q.dtype]
    opened, run = inner.inputs[0].meta.get(BLOCKS), 0  # type: ignore[union-attr]
    if isinstance(opened, Blocks):
        lowest, highest, run = 0, (1 << opened.bits) - 1, opened.block
    return _fitting(
        Integers(_named(inner, 0), _named(node, side), zeros, shape, grid, 0, lowest, highest, 0, run=run),
        scale,
        zero,
    )


def _fitting(found: Integers, scale: ir.TensorProtocol, zero: ir.TensorProtocol | None) -> Integers | None:
    """The form, if scales and zero points fit the tensor, and zero points are integers."""
    if len(found.grid) != len(found.shape) or scale.size != np.prod(found.grid, dtype=np.int64):
        return None
    for count, n in zip(found.grid, found.shape, strict=True):
        if count not in (1, n) and (not found.block or count != -(-n // found.block)):
            return None
    if zero is None:
        return found
    array = zero.numpy().astype(np.float64)
    whole = bool((array == np.rint(array)).all() and (array >= found.lowest).all())
    fits = whole and bool((array <= found.highest).all()) and array.size in (1, scale.size)
    return found if fits else None


def stored(node: ir.Node, linear: Linear) -> Linear:
    """``linear`` with the way in which weight and bias are stored."""
    weight, bias = held(node, linear.weight_input), None
    if linear.bias_input is not None:
        bias = held(node, linear.bias_input)
    integers = None if weight is None else weight.integers
    numbers = None if bias is None else bias.integers
    follows = integers is not None and numbers is not None
    scale = _input_scale(node, linear, integers, numbers) if follows else None  # type: ignore[arg-type]
    return replace(linear, integers=integers, bias_integers=numbers, input_scale=scale)


def multiplied(node: ir.Node, linear: Linear) -> NDArray[Any] | None:
    """The tensor that a node multiplies by, as numbers; None where it is no constant."""
    if linear.integers is None or node.graph is None:
        return node_facts.array(node, linear.weight_input)
    held = [node.graph.initializers[name].const_value for name in linear.integers.names]
    arrays = {
        name: one.numpy() for name, one in zip(linear.integers.names, held, strict=True) if one is not None
    }
    return linear.integers.values(arrays)


def _input_scale(node: ir.Node, linear: Linear, weight: Integers, bias: Integers) -> str | None:
    """The scale of the input, if that of the bias is the product of it and the weight's."""
    x = node_facts.input_of(node, linear.data_input)
    producer = None if x is None else x.producer()
    if producer is None or producer.op_type != "DequantizeLinear" or node.graph is None:
        return None
    scale = node_facts.array(producer, 1)
    held_there = node.graph.initializers
    own, theirs = (held_there[one.scale].const_value for one in (bias, weight))
    if scale is None or scale.size != 1 or own is None or theirs is None or own.size != theirs.size:
        return None
    product = theirs.numpy().astype(np.float64).reshape(-1) * scale.astype(np.float64).reshape(-1)
    same = np.allclose(own.numpy().astype(np.float64).reshape(-1), product, rtol=1e-4, atol=0.0)
    return _named(producer, 1) if same else None
