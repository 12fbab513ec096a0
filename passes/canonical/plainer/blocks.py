"""Weights in blocks are opened while channels are looked for, and packed again where a model is written.

Opened, each number has a scale of its own, so that any input can go. The blocks of what stays are others:
runs of the inputs that are left, which have to get scales in common before they are packed. What is measured
and written is the packed form.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.graph.names import Names, remove_if_unused
from obs_onnx.passes.graph.set_weights import hold
from obs_onnx.passes.graph.writer import Writer, take_over
from obs_onnx.passes.ops import key, linear
from obs_onnx.passes.ops.quantized.weights import BLOCKS, Blocks
from obs_onnx.passes.traits.linear import Integers, packed

__all__ = ["OpenBlocks", "PackBlocks"]

_MATMUL = "com.microsoft::MatMulNBits"
_OWN = ("N", "K", "bits", "block_size")  # attributes that follow from the weight
_ROOM = 1 << 30  # weights of a model whose blocks are opened


class OpenBlocks(ir.passes.InPlacePass):
    """Write MatMulNBits as MatMul, of a weight that Cast, Sub and Mul make of one integer for each number.

    1. The integers keep their name, scales and zero points theirs.
    2. A bias is an Add.
    3. What is not known as a layer stays, and so does everything in a model of very many weights, or whose
       weights serve several nodes.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass on ``model``."""
        found = [(node, one) for node in model.graph if (one := _form(node)) is not None]
        if sum(math.prod(form.shape) for _, form in found) > _ROOM:  # 3.
            return ir.passes.PassResult(model, modified=False)
        names = Names(model)
        for node, form in found:
            with node_facts.inside(node):
                _open(model, names, node, form)
        return ir.passes.PassResult(model, modified=bool(found))


def _form(node: ir.Node) -> Integers | None:
    found = linear(node) if key(node) == _MATMUL else None
    if found is None or found.integers is None or node.graph is None:
        return None
    held = [node.graph.initializers[name] for name in found.integers.names]
    return found.integers if all(len(v.uses()) == 1 and not v.is_graph_output() for v in held) else None


def _open(model: ir.Model, names: Names, node: ir.Node, form: Integers) -> None:
    held = {name: model.graph.initializers[name] for name in form.names}
    tensors = {name: value.const_value for name, value in held.items()}
    arrays = {name: tensor.numpy() for name, tensor in tensors.items() if tensor is not None}
    q, (scale, zero) = form.integers(arrays), form.steps(arrays)
    kind = arrays[form.scale].dtype
    bias = node_facts.input_of(node, 5)
    rest = tuple(one for name, one in node.attributes.items() if name not in _OWN)
    flat = arrays[form.scale].ndim == 1
    held[form.q].meta[BLOCKS] = Blocks(
        form.block, form.bits, form.zero is not None, bias is not None, flat, rest
    )
    hold(held[form.q], q.astype(np.uint8))
    hold(held[form.scale], form.spread(scale).astype(kind))
    write = Writer(names, node)
    if form.zero is None:
        middle = write.constant(np.asarray(form.middle, kind))
    else:
        middle = held[form.zero]
        hold(middle, form.spread(zero).astype(kind))
    target = ir.DataType.from_numpy(kind)
    number = write.op("Cast", [held[form.q]], ir.AttrInt64("to", int(target)))
    number.type = ir.TensorType(target)
    number = write.op("Mul", [write.op("Sub", [number, middle]), held[form.scale]])
    w = write.op("Transpose", [number], ir.AttrInt64s("perm", [1, 0]))
    y = write.op("MatMul", [node.inputs[0], w])
    if bias is not None:
        y = write.op("Add", [y, bias])
    take_over(names, node.outputs[0], y)
    parameters = node.inputs
    model.graph.remove(node, safe=True)
    for parameter in parameters:
        remove_if_unused(model, parameter)


class PackBlocks(ir.passes.InPlacePass):
    """Inverse of :class:`OpenBlocks`.

    Runs of inputs whose scales or zero points are not alike are rounded anew, between their lowest and their
    highest number.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass on ``model``."""
        names, count = Names(model), 0
        for value in list(model.graph.initializers.values()):
            blocks = value.meta.get(BLOCKS)
            if isinstance(blocks, Blocks):
                count += _pack(model, names, value, blocks)
        return ir.passes.PassResult(model, modified=bool(count))


def _pack(model: ir.Model, names: Names, q: ir.Value, blocks: Blocks) -> int:
    (cast,) = (use.node for use in q.uses())
    (sub,) = (use.node for use in cast.outputs[0].uses())
    (mul,) = (use.node for use in sub.outputs[0].uses())
    w, turned, chain = mul.outputs[0], False, [mul, sub, cast]
    users = [use.node for use in w.uses()]
    if len(users) == 1 and users[0].op_type == "Transpose":
        w, turned, chain = users[0].outputs[0], True, [users[0], *chain]
    scale_value, zero_value = mul.inputs[1], sub.inputs[1]
    held, scaled = q.const_value, None if scale_value is None else scale_value.const_value
    shifted = None if zero_value is None else zero_value.const_value
    if held is None or scaled is None or shifted is None or scale_value is None or zero_value is None:
        return 0
    kind = scaled.numpy().dtype
    parts = [
        np.broadcast_to(one.numpy().astype(np.float64), held.shape.numpy()) for one in (held, scaled, shifted)
    ]
    number, scale, zero = parts if turned else [one.T for one in parts]
    numbers, scales, zeros = _alike(number, scale, zero, blocks)
    hold(q, packed(numbers, blocks.bits))
    scales = scales.astype(kind)
    hold(scale_value, scales.reshape(-1) if blocks.flat else scales)
    inputs: list[ir.Value | None] = [q, scale_value]
    if blocks.zeros:
        points = packed(zeros, blocks.bits)
        hold(zero_value, points.reshape(-1) if blocks.flat else points)
        inputs.append(zero_value)
    del q.meta[BLOCKS]
    for use in list(w.uses()):
        _write(model, names, use.node, inputs, number.shape, blocks)
    for node in chain:
        parameters = list(node.inputs)
        model.graph.remove(node, safe=True)
        for parameter in parameters:
            remove_if_unused(model, parameter)
    return 1


def _write(
    model: ir.Model,
    names: Names,
    node: ir.Node,
    weight: list[ir.Value | None],
    shape: tuple[int, ...],
    blocks: Blocks,
) -> None:
    """MatMulNBits in place of a MatMul, and of the Add of its bias."""
    rows, columns = shape
    last, inputs = node, [node.inputs[0], *weight]
    uses = list(node.outputs[0].uses())
    if blocks.bias and len(uses) == 1 and uses[0].node.op_type == "Add":
        last = uses[0].node
        inputs += [None] * (5 - len(inputs)) + [last.inputs[1 - uses[0].idx]]
    sizes = {"K": columns, "N": rows, "bits": blocks.bits, "block_size": blocks.block}
    attributes = [*(ir.AttrInt64(name, size) for name, size in sizes.items()), *blocks.rest]
    write = Writer(names, last)
    y = write.op("MatMulNBits", inputs, *attributes, domain="com.microsoft")
    y.shape, y.type = last.outputs[0].shape, last.outputs[0].type
    take_over(names, last.outputs[0], y)
    model.graph.remove(last, safe=True)
    if last is not node:
        model.graph.remove(node, safe=True)


def _alike(
    q: NDArray[np.float64], scale: NDArray[np.float64], zero: NDArray[np.float64], blocks: Blocks
) -> tuple[NDArray[np.uint8], NDArray[np.float64], NDArray[np.uint8]]:
    """Integers (rows, blocks, inputs of a block), and scales and zero points (rows, blocks)."""
    rows, columns = q.shape
    count, highest = -(-columns // blocks.block), (1 << blocks.bits) - 1
    short = ((0, 0), (0, count * blocks.block - columns))
    parts = [np.pad(one, short, mode="edge").reshape(rows, count, blocks.block) for one in (q, scale, zero)]
    numbers, steps, points = parts
    found = steps[..., 0].copy(), points[..., 0].copy()
    same = (steps == steps[..., :1]).all(-1) & (points == points[..., :1]).all(-1)
    if not same.all():
        w = (numbers - points) * steps
        low, high = np.minimum(w.min(-1), 0.0), np.maximum(w.max(-1), 0.0)
        middle = (highest + 1) / 2
        step = (
            (high - low) / highest if blocks.zeros else np.maximum(high / (highest - middle), -low / middle)
        )
        step = np.where(step == 0, 1.0, step)
        point = np.clip(np.rint(-low / step), 0, highest) if blocks.zeros else np.full(low.shape, middle)
        found = np.where(same, found[0], step), np.where(same, found[1], point)
        again = np.clip(np.rint(w / found[0][..., None]) + found[1][..., None], 0, highest)
        numbers = np.where(same[..., None], numbers, again)
    return numbers.astype(np.uint8), found[0], found[1].astype(np.uint8)
