"""Weights in blocks: runs of ``block_size`` numbers along one axis share a scale and a zero point.

A block goes as a whole or stays as a whole: its numbers and its scale are then what they were, and the
product is exactly that of the dense weight without it. So the inputs of a product go in runs of
``block_size``. Where the axis is no multiple of that, the last run is shorter, and stays.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.traits.atoms import Labels, fixed, product
from obs_onnx.passes.traits.linear import Integers, Linear, MatmulGeometry, WeightLayout, packed, unpacked
from obs_onnx.passes.traits.op import Op, related
from obs_onnx.passes.traits.relation import Freeze, Relation
from obs_onnx.passes.traits.shrink import Shrink

__all__ = ["TABLE", "spread"]

_SCALES, _ZEROS, _ORDER, _BIAS = 2, 3, 4, 5  # inputs of MatMulNBits
_BYTE = 8
_BITS, _BLOCK = 4, 128  # where a node says nothing


def spread(blocks: Labels, block_size: int, n: int) -> Labels:
    """Labels of an axis of ``n`` elements from those of its blocks.

    Raises:
        Freeze: so many blocks do not cover the axis.
    """
    if block_size < 1 or len(blocks) != math.ceil(n / block_size):
        raise Freeze(f"{len(blocks)} blocks of {block_size} do not cover {n} elements")
    return np.repeat(blocks, block_size, axis=0)[:n]


def _relate_nbits(r: Relation) -> None:
    """``x`` times a weight of shape (N, blocks of K, bytes); scales and zero points are (N, blocks), or
    flat."""
    weight = r.axes(1)
    if len(weight) != 3 or r.constant(1) is None:
        raise Freeze("its weight is no constant of rows, blocks and bytes")
    if r.integer("weight_prepacked"):
        raise Freeze("its weight is packed for one device")
    rows, blocks, inside = weight
    r.fix(inside)
    x = r.axes(0)
    inputs = spread(blocks, r.integer("block_size"), len(x[-1]))
    r.tie(x[-1], inputs)
    _tie_grid(r, _SCALES, rows, blocks)
    if r.has(_ZEROS):
        _zero_points(r, rows, blocks)
    if r.has(_ORDER):
        _order(r, inputs)
    if r.has(_BIAS):
        r.tie(r.axes(_BIAS)[-1], rows)
    r.mix(0, -1)
    r.give([r.atoms.resolve(labels) for labels in (*x[:-1], rows)])
    r.shrink(lambda s: _restate(s, rows, inputs))


def _restate(s: Shrink, rows: Labels, inputs: Labels) -> None:
    s.attribute("N", s.count(rows))
    s.attribute("K", s.count(inputs))


def _tie_grid(r: Relation, slot: int, rows: Labels, columns: Labels) -> None:
    """Input ``slot`` has an element for each row and column, in two axes or in one."""
    axes = r.axes(slot)
    if len(axes) == 1:
        r.tie(axes[0], r.atoms.resolve(product([rows, columns])))
    else:
        r.tie(axes[0], rows)
        r.tie(axes[1], columns)


def _zero_points(r: Relation, rows: Labels, blocks: Labels) -> None:
    """Numbers like the scales, or integers that are packed along the blocks of each row."""
    if r.graph.concrete.dtypes[r.value(_ZEROS)].is_floating_point():
        _tie_grid(r, _ZEROS, rows, blocks)
        return
    bits = r.integer("bits", _BITS)
    if _BYTE % bits or r.constant(_ZEROS) is None:
        raise Freeze(f"its zero points of {bits} bits are no constants in whole bytes")
    _tie_grid(r, _ZEROS, rows, fixed(math.ceil(len(blocks) * bits / _BYTE)))
    r.shrink(lambda s: _repack(s, bits, rows, blocks))


def _repack(s: Shrink, bits: int, rows: Labels, blocks: Labels) -> None:
    if not s.changed(blocks):
        return
    dense = np.asarray(s.dense(_ZEROS), np.uint8)
    numbers = unpacked(dense.reshape(len(rows), -1), bits, len(blocks))
    kept = packed(numbers[s.alive(rows)][:, s.alive(blocks)], bits)
    s.operand(_ZEROS, kept if dense.ndim > 1 else kept.reshape(-1))


def _order(r: Relation, inputs: Labels) -> None:
    """The block of each input: known where they are in order, so that they are the same ones for fewer."""
    block_size, order = r.integer("block_size"), r.constant(_ORDER)
    if order is None or not np.array_equal(order, np.arange(len(inputs)) // block_size):
        raise Freeze("its inputs are not in the order of the blocks")
    r.tie(r.axes(_ORDER)[0], inputs)
    r.shrink(lambda s: s.operand(_ORDER, np.arange(s.count(inputs)) // block_size))


def _relate_bnb4(r: Relation) -> None:
    """``x`` times a weight (N, K) whose blocks, of half a byte for each number, stand in a row; one scale
    each."""
    n, k, size = (r.integer(name) for name in ("N", "K", "block_size"))
    if not r.integer("transB", 1) or size < 2 or k % size:
        raise Freeze("its blocks reach over the end of a row")
    rows, blocks, inside = r.atoms.split(r.axes(1)[0], [n, k // size, size // 2])
    r.fix(inside)
    r.tie(r.axes(2)[0], r.atoms.resolve(product([rows, blocks])))
    x = r.axes(0)
    inputs = spread(blocks, size, len(x[-1]))
    r.tie(x[-1], inputs)
    r.mix(0, -1)
    r.give([r.atoms.resolve(labels) for labels in (*x[:-1], rows)])
    r.shrink(lambda s: _restate(s, rows, inputs))


def _relate_gathered(r: Relation) -> None:
    """Entries of a table are taken, whose numbers stand in blocks along another axis, several in a byte."""
    data, size, bits = r.axes(0), r.integer("block_size", _BLOCK), r.integer("bits", _BITS)
    along, across = r.integer("gather_axis", 0) % len(data), r.integer("quantize_axis", 1) % len(data)
    if along == across:
        raise Freeze("it takes elements out of blocks")
    in_bytes = r.graph.concrete.dtypes[r.value(0)] == ir.DataType.UINT8
    each = _BYTE // bits if in_bytes else 1
    scales = r.axes(_SCALES)
    elements = spread(scales[across], size, len(data[across]) * each)
    r.fix(data[along], "its elements are counted")
    for axis, labels in enumerate(data):
        r.tie(labels, elements[::each] if axis == across else scales[axis])
    if r.has(_ZEROS) and not in_bytes:
        r.broadcast([scales, r.axes(_ZEROS)])
    elif r.has(_ZEROS):
        if len(data) != 2 or across != 1:
            raise Freeze("its zero points are packed in bytes along another axis than the last of two")
        _zero_points(r, *scales)
    whole = [elements if axis == across else labels for axis, labels in enumerate(data)]
    given = [*whole[:along], *r.axes(1), *whole[along + 1 :]]
    r.give([r.atoms.resolve(labels) for labels in given])


def _linear_bnb4(node: ir.Node) -> str | None:
    return None if node_facts.constant(node, 1) is None else "quantized weights are not pruned"


def _linear_nbits(node: ir.Node) -> Linear | str | None:
    b, scale = node_facts.constant(node, 1), node_facts.constant(node, _SCALES)
    if b is None:
        return None
    bits, block = node_facts.int_attribute(node, "bits", _BITS), node_facts.int_attribute(node, "block_size")
    rows, columns = (node_facts.int_attribute(node, name) for name in ("N", "K"))
    grid = (rows, math.ceil(columns / block)) if block > 0 else (0, 0)
    if scale is None or scale.size != math.prod(grid) or node_facts.int_attribute(node, "weight_prepacked"):
        return "its weight is not stored as rows, blocks and bytes, with a scale for each block"
    if _BYTE % bits or tuple(b.shape.numpy()) != (*grid, block * bits // _BYTE):
        return (
            f"its weight of {bits} bits does not lie in whole bytes of {columns} inputs in blocks of {block}"
        )
    zero = node_facts.constant(node, _ZEROS)
    if node_facts.input_of(node, _ZEROS) is not None and (zero is None or zero.dtype != ir.DataType.UINT8):
        return "the zero points of its weight are no constant integers"
    if node_facts.input_of(node, _ORDER) is not None:
        order = node_facts.array(node, _ORDER)
        if order is None or not np.array_equal(order, np.arange(columns) // block):
            return "its inputs are not in the order of the blocks"
    q, scales, zeros = (None if value is None else str(value.name) for value in (*node.inputs, None)[1:4])
    middle, shape = 1 << (bits - 1), (rows, columns)
    integers = Integers(str(q), str(scales), zeros, shape, grid, block, 0, (1 << bits) - 1, middle, bits)
    bias = _BIAS if node_facts.input_of(node, _BIAS) is not None else None
    if bias is not None and node_facts.constant(node, bias) is None:
        return "its bias is computed at run time"
    layout = WeightLayout(shape, (1, *shape), (0, 1, 2), (1, *shape))
    return Linear(
        1, 0, layout, MatmulGeometry(), bias_input=bias, bias_behind=bias is None, integers=integers
    )


def _macs(node: ir.Node) -> int:
    """Elements of the input times outputs."""
    return node_facts.size(node.inputs[0]) * node_facts.int_attribute(node, "N", 1)


TABLE = related(
    {
        "com.microsoft::MatMulNBits": Op(linear=_linear_nbits, macs=_macs, quantizes=True),
        "com.microsoft::MatMulNBitsMlp": Op(quantizes=True),  # written out before
        "com.microsoft::MatMulNBitsQkv": Op(quantizes=True),
        "com.microsoft::MatMulBnb4": Op(linear=_linear_bnb4, macs=_macs, quantizes=True),
    },
    {
        _relate_nbits: "com.microsoft::MatMulNBits",
        _relate_bnb4: "com.microsoft::MatMulBnb4",
        _relate_gathered: "com.microsoft::GatherBlockQuantized",
    },
)
