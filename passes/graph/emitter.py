"""New nodes at the end of a graph or a body of control flow, typed at once, whatever the opset of the model.

Where the axes of an operator are an attribute in old opsets and an input in new ones, the methods here know
which; callers never ask for the opset. Opsets before :data:`OLDEST` are not supported.
(:class:`onnx_ir.tape.Tape` gives new values neither names nor types, which is all that happens here.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import ArrayLike

from obs_onnx.passes.errors import GradientError
from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.graph.names import Names

__all__ = ["OLDEST", "Emitter"]

OLDEST = 11  # first opset with axes counted from the end, and with Clip and Pad as they are today

_SMALL = 1024  # elements of a constant that shape inference may look into
_TARGET = {"Reshape": 1, "ConstantOfShape": 0}
_LARGEST = 2**63 - 1

Operand = ir.Value | float | int | None


@dataclass(frozen=True)
class Emitter:
    """Appends nodes to the main graph of ``model`` or to a body, and constants to the main graph.

    Attributes:
        model: canonical, with inferred shapes, of opset :data:`OLDEST` at least.
        names: all names of ``model``.
        near: prefix of the names of new nodes.
        constants: initializers made so far, so that equal ones are made once.
        body: the graph that gets the nodes where that is not the main graph.
    """

    model: ir.Model
    names: Names
    near: str = ""
    constants: dict[Any, ir.Value] = field(default_factory=dict)
    body: ir.Graph | None = None

    @property
    def graph(self) -> ir.Graph:
        """The graph that gets the nodes."""
        return self.model.graph if self.body is None else self.body

    def to(self, near: str, body: ir.Graph | None = None) -> Emitter:
        """The same with another prefix of names, for ``body`` where given."""
        return Emitter(self.model, self.names, near, self.constants, self.body if body is None else body)

    @property
    def opset(self) -> int:
        """Opset version of the default domain."""
        return int(self.model.graph.opset_imports.get("", 1))

    # nodes

    def op(self, op_type: str, *inputs: Operand, **attributes: Any) -> ir.Value:
        """The only output of a new node of the default domain.

        Args:
            op_type: an operator of the default domain, as the model's opset has it.
            inputs: values; a Python number becomes a constant of the type of the first value; None is absent.
            attributes: Python numbers, strings, lists of them, tensors; None is absent.
        """
        (output,) = self.ops(op_type, *inputs, outputs=1, **attributes)
        return output

    def ops(self, op_type: str, *inputs: Operand, outputs: int = 1, **attributes: Any) -> Sequence[ir.Value]:
        """All outputs of a new node, arguments as for :meth:`op`."""
        like = next((value for value in inputs if isinstance(value, ir.Value)), None)
        values = [
            value if value is None or isinstance(value, ir.Value) else self.constant(value, like)
            for value in inputs
        ]
        name = self.names.fresh(f"{self.near}.{op_type}" if self.near else op_type)
        node = ir.node(op_type, values, attributes, num_outputs=outputs, name=name)
        for k, output in enumerate(node.outputs):
            output.name = self.names.fresh(f"{name}.{k}")
        self.infer(node)
        self.graph.append(node)
        return node.outputs

    # constants

    def constant(self, array: ArrayLike, like: ir.Value | None = None) -> ir.Value:
        """An initializer; with ``like`` it has the element type of that value."""
        kept = np.asarray(array)
        dtype = (
            like.dtype if like is not None and like.dtype is not None else ir.DataType.from_numpy(kept.dtype)
        )
        kept = np.array(kept, dtype.numpy(), order="C")
        same = (dtype, kept.shape, kept.tobytes())
        if same not in self.constants:
            base = f"{self.near}.constant" if self.near else "constant"
            self.constants[same] = self.names.initializer(base, ir.Tensor(kept, dtype=dtype))
        return self.constants[same]

    def ints(self, numbers: Sequence[int]) -> ir.Value:
        """A vector of int64."""
        return self.constant(np.array(list(numbers), np.int64))

    def filled(self, number: float, like: ir.Value) -> ir.Value:
        """A tensor of the shape and type of ``like`` with all elements equal to ``number``."""
        dims = node_facts.dims(like)
        if dims is not None and math.prod(dim or _SMALL for dim in dims) < _SMALL:
            return self.constant(np.full([dim or 0 for dim in dims], number), like)
        assert like.dtype is not None
        tensor = ir.Tensor(np.array([number], like.dtype.numpy()), dtype=like.dtype)
        return self.shaped(self.op("ConstantOfShape", self.shape_of(like), value=tensor), like)

    # shapes

    def dims(self, value: ir.Value) -> tuple[int | None, ...]:
        """Sizes of the axes, None where symbolic; GradientError when not even the rank is known."""
        dims = node_facts.dims(value)
        if dims is None:
            raise GradientError(f"the rank of {value.name!r} is unknown")
        return dims

    def rank(self, value: ir.Value) -> int:
        """Number of axes; GradientError when unknown."""
        return len(self.dims(value))

    def shaped(self, value: ir.Value, like: ir.Value) -> ir.Value:
        """``value``, now known to have the shape of ``like``."""
        if value.const_value is None and _shape(like) is not None:
            value.shape = _shape(like)
        return value

    def shape_of(self, value: ir.Value) -> ir.Value:
        """The shape as a vector of int64: a constant where it is static."""
        dims = node_facts.dims(value)
        if dims is not None and None not in dims:
            return self.ints([dim for dim in dims if dim is not None])
        return self.op("Shape", value)

    def size_of(self, value: ir.Value, axis: int) -> ir.Value:
        """The length of one axis as a vector of one int64."""
        dim = self.dims(value)[axis]
        if dim is not None:
            return self.ints([dim])
        return self.op("Gather", self.op("Shape", value), self.ints([axis]), axis=0)

    def reshape(self, value: ir.Value, shape: ir.Value | Sequence[int]) -> ir.Value:
        """Reshape to a vector of int64 or to numbers, of which one may be -1 and 0 copies."""
        target = shape if isinstance(shape, ir.Value) else self.ints(shape)
        return self.op("Reshape", value, target)

    def reshape_like(self, value: ir.Value, like: ir.Value) -> ir.Value:
        """Reshape to the shape of ``like``, with a constant target where one axis at most is unknown."""
        dims = node_facts.dims(like)
        if dims is not None and dims.count(None) == 1 and 0 not in dims:
            target: ir.Value | Sequence[int] = [-1 if dim is None else dim for dim in dims]
        else:
            target = self.shape_of(like)
        return self.shaped(self.reshape(value, target), like)

    def expand_like(self, value: ir.Value, like: ir.Value) -> ir.Value:
        """Broadcast to the shape of ``like``."""
        if same_shape(value, like):
            return value
        return self.shaped(self.op("Expand", value, self.shape_of(like)), like)

    def squeeze(self, value: ir.Value, axes: Sequence[int]) -> ir.Value:
        """Drop axes of length one."""
        return self._with_axes("Squeeze", value, axes) if axes else value

    def unsqueeze(self, value: ir.Value, axes: Sequence[int]) -> ir.Value:
        """Insert axes of length one; ``axes`` count in the result."""
        return self._with_axes("Unsqueeze", value, axes) if axes else value

    def transpose(self, value: ir.Value, perm: Sequence[int]) -> ir.Value:
        """Axis ``perm[i]`` of ``value`` becomes axis i."""
        return value if list(perm) == sorted(perm) else self.op("Transpose", value, perm=list(perm))

    def slice(
        self,
        value: ir.Value,
        starts: Sequence[int],
        ends: Sequence[int | None],
        axes: Sequence[int],
        steps: Sequence[int] | None = None,
    ) -> ir.Value:
        """``value[starts:ends:steps]`` along ``axes``; an end of None is the end of the axis."""
        steps = steps or [1] * len(axes)
        stop = [
            end if end is not None else _LARGEST if step > 0 else -_LARGEST
            for end, step in zip(ends, steps, strict=True)
        ]
        return self.op("Slice", value, *(self.ints(list(n)) for n in (starts, stop, axes, steps)))

    def pad(self, value: ir.Value, begins: Sequence[int], ends: Sequence[int]) -> ir.Value:
        """Zeros around ``value``, one pair of (possibly negative) counts for each axis."""
        if not any((*begins, *ends)):
            return value
        return self.op("Pad", value, self.ints([*begins, *ends]))

    # arithmetic

    def add(self, a: Operand, b: Operand) -> ir.Value:
        """``a + b``."""
        return self._binary("Add", a, b)

    def sub(self, a: Operand, b: Operand) -> ir.Value:
        """``a - b``."""
        return self._binary("Sub", a, b)

    def mul(self, a: Operand, b: Operand) -> ir.Value:
        """``a * b``."""
        return self._binary("Mul", a, b)

    def div(self, a: Operand, b: Operand) -> ir.Value:
        """``a / b``."""
        return self._binary("Div", a, b)

    def neg(self, a: ir.Value) -> ir.Value:
        """``-a``."""
        return self.op("Neg", a)

    def cast(self, value: ir.Value, like: ir.Value) -> ir.Value:
        """``value`` in the element type of ``like``."""
        if value.dtype == like.dtype:
            return value
        assert like.dtype is not None
        return self.op("Cast", value, to=int(like.dtype))

    def where(self, condition: ir.Value, a: ir.Value | float, b: ir.Value | float) -> ir.Value:
        """``a`` where ``condition`` holds, else ``b``; one of the two may be a number."""
        like = a if isinstance(a, ir.Value) else b
        assert isinstance(like, ir.Value)
        a, b = (x if isinstance(x, ir.Value) else self.constant(x, like) for x in (a, b))
        return self.op("Where", condition, a, b)

    # reductions

    def sum(self, value: ir.Value, axes: Sequence[int] | None = None, keepdims: bool = False) -> ir.Value:
        """Sum over ``axes``; over all of them when None, over none when empty."""
        return self.reduce("ReduceSum", value, axes, keepdims)

    def mean(self, value: ir.Value, axes: Sequence[int] | None = None, keepdims: bool = False) -> ir.Value:
        """Mean over ``axes``."""
        return self.reduce("ReduceMean", value, axes, keepdims)

    def max(self, value: ir.Value, axes: Sequence[int] | None = None, keepdims: bool = False) -> ir.Value:
        """Maximum over ``axes``."""
        return self.reduce("ReduceMax", value, axes, keepdims)

    def reduce(
        self, op_type: str, value: ir.Value, axes: Sequence[int] | None = None, keepdims: bool = False
    ) -> ir.Value:
        """Any of the reductions over ``axes``; over all of them when None, ``value`` itself when empty."""
        if axes is None:
            return self.op(op_type, value, keepdims=int(keepdims))
        if not axes:
            return value
        return self._with_axes(op_type, value, axes, keepdims=int(keepdims))

    def sum_to(self, grad: ir.Value, value: ir.Value) -> ir.Value:
        """Undo the broadcast of ``value``: sum ``grad``, of the broadcast shape, to the shape of ``value``.

        Axes whose sizes are known, or have the same symbol, are decided now; the others when the graph runs.

        Raises:
            GradientError: an axis is only known at run time and the opset is older than 13.
        """
        if same_shape(grad, value):
            return grad
        g_dims, v_dims = node_facts.dims(grad), node_facts.dims(value)
        if g_dims is None or v_dims is None:
            return self._sum_at_run_time(grad, value)
        lead = len(g_dims) - len(v_dims)
        ones, equal = [], _equal_axes(grad, value)
        for axis, (g, v) in enumerate(zip(g_dims[lead:], v_dims, strict=True)):
            if v == 1 and g != 1:
                ones.append(lead + axis)
            elif v is None and g != 1 and not equal[axis]:
                return self._sum_at_run_time(grad, value)
        if not ones:
            return self.sum(grad, range(lead))
        return self.squeeze(self.sum(grad, [*range(lead), *ones], keepdims=True), range(lead))

    def _sum_at_run_time(self, grad: ir.Value, value: ir.Value) -> ir.Value:
        """Sum over the axes where ``value``, with ones in front, has length one."""
        if self._axes_are_attribute("ReduceSum"):
            raise GradientError(
                f"the axes over which {value.name!r} is broadcast are only known at run time: "
                "convert the model to opset 13 or give its inputs static shapes"
            )
        target = self.shape_of(value)
        missing = self.sub(self.op("Shape", self.op("Shape", grad)), self.op("Shape", target))
        ones = self.op("ConstantOfShape", missing, value=ir.Tensor(np.array([1], np.int64)))
        aligned = self.op("Concat", ones, target, axis=0)
        axes = self.squeeze(self.op("NonZero", self.op("Equal", aligned, 1)), [0])
        summed = self.op("ReduceSum", grad, axes, keepdims=1, noop_with_empty_axes=1)
        return self.shaped(self.op("Reshape", summed, target), value)

    def _binary(self, op_type: str, a: Operand, b: Operand) -> ir.Value:
        if not isinstance(a, ir.Value):
            assert isinstance(b, ir.Value)
            assert a is not None
            a = self.constant(a, b)
        return self.op(op_type, a, b)

    def _with_axes(self, op_type: str, value: ir.Value, axes: Sequence[int], **attributes: int) -> ir.Value:
        if self._axes_are_attribute(op_type):
            return self.op(op_type, value, axes=list(axes), **attributes)
        return self.op(op_type, value, self.ints(axes), **attributes)

    def _axes_are_attribute(self, op_type: str) -> bool:
        return "axes" in onnx.defs.get_schema(op_type, self.opset, "").attributes

    def infer(self, node: ir.Node) -> None:
        """Give the outputs types and shapes; what ONNX cannot infer keeps its type, or gets the first's."""
        kinds, data = {}, {}
        for value in node.inputs:
            if value is None or value.dtype is None:
                continue
            kinds[str(value.name)] = _type_proto(value)
            tensor = value.const_value
            if tensor is not None and tensor.size <= _SMALL:
                data[str(value.name)] = ir.serde.serialize_tensor(tensor)
        opsets = [onnx.helper.make_opsetid("", self.opset)]
        try:
            schema = onnx.defs.get_schema(node.op_type, self.opset, "")
            found = onnx.shape_inference.infer_node_outputs(
                schema, ir.serde.serialize_node(node), kinds, data, opset_imports=opsets
            )
        except (KeyError, onnx.defs.SchemaError, onnx.shape_inference.InferenceError):
            found = {}
        for output in node.outputs:
            proto = found.get(str(output.name))
            if proto is not None and proto.tensor_type.elem_type:
                output.type = ir.serde.deserialize_type_proto_for_type(proto)
                shape = ir.serde.deserialize_type_proto_for_shape(proto)
                output.shape = _rank_by_target(node) if shape is None else shape
            elif output.type is None:
                first = next((value for value in node.inputs if value is not None), None)
                output.type = None if first is None else first.type


