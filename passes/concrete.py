"""Concrete shapes, and the small integers that are computed from them.

Symbolic dimensions get numbers, every node's output shape is inferred from them with all shape arithmetic
carried out, and a second run with other numbers shows what depends on the symbols. Reasoning about channels
then needs no symbols at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.passes.fold import Array, evaluate

__all__ = ["Concrete", "captured", "concretize", "optional_inputs"]

_SMALL = 4096  # elements of a value that may be worth knowing


@dataclass
class Concrete:
    """What is known about the values of a graph at one choice of its symbolic dimensions.

    Attributes:
        shapes: of every value that could be inferred.
        dynamic: for each value with a shape, which axes depend on the symbols.
        values: small arrays that follow from shapes and constants.
        marks: for each of them, which elements depend on the symbols.
        unknown: nodes whose outputs could not be inferred, with the reason.
        optional: initializers that the caller may override.
    """

    shapes: dict[ir.Value, tuple[int, ...]] = field(default_factory=dict)
    dynamic: dict[ir.Value, tuple[bool, ...]] = field(default_factory=dict)
    values: dict[ir.Value, Array] = field(default_factory=dict)
    marks: dict[ir.Value, NDArray[np.bool_]] = field(default_factory=dict)
    unknown: dict[ir.Node, str] = field(default_factory=dict)
    optional: frozenset[ir.Value] = frozenset()

    def holds(self, value: ir.Value) -> bool:
        """True for an initializer whose tensor is what every run uses."""
        return value.is_initializer() and value.const_value is not None and value not in self.optional

    def constant(self, value: ir.Value | None) -> Array | None:
        """The array of a value that is the same in every run, or None."""
        if value is None:
            return None
        if self.holds(value):
            assert value.const_value is not None
            return value.const_value.numpy()
        known = self.values.get(value)
        return None if known is None or self.marks[value].any() else known


def optional_inputs(model: ir.Model) -> frozenset[ir.Value]:
    """Initializers that are defaults of inputs; a model that lists most of its initializers so means none."""
    held = [value for value in model.graph.initializers.values() if value.const_value is not None]
    listed = [value for value in held if value.is_graph_input()]
    return frozenset() if model.ir_version < 4 or 2 * len(listed) > len(held) else frozenset(listed)


def concretize(model: ir.Model) -> Concrete:
    """Concrete shapes of the main graph of ``model`` (functions inlined, constants lifted)."""
    best: tuple[Concrete, Callable[[int, int, int], int]] | None = None
    for choose in _CHOICES:
        found = _run(model, choose)
        if best is None or len(found.unknown) < len(best[0].unknown):
            best = found, choose
        if not found.unknown:
            break
    assert best is not None
    found, choose = best
    if any(not isinstance(dim, int) for value in model.graph.inputs for dim in value.shape or ()):
        other = min(
            (_run(model, lambda *at, c=c: c(*at)) for c in _OTHERS[_CHOICES.index(choose)]),
            key=lambda run: len(run.unknown),
        )
        for value, shape in found.shapes.items():
            there = other.shapes.get(value)
            same = there is not None and len(there) == len(shape)
            found.dynamic[value] = tuple(
                not same or a != b for a, b in zip(shape, there if same and there else shape, strict=True)
            )
        _run(model, choose, found)
    return found


def _primes(batch: int, length: int, side: int) -> Callable[[int, int, int], int]:
    """Sizes for a symbolic dimension by (axis, rank, how many symbols came before it)."""

    def choose(axis: int, rank: int, order: int) -> int:
        if axis == 0 or (order == 0 and axis != rank - 1):
            return batch
        return side if rank >= 4 else length + 2 * order

    return choose


_CHOICES = [
    _primes(3, 13, 64),
    _primes(3, 16, 224),
    _primes(3, 48, 64),
    _primes(1, 512, 256),
    _primes(2, 16000, 512),
]
_OTHERS = [
    [_primes(5, 29, 192), _primes(5, 11, 96)],
    [_primes(5, 48, 448), _primes(5, 8, 160)],
    [_primes(5, 96, 192), _primes(5, 24, 96)],
    [_primes(2, 1024, 512), _primes(2, 256, 128)],
    [_primes(3, 32000, 1024), _primes(3, 8000, 256)],
]


def _run(model: ir.Model, choose: Callable[[int, int, int], int], known: Concrete | None = None) -> Concrete:
    """One walk; with ``known`` only its values and marks are filled in, from its shapes and dynamic axes."""
    found = Concrete(optional=optional_inputs(model)) if known is None else known
    graph = model.graph
    symbols: dict[str, int] = {}
    types: dict[ir.Value, onnx.TypeProto] = {}

    def declare(value: ir.Value) -> tuple[int, ...] | None:
        if value.shape is None:
            return None
        dims = []
        for axis, dim in enumerate(value.shape):
            if isinstance(dim, int):
                dims.append(dim)
                continue
            name = dim.value or f"{value.name}.{axis}"
            if name not in symbols:
                symbols[name] = choose(axis, len(value.shape), len(symbols))
            dims.append(symbols[name])
        return tuple(dims)

    if known is None:
        for value in (*graph.inputs, *graph.initializers.values()):
            tensor = value.const_value
            shape = tuple(tensor.shape.numpy()) if tensor is not None else declare(value)
            dtype = tensor.dtype if tensor is not None else value.dtype
            if shape is not None and dtype is not None:
                found.shapes[value] = shape
                types[value] = onnx.helper.make_tensor_type_proto(int(dtype), shape)
    infer = _Inference(model, found, types)
    for node in graph:
        _fold(node, found)
        if known is not None:
            continue
        output = node.outputs[0] if node.outputs else None
        if output is not None and (folded := found.values.get(output)) is not None:
            found.shapes[output] = folded.shape
            kind = int(ir.DataType.from_numpy(folded.dtype))
            types[output] = onnx.helper.make_tensor_type_proto(kind, folded.shape)
            continue
        infer.node(node)
        for output in node.outputs:
            if output not in found.shapes and (shape := _declared_only(output, symbols)) is not None:
                found.shapes[output] = shape
                if output.dtype is not None:
                    types[output] = onnx.helper.make_tensor_type_proto(int(output.dtype), shape)
    if known is None:
        found.dynamic = {value: (False,) * len(shape) for value, shape in found.shapes.items()}
    return found


def _declared_only(value: ir.Value, symbols: dict[str, int]) -> tuple[int, ...] | None:
    if value.shape is None:
        return None
    dims = [dim if isinstance(dim, int) else symbols.get(dim.value or "") for dim in value.shape]
    return None if None in dims else tuple(dim for dim in dims if dim is not None)


def _fold(node: ir.Node, found: Concrete) -> None:
    if len(node.outputs) != 1 or node.domain not in ("", "ai.onnx"):
        return
    output, first = node.outputs[0], node.inputs[0] if node.inputs else None
    if node.op_type == "Shape" and first in found.shapes:
        start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", None)
        found.values[output] = np.array(found.shapes[first][start:end], np.int64)
        dynamic = found.dynamic.get(first, (False,) * len(found.shapes[first]))
        found.marks[output] = np.array(dynamic[start:end], bool)
    elif node.op_type == "Size" and first in found.shapes:
        found.values[output] = np.array(np.prod(found.shapes[first]), np.int64)
        found.marks[output] = np.array(any(found.dynamic.get(first, ())), bool)
    elif (operands := list(_operands(node, found))) and None not in operands:
        pairs = [pair for pair in operands if pair is not None]
        try:
            result = evaluate(node, [value for value, _ in pairs], [mark for _, mark in pairs])
        except (ValueError, IndexError, TypeError, ZeroDivisionError, FloatingPointError):
            return
        if result is not None and result[0].size <= _SMALL:
            found.values[output], found.marks[output] = result


def _operands(node: ir.Node, found: Concrete) -> Iterator[tuple[Array | None, Array | None] | None]:
    """Value and marks of each input; None for one that is not known, or too large to be of interest."""
    for value in node.inputs:
        if value is None:
            yield None, None
        elif value in found.values:
            yield found.values[value], found.marks[value]
        elif found.holds(value):
            tensor = value.const_value
            assert tensor is not None
            floating = tensor.dtype.is_floating_point()
            if tensor.size > (64 if floating else _SMALL) or tensor.dtype == ir.DataType.STRING:
                yield None
            else:
                array = tensor.numpy()
                yield array, np.zeros(array.shape, bool)
        else:
            yield None


_ALIASES = {
    "com.microsoft::FusedConv": "Conv",
    "com.microsoft::FusedGemm": "Gemm",
    "com.microsoft::FusedMatMul": "MatMul",
    **{
        f"com.microsoft::{name}": "Identity"
        for name in (
            "Gelu",
            "FastGelu",
            "BiasGelu",
            "QuickGelu",
            "SkipLayerNormalization",
            "BiasAdd",
            "BiasSplitGelu",
        )
    },
    "com.microsoft::SkipSimplifiedLayerNormalization": "Identity",
    "SimplifiedLayerNormalization": "Identity",
}


class _Inference:
    """ONNX's own inference, one node at a time, with all known operands."""

    def __init__(self, model: ir.Model, found: Concrete, types: dict[ir.Value, onnx.TypeProto]) -> None:
        self.found, self.types = found, types
        self.opsets = [
            onnx.helper.make_opsetid(domain, version) for domain, version in model.opset_imports.items()
        ]
        self.versions = dict(model.opset_imports)
        self.opset = self.versions.get("", 18)

    def node(self, node: ir.Node) -> None:
        """Shapes of the outputs of ``node``; on failure the node is listed as unknown."""
        try:
            outputs = self._infer(node)
        except Exception as error:  # the C++ side raises several kinds
            outputs = {}
            self.found.unknown[node] = " ".join(str(error).split())[:200]
        for value in node.outputs:
            info = outputs.get(value.name or "")
            if info is not None and info.tensor_type.elem_type and value not in self.types:
                dims = info.tensor_type.shape.dim if info.tensor_type.HasField("shape") else None
                if dims is not None and all(dim.HasField("dim_value") for dim in dims):
                    self.found.shapes[value] = tuple(int(dim.dim_value) for dim in dims)
                    self.types[value] = info
                    continue
            if value.uses() and value not in self.found.shapes:
                self.found.unknown.setdefault(node, "its output shape does not follow from its inputs")

    def _infer(self, node: ir.Node) -> dict[str, onnx.TypeProto]:
        op_type, domain = node.op_type, "" if node.domain == "ai.onnx" else node.domain
        name = op_type if not domain else f"{domain}::{op_type}"
        proto = ir.serde.serialize_node(node)
        if name in _ALIASES:
            op_type = proto.op_type = _ALIASES[name]
            domain = proto.domain = ""
            if op_type == "Identity":
                del proto.input[1:]
                del proto.output[1:]
            if name == "com.microsoft::FusedMatMul":
                return self._fused_matmul(node)
            del proto.attribute[:]
            for attribute in node.attributes.values():
                if attribute.name not in (
                    "activation",
                    "activation_params",
                    "epsilon",
                    "axis",
                    "activation_alpha",
                ):
                    proto.attribute.append(ir.serde.serialize_attribute(attribute))
        types, data = {}, {}
        for value in {id(v): v for v in (*node.inputs, *captured(node))}.values():
            if value is None or value not in self.types:
                if value is not None and value in node.inputs:
                    raise ValueError(f"the shape of {value.name} is not known")
                continue
            types[str(value.name)] = self.types[value]
            known = self.found.values.get(value)
            if known is None and value.is_initializer() and value.const_value is not None:
                known = value.const_value.numpy() if value.const_value.size <= 64 else None
            if known is not None and known.ndim <= 1:
                data[str(value.name)] = onnx.numpy_helper.from_array(np.array(known, order="C"))
        schema = onnx.defs.get_schema(op_type, self.versions.get(domain, 1), domain)
        return onnx.shape_inference.infer_node_outputs(schema, proto, types, data, None, self.opsets)

    def _fused_matmul(self, node: ir.Node) -> dict[str, onnx.TypeProto]:
        a, b = (self.found.shapes[value] for value in node.inputs if value is not None)
        a = (*a[:-2], a[-1], a[-2]) if node.attributes.get_int("transA", 0) else a
        b = (*b[:-2], b[-1], b[-2]) if node.attributes.get_int("transB", 0) else b
        shape = (*np.broadcast_shapes(a[:-2], b[:-2]), a[-2], b[-1])
        first = node.inputs[0]
        assert first is not None
        kind = self.types[first].tensor_type.elem_type
        return {str(node.outputs[0].name): onnx.helper.make_tensor_type_proto(kind, shape)}


def captured(node: ir.Node) -> Iterator[ir.Value]:
    """Values of outer graphs that the bodies of ``node`` use."""
    for attribute in node.attributes.values():
        graphs = (
            [attribute.as_graph()]
            if attribute.type == ir.AttributeType.GRAPH
            else list(attribute.as_graphs())
            if attribute.type == ir.AttributeType.GRAPHS
            else []
        )
        for graph in graphs:
            for inner in graph.all_nodes():
                for value in inner.inputs:
                    if value is not None and value.graph is not graph:
                        yield value
            for value in graph.outputs:
                if value.graph is not graph:
                    yield value
