"""The reference for removal: a model of the same size in which the removed channels are without effect.

Wherever elements of an axis are combined, the removed ones are replaced: by 0 before a sum, by the lowest
number before a maximum, by the mean of the others before a normalisation. A normalisation over n elements of
which k stay is made to give the statistics of those k: with the others set to their mean, the variance over n
is k/n of theirs, so that ``epsilon`` is multiplied by k/n and the scale by sqrt(k/n).

Among integers 0 is the zero point. What is turned into numbers first is masked while it is integers, and
constants are masked for good, under their own names where nothing else reads them, so that runtimes go on
computing in integers what they do without the mask.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.passes.canonical.plainer.norms import SKIPS, apart
from obs_onnx.passes.channels.coupling import Coupling, Keep, couple
from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.graph.bodies import remove_unused_nodes
from obs_onnx.passes.graph.names import Names
from obs_onnx.passes.graph.usage import is_used
from obs_onnx.passes.graph.writer import Writer, append, take_over
from obs_onnx.passes.ops.quantized.numbers import spread
from obs_onnx.passes.traits.relation import Mix, Operand

__all__ = ["silence"]

_ZERO = ("sum", "range")  # kinds of mixes that zeros leave as they are

_KINDS = ir.DataType
_WIDER = {
    **dict.fromkeys((_KINDS.BOOL, _KINDS.INT8, _KINDS.INT16, _KINDS.UINT16), _KINDS.INT32),
    **dict.fromkeys((_KINDS.INT4, _KINDS.UINT4), _KINDS.INT32),
    **dict.fromkeys((_KINDS.UINT32, _KINDS.UINT64), _KINDS.INT64),
    _KINDS.BFLOAT16: _KINDS.FLOAT,
}
"""Types that runtimes have no Where for, and what they are chosen in."""


def silence(model: ir.Model, keep: Keep, coupling: Coupling | None = None) -> ir.Model:
    """A copy of a prepared ``model`` in which the channels that ``keep`` drops have no effect.

    Args:
        model: stays as it is.
        keep: for groups by id, a bool for each channel.
        coupling: of ``model``, when it is at hand.

    Raises:
        ValueError: a mask does not fit its group, or the coupling is that of another model.
    """
    coupling = couple(model) if coupling is None else coupling
    if coupling.model is not model:
        raise ValueError("the coupling belongs to another model")
    copy = model.clone()
    names = Names(copy)
    twins = dict(zip(model.graph, copy.graph, strict=True))
    if skips := [node for node in copy.graph if node.op_type in SKIPS and node.domain == "com.microsoft"]:
        removed = coupling.keep_indices(keep)
        for node in skips:
            take_over(names, node.outputs[0], apart(Writer(names, node), node))
            copy.graph.remove(node, safe=True)
        coupling = coupling.of(copy)
        keep, twins = coupling.keep_from(removed), {node: node for node in copy.graph}
    alive = coupling.alive(keep)
    found: dict[tuple[ir.Node, int], list[tuple[Mix, NDArray[np.bool_]]]] = defaultdict(list)
    for mix in coupling.graph.mixes:
        if not (stays := alive(mix.labels)).all():
            found[mix.node, mix.slot].append((mix, stays))
    silencers = [
        _Silencer(Writer(names, twins[node]), coupling, node, slot, mixes)
        for (node, slot), mixes in found.items()
    ]
    for silencer in silencers:
        silencer.run()
    remove_unused_nodes(copy)
    for silencer in silencers:
        for name, masked in silencer.masked.items():
            if name not in copy.graph.initializers and masked.is_initializer():
                masked.name = name
    return copy


def _is_dequantized(value: ir.Value) -> bool:
    """Whether integers are turned into this value, whose zero points can be set for each of them."""
    node = value.producer()
    if node is None or node.op_type != "DequantizeLinear":
        return False
    zero = node_facts.input_of(node, 2)
    return not node.attributes.get_int("block_size", 0) or zero is None or zero.const_value is not None


def _dequantized(node: ir.Node) -> Operand:
    attributes = node.attributes
    return Operand(0, 1, 2, (attributes.get_int("axis", 1),), attributes.get_int("block_size", 0))


class _Silencer:
    """Masks one input of the writer's node, the twin of ``node`` in the coupled model."""

    def __init__(
        self,
        write: Writer,
        coupling: Coupling,
        node: ir.Node,
        slot: int,
        mixes: list[tuple[Mix, NDArray[np.bool_]]],
    ) -> None:
        self.write, self.opset = write, write.graph.opset_imports.get("") or 18
        self.node, self.slot, self.mixes = write.node, slot, mixes
        value = node.inputs[slot]
        assert value is not None
        self.optional = {one.name for one in coupling.graph.concrete.optional}
        self.shape = shape = coupling.graph.concrete.shapes[value]
        self.mask = np.ones((1,) * len(shape), bool)
        for mix, stays in mixes:
            self.mask = self.mask & stays.reshape([-1 if i == mix.axis else 1 for i in range(len(shape))])
        self.share = float(math.prod(stays.mean() for _, stays in mixes))
        self.dtype = node_facts.dtype(value) or ir.DataType.FLOAT
        self.masked: dict[str, ir.Value] = {}
        self.all_axes = [m.axis for m in coupling.graph.mixes if m.node is node and m.slot == slot]

    @property
    def value(self) -> ir.Value:
        """The input as it is by now."""
        value = self.node.inputs[self.slot]
        assert value is not None
        return value

    def run(self) -> None:
        """Insert the mask, and correct what counts the elements."""
        kind = self.mixes[0][0].kind
        if kind in _ZERO:
            silent = self._without(self.value, self.mask, self._zero(), self.shape)
        else:
            fill = self._mean_of_others() if kind == "normalize" else self._constant(self._neutral(kind))
            silent = self._masked(self.value, self.mask, fill)
        self.node.replace_input_with(self.slot, silent)
        if kind == "mean":
            output = self.node.outputs[0]
            append(
                self.write.names,
                output,
                self.write.op("Mul", [output, self._constant(1 / self.share)], behind=True),
            )
        elif kind in ("normalize", "rms"):
            epsilon = self.node.attributes.get_float("epsilon", 1e-5)
            self.node.attributes["epsilon"] = ir.AttrFloat32("epsilon", epsilon * self.share)
            scale = self.node.inputs[1]
            assert scale is not None
            factor = self._constant(math.sqrt(self.share))
            self.node.replace_input_with(1, self.write.op("Mul", [scale, factor]))
            self._deviation()

    def _zero(self) -> ir.Value:
        """What stands for zero in the input, as it is broadcast against it."""
        one = next((mix.operand for mix, _ in self.mixes if mix.operand is not None), None)
        zero = None if one is None else self._zero_point(self.node, one, self.shape)
        return self._constant(0.0) if zero is None else zero

    def _zero_point(self, node: ir.Node, one: Operand, shape: Sequence[int]) -> ir.Value | None:
        """The zero points of a node's operand of a shape, as they are broadcast against it; None for none."""
        zero = None if one.zero is None else node_facts.input_of(node, one.zero)
        dims = node_facts.dims(zero)
        if zero is None or dims is None or not dims:
            return zero
        if (held := self._held(zero)) is not None:
            return self.write.constant(spread(held, shape, one.axes, one.block), zero.dtype)
        if len(dims) == len(shape):
            return zero
        wide = [1] * len(shape)
        for axis, n in zip(one.axes, dims, strict=False):
            wide[axis] = n or 1
        return self.write.op("Reshape", [zero, self.write.constant(np.array(wide))])

    def _held(self, value: ir.Value) -> NDArray[np.generic] | None:
        """The array of an initializer that every run uses."""
        if value.const_value is None or value.name in self.optional:
            return None
        return value.const_value.numpy()

    def _without(
        self, value: ir.Value, mask: NDArray[np.bool_], zero: ir.Value, shape: Sequence[int]
    ) -> ir.Value:
        """``value`` with zeros where ``mask`` is not set, masked where it is integers still."""
        node, held, fill = value.producer(), self._held(value), self._held(zero)
        if held is not None and fill is not None and held.dtype.kind != "f":
            array = np.array(held)
            gone = ~np.broadcast_to(mask, array.shape)
            array[gone] = np.broadcast_to(fill, array.shape)[gone]
            found = self.write.constant(array, value.dtype)
            self.masked[str(value.name)] = found
            return found
        if node is None or value.is_graph_output():
            return self._masked(value, mask, zero)
        first = node.inputs[0] if node.inputs else None
        if _is_dequantized(value) and first is not None:
            point = self._zero_point(node, _dequantized(node), shape)
            if point is None:
                point = self.write.constant(np.zeros(()), node_facts.dtype(first))
            return self._again(node, self._without(first, mask, point, shape))
        if node.op_type == "Transpose" and first is not None and _is_dequantized(first):
            perm = node.attributes.get_ints("perm", None) or range(mask.ndim)[::-1]
            back = [int(axis) for axis in np.argsort(perm)]
            before = [shape[axis] for axis in back]
            return self._again(node, self._without(first, mask.transpose(back), zero, before))
        return self._masked(value, mask, zero)

    def _again(self, node: ir.Node, first: ir.Value) -> ir.Value:
        """What a node gives for another first input."""
        inputs = [first, *node.inputs[1:]]
        found = self.write.op(node.op_type, inputs, *node.attributes.values(), domain=node.domain)
        found.type = node.outputs[0].type
        return found

    def _deviation(self) -> None:
        """One over the deviation, which is that of all elements, as one over that of those that stay."""
        index = self.mixes[0][0].deviation
        if index is None or index >= len(self.node.outputs) or not is_used(self.node.outputs[index]):
            return
        output = self.node.outputs[index]
        root = np.asarray(math.sqrt(self.share))
        factor = self.write.constant(root, node_facts.dtype(output) or ir.DataType.FLOAT)
        append(self.write.names, output, self.write.op("Mul", [output, factor], behind=True))

    def _neutral(self, kind: str) -> float | NDArray[np.generic]:
        if kind in ("low", "high"):
            if self.dtype == ir.DataType.BOOL:
                return float(kind == "high")
            kind_of = ml_dtypes.finfo if self.dtype.is_floating_point() else ml_dtypes.iinfo
            limits = kind_of(self.dtype.numpy())
            return np.asarray(limits.max if kind == "high" else limits.min)
        return 1.0 if kind == "one" else 0.0

    def _masked(self, value: ir.Value, mask: NDArray[np.bool_], fill: ir.Value) -> ir.Value:
        """``value`` with ``fill`` where ``mask`` is not set."""
        dtype = node_facts.dtype(value) or self.dtype
        if self.opset >= 9:
            wide = _WIDER.get(dtype, dtype)
            kept, filled = (self._cast(one, wide) for one in (value, fill))
            chosen = self.write.op("Where", [self.write.constant(mask), kept, filled])
            return self._cast(chosen, dtype)
        kept = self.write.op("Mul", [value, self._constant(mask)])
        return self.write.op("Add", [kept, self.write.op("Mul", [fill, self._constant(~mask)])])

    def _cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        if dtype == (node_facts.dtype(value) or self.dtype):
            return value
        cast = self.write.op("Cast", [value], ir.AttrInt64("to", int(dtype)))
        cast.type = ir.TensorType(dtype)
        return cast

    def _mean_of_others(self) -> ir.Value:
        """Mean over all normalised axes of the elements that stay."""
        kept = self._masked(self.value, self.mask, self._constant(0.0))
        if self.opset >= 18:
            mean = self.write.op("ReduceMean", [kept, self.write.constant(np.array(self.all_axes))])
        else:
            mean = self.write.op("ReduceMean", [kept], ir.AttrInt64s("axes", self.all_axes))
        return self.write.op("Mul", [mean, self._constant(1 / self.share)])

    def _constant(self, array: NDArray[np.generic] | float) -> ir.Value:
        return self.write.constant(np.asarray(array), self.dtype)