def _rank_by_target(node: ir.Node) -> ir.Shape | None:
    """Unknown sizes, as many as the shape in an input of ``node`` says; for operators that get one."""
    index = _TARGET.get(node.op_type)
    lengths = None if index is None else node_facts.dims(node_facts.input_of(node, index))
    return None if lengths is None or lengths[0] is None else ir.Shape([None] * lengths[0])


def same_shape(a: ir.Value, b: ir.Value) -> bool:
    """Whether the shapes are surely equal: the same numbers and the same symbols."""
    a_shape, b_shape = _shape(a), _shape(b)
    if a_shape is None or b_shape is None or len(a_shape) != len(b_shape):
        return a is b
    return all(_equal_axes(a, b))


def _equal_axes(a: ir.Value, b: ir.Value) -> list[bool]:
    """For each of the trailing axes that both have, whether the sizes are surely equal."""
    a_shape, b_shape = _shape(a), _shape(b)
    assert a_shape is not None
    assert b_shape is not None
    count = min(len(a_shape), len(b_shape))
    pairs = zip(a_shape[len(a_shape) - count :], b_shape[len(b_shape) - count :], strict=True)
    return [
        x == y if isinstance(x, int) or isinstance(y, int) else x.value is not None and x.value == y.value
        for x, y in pairs
    ]


def _shape(value: ir.Value) -> ir.Shape | None:
    if value.const_value is not None:
        return ir.Shape(value.const_value.shape.numpy())
    shape = value.meta.get(node_facts.INFERRED) or value.shape
    return None if shape is None else ir.Shape(list(shape))


def _type_proto(value: ir.Value) -> onnx.TypeProto:
    assert value.dtype is not None
    shape = _shape(value)
    dims = None if shape is None else [dim if isinstance(dim, int) else dim.value for dim in shape]
    return onnx.helper.make_tensor_type_proto(int(value.dtype), dims)
