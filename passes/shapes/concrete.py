"""Concrete shapes, and the small integers that are computed from them.

Symbolic dimensions get numbers, every node's output shape is inferred from them with all shape arithmetic
carried out, and runs with other numbers show what depends on the symbols. Reasoning about channels
then needs no symbols at all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.passes.errors import reason
from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.graph.scopes import reads
from obs_onnx.passes.graph.usage import is_used
from obs_onnx.passes.shapes.contrib import ALIASES, SHAPES, kind_of
from obs_onnx.passes.shapes.schemas import schema_of
from obs_onnx.passes.shapes.shape_arithmetic import MOST, Array, evaluate

__all__ = ["Concrete", "Sizes", "Walk", "concretize", "fitting_sizes", "optional_inputs"]

_MOST_ELEMENTS = 1 << 48


@dataclass
class Concrete:
    """What is known about the values of a graph at one choice of its symbolic dimensions.

    Attributes:
        shapes: of every value that could be inferred.
        dtypes: of the same values.
        dynamic: for each value with a shape, which axes depend on the symbols.
        values: small arrays that follow from shapes and constants.
        marks: for each of them, which elements depend on the symbols.
        unknown: nodes whose outputs could not be inferred, with the reason.
        optional: initializers that the caller may override.
    """

    shapes: dict[ir.Value, tuple[int, ...]] = field(default_factory=dict)
    dtypes: dict[ir.Value, ir.DataType] = field(default_factory=dict)
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


@dataclass(frozen=True)
class Sizes:
    """Numbers for symbolic dimensions: uncommon ones, so that nothing agrees by chance.

    Attributes:
        batch: of first axes.
        length: of other axes of inputs with at most three; each symbol adds 2.
        side: of other axes of inputs with more.
        unknown: of what depends on the data.
        step: what each symbol adds to a side; 0 for models that take squares only.
    """

    batch: int
    length: int
    side: int
    unknown: int
    step: int = 0

    def choose(self, axis: int, rank: int, order: int) -> int:
        """Size of a dimension by its axis, the rank of its input and how many symbols came before it."""
        if axis == 0:
            return self.batch
        return self.side + self.step * order if rank >= 4 else self.length + 2 * order


_TRIES = [  # sizes that a model may insist on come later; each with others to compare with
    (Sizes(3, 13, 128, 19, 32), [Sizes(5, 29, 224, 23, 96), Sizes(5, 11, 320, 23, 64)]),
    (Sizes(3, 13, 64, 19), [Sizes(5, 29, 192, 23), Sizes(5, 11, 96, 23)]),
    (Sizes(3, 16, 224, 19), [Sizes(5, 48, 448, 23), Sizes(5, 8, 160, 23)]),
    (Sizes(3, 48, 64, 19), [Sizes(5, 96, 192, 23), Sizes(5, 24, 96, 23)]),
    (Sizes(1, 13, 64, 19), [Sizes(1, 29, 192, 23), Sizes(1, 11, 96, 23)]),
    (Sizes(1, 16, 224, 19), [Sizes(1, 48, 448, 23), Sizes(1, 8, 160, 23)]),
    (Sizes(1, 512, 256, 19), [Sizes(2, 1024, 512, 23), Sizes(2, 256, 128, 23)]),
    (Sizes(2, 16000, 512, 19), [Sizes(3, 32000, 1024, 23), Sizes(3, 8000, 256, 23)]),
]


def concretize(model: ir.Model) -> Concrete:
    """Concrete shapes of the main graph of ``model`` (functions inlined, constants lifted)."""
    found, _, others = _first(model)
    runs = [_run(model, one) for one in others]
    fewest = min((len(run.unknown) for run in runs), default=0)
    elsewhere = [run for run in runs if len(run.unknown) == fewest]
    for value, shape in found.shapes.items():
        there = [run.shapes.get(value, ()) for run in elsewhere]
        found.dynamic[value] = tuple(
            any(len(one) != len(shape) or one[axis] != n for one in there) for axis, n in enumerate(shape)
        )
    for node in model.graph:
        _fold(node, found)
    return found


def fitting_sizes(model: ir.Model) -> Sizes:
    """Numbers for the symbolic dimensions with which most nodes of ``model`` have shapes."""
    return _first(model)[1]


def _first(model: ir.Model) -> tuple[Concrete, Sizes, Sequence[Sizes]]:
    """The shapes with the first sizes that suit the model, and sizes to compare with, if there are
    symbols."""
    declared = [dim for value in model.graph.inputs for dim in value.shape or ()]
    symbolic = any(not isinstance(dim, int) or dim < 0 for dim in declared)
    best: tuple[Concrete, Sizes, Sequence[Sizes]] | None = None
    for sizes, others in _TRIES if symbolic else _TRIES[:1]:
        found = _run(model, sizes)
        if best is None or len(found.unknown) < len(best[0].unknown):
            best = found, sizes, others if symbolic else ()
        if not found.unknown:
            break
    assert best is not None
    return best


def _run(model: ir.Model, sizes: Sizes) -> Concrete:
    walk = Walk(model, sizes)
    for node in model.graph:
        walk.node(node)
    return walk.finished()


class Walk:
    """Shapes of a graph at one choice of its symbolic dimensions, node by node.

    Args:
        model: functions inlined, constants lifted.
        sizes: of the symbolic dimensions.
        given: numbers for some of them, by name.

    Attributes:
        found: what is known so far.
    """

    def __init__(self, model: ir.Model, sizes: Sizes, given: Mapping[str, int] | None = None) -> None:
        self.found = Concrete(optional=optional_inputs(model))
        self._sizes, self._symbols = sizes, dict(given or {})
        self._types: dict[ir.Value, onnx.TypeProto] = {}
        for value in (*model.graph.inputs, *model.graph.initializers.values()):
            self.add(value)
        self._infer = _Inference(model, self.found, self._types, self._symbols, sizes.unknown)

    def add(self, value: ir.Value) -> None:
        """Take an input or initializer in."""
        tensor = value.const_value
        shape = tuple(tensor.shape.numpy()) if tensor is not None else self._declare(value)
        dtype = node_facts.dtype(value)
        if shape is not None and dtype is not None and _possible(shape):
            self.found.shapes[value] = shape
            self._types[value] = onnx.helper.make_tensor_type_proto(int(dtype), shape)

    def node(self, node: ir.Node) -> None:
        """Shapes, and small integers, of the outputs of the next node (or of one that was changed)."""
        found = self.found
        found.unknown.pop(node, None)
        for value in node.outputs:
            for known in self._known():
                known.pop(value, None)
        _fold(node, found)
        output = node.outputs[0] if node.outputs else None
        if output is not None and (folded := found.values.get(output)) is not None:
            found.shapes[output] = folded.shape
            kind = int(ir.DataType.from_numpy(folded.dtype))
            self._types[output] = onnx.helper.make_tensor_type_proto(kind, folded.shape)
        else:
            self._infer.node(node)

    def take(self, node: ir.Node, other: Walk) -> None:
        """The same for a node of which ``other`` found out what is true here as well."""
        for mine, its in zip(self._known(), other._known(), strict=True):
            for value in node.outputs:
                mine.pop(value, None)
                if value in its:
                    mine[value] = its[value]
        self.found.unknown.pop(node, None)
        if node in other.found.unknown:
            self.found.unknown[node] = other.found.unknown[node]

    def _known(self) -> tuple[dict[ir.Value, Any], ...]:
        return self.found.shapes, self.found.values, self.found.marks, self._types

    def finished(self) -> Concrete:
        """All that was found, with nothing said to depend on the symbols."""
        found = self.found
        found.dynamic = {value: (False,) * len(shape) for value, shape in found.shapes.items()}
        found.dtypes = {value: ir.DataType(kind.tensor_type.elem_type) for value, kind in self._types.items()}
        return found

    def _declare(self, value: ir.Value) -> tuple[int, ...] | None:
        if value.shape is None:
            return None
        dims = []
        for axis, dim in enumerate(value.shape):
            if isinstance(dim, int) and dim >= 0:
                dims.append(dim)
                continue
            name = (None if isinstance(dim, int) else dim.value) or f"{value.name}.{axis}"
            if name not in self._symbols:
                size = self._sizes.choose(axis, len(value.shape), len(self._symbols))
                self._symbols[name] = size
            dims.append(self._symbols[name])
        return tuple(dims)


def _fold(node: ir.Node, found: Concrete) -> None:
    """Value and marks of the output of ``node``, where they follow from shapes and constants."""
    if len(node.outputs) != 1 or node.domain != "":
        return
    try:
        with np.errstate(all="ignore"):
            result = _folded(node, found)
    except Exception:  # numbers may be anything, and numpy has many ways to refuse them
        return
    if result is not None and result[0].size <= MOST:
        found.values[node.outputs[0]], found.marks[node.outputs[0]] = result


def _folded(node: ir.Node, found: Concrete) -> tuple[Array, NDArray[np.bool_]] | None:
    """Value and marks of the output, as far as they follow from shapes and constants."""
    first = node.inputs[0] if node.inputs else None
    if node.op_type == "Shape" and first in found.shapes:
        start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", None)
        dynamic = found.dynamic.get(first, (False,) * len(found.shapes[first]))
        return np.array(found.shapes[first][start:end], np.int64), np.array(dynamic[start:end], bool)
    if node.op_type == "Size" and first in found.shapes:
        count = np.array(math.prod(found.shapes[first]), np.int64)
        return count, np.array(any(found.dynamic.get(first, ())), bool)
    operands = list(_operands(node, found))
    pairs = [pair for pair in operands if pair is not None]
    if len(pairs) < len(operands):
        return None
    return evaluate(node, [value for value, _ in pairs], [mark for _, mark in pairs])


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
            if tensor.size > (64 if floating else MOST) or tensor.dtype == ir.DataType.STRING:
                yield None
            else:
                array = tensor.numpy()
                yield array, np.zeros(array.shape, bool)
        else:
            yield None


def _possible(shape: tuple[int, ...]) -> bool:
    """Whether a tensor could have this shape in any memory."""
    return min(shape, default=0) >= 0 and math.prod(shape) <= _MOST_ELEMENTS


def _declared(dim: int | ir.SymbolicDim, symbols: dict[str, int]) -> int | None:
    return dim if isinstance(dim, int) else symbols.get(dim.value or "")


class _Inference:
    """ONNX's own inference, one node at a time, with all known operands."""

    def __init__(
        self,
        model: ir.Model,
        found: Concrete,
        types: dict[ir.Value, onnx.TypeProto],
        symbols: dict[str, int],
        missing: int,
    ) -> None:
        self.found, self.types, self.symbols, self.missing = found, types, symbols, missing
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
            self.found.unknown[node] = reason(error)
        for value in node.outputs:
            info = outputs.get(value.name or "")
            shape = self._shape(value, info)
            kind = info.tensor_type.elem_type if info is not None else 0
            if shape is not None and not _possible(shape):
                self.found.unknown.setdefault(node, f"its output {value.name} would have the shape {shape}")
            elif shape is None or not (kind or value.dtype):
                if is_used(value):
                    self.found.unknown.setdefault(
                        node, "the shape of its output does not follow from its inputs"
                    )
            elif value not in self.types:
                self.found.shapes[value] = shape
                self.types[value] = onnx.helper.make_tensor_type_proto(kind or int(value.dtype or 0), shape)

    def _shape(self, value: ir.Value, info: onnx.TypeProto | None) -> tuple[int, ...] | None:
        """What was inferred; then what the model declares; then one number for all that depends on data."""
        declared = None if value.shape is None else [_declared(dim, self.symbols) for dim in value.shape]
        if info is None or not info.tensor_type.HasField("shape"):
            missing = self.missing
            return None if declared is None else tuple(missing if dim is None else dim for dim in declared)
        dims = [int(d.dim_value) if d.HasField("dim_value") else None for d in info.tensor_type.shape.dim]
        if declared is not None and len(declared) == len(dims):
            dims = [there if here is None else here for here, there in zip(dims, declared, strict=True)]
        return tuple(self.missing if dim is None else dim for dim in dims)

    def _infer(self, node: ir.Node) -> dict[str, onnx.TypeProto]:
        op_type, domain = node.op_type, node.domain
        name = op_type if not domain else f"{domain}::{op_type}"
        if name in SHAPES:
            return self._contributed(node, name)
        proto = ir.serde.serialize_node(node)
        if name in ALIASES:
            proto = ALIASES[name].of(proto, self.opset)
            op_type, domain = proto.op_type, ""
        types, data = {}, {}
        for value in dict.fromkeys(reads(node)):
            if value not in self.types:
                if value in node.inputs:
                    raise ValueError(f"the shape of {value.name} is not known")
                continue
            types[str(value.name)] = self.types[value]
            known = self.found.values.get(value)
            if known is None and value.is_initializer() and value.const_value is not None:
                known = value.const_value.numpy() if value.const_value.size <= 64 else None
            if known is not None and known.ndim <= 1:
                data[str(value.name)] = onnx.numpy_helper.from_array(np.array(known, order="C"))
        schema = schema_of(domain, op_type, self.versions.get(domain, 1))
        if schema is None:
            raise ValueError(f"{name} is not known")
        return onnx.shape_inference.infer_node_outputs(schema, proto, types, data, None, self.opsets)

    def _contributed(self, node: ir.Node, name: str) -> dict[str, onnx.TypeProto]:
        given: list[tuple[int, ...] | None] = [None] * len(node.inputs)
        kinds: list[ir.DataType | None] = [None] * len(node.inputs)
        for slot, value in enumerate(node.inputs):
            if value is not None:
                if value not in self.types:
                    raise ValueError(f"the shape of {value.name} is not known")
                given[slot] = self.found.shapes[value]
                kinds[slot] = ir.DataType(self.types[value].tensor_type.elem_type)
        shapes = SHAPES[name](node, given)
        outputs = enumerate(zip(node.outputs, shapes, strict=False))
        return {
            str(output.name): onnx.helper.make_tensor_type_proto(int(kind_of(name, index, kinds)), shape)
            for index, (output, shape) in outputs
            if shape is not None
        }
