"""Output shapes of operators that ONNX's own inference does not know: of runtimes, and of ``ai.onnx.ml``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir

from obs_onnx.passes.shapes.contrib_attention import ATTENTION, Dims, Given, there

__all__ = ["ALIASES", "SHAPES", "kind_of"]


@dataclass(frozen=True)
class Alias:
    """An operator of ONNX that gives outputs of the same shapes.

    Attributes:
        op_type: of the default domain.
        inputs: which of a node's inputs it takes; None: the first ones.
    """

    op_type: str
    inputs: tuple[int, ...] | None = None

    def of(self, node: onnx.NodeProto, opset: int) -> onnx.NodeProto:
        """``node`` as this operator, whose shapes follow from its attributes in ``opset``.

        Raises:
            ValueError: its channels stand last.
        """
        standard = onnx.defs.get_schema(self.op_type, opset, "")
        given = {attribute.name: attribute for attribute in node.attribute}
        if "channels_last" in given and given["channels_last"].i:
            raise ValueError("its channels stand last")
        places = range(len(standard.inputs)) if self.inputs is None else self.inputs
        found = onnx.NodeProto(op_type=self.op_type, name=node.name, output=node.output)
        found.input.extend(node.input[place] for place in places if place < len(node.input))
        found.attribute.extend(one for name, one in given.items() if name in standard.attributes)
        return found


ALIASES = {
    f"com.microsoft::{name}": alias
    for name, alias in {
        "FusedConv": Alias("Conv"),
        "FusedGemm": Alias("Gemm"),
        "QLinearAveragePool": Alias("MaxPool", (0,)),  # AveragePool takes no integers
        "QLinearConv": Alias("QLinearConv"),
    }.items()
}


def _same(node: ir.Node, shapes: Given) -> list[Dims | None]:
    """All outputs are like the first input."""
    return [there(shapes, 0)] * len(node.outputs)


def _skip(node: ir.Node, shapes: Given) -> list[Dims | None]:
    return [there(shapes, 0), None, None, there(shapes, 0)]


def _each(node: ir.Node, shapes: Given) -> list[Dims | None]:
    """GemmaRotaryEmbedding: queries and keys."""
    return [there(shapes, 1), there(shapes, 3)]


def _gate(node: ir.Node, shapes: Given) -> list[Dims | None]:
    """LinearAttentionGate: decay and rate."""
    return [there(shapes, 0), shapes[3] if len(shapes) > 3 else None]


def _turned(shape: tuple[int, ...], batch: int, transposed: int) -> tuple[int, ...]:
    shape = (*shape[1:-1], shape[0], shape[-1]) if batch else shape
    return (*shape[:-2], shape[-1], shape[-2]) if transposed else shape


def _matmul(node: ir.Node, shapes: Given) -> list[Dims | None]:
    a, b = there(shapes, 0), there(shapes, 1)
    flags = {name: node.attributes.get_int(f"trans{name}", 0) for name in ("BatchA", "A", "BatchB", "B")}
    left = (1, *a) if len(a) == 1 else _turned(a, flags["BatchA"], flags["A"])
    right = (*b, 1) if len(b) == 1 else _turned(b, flags["BatchB"], flags["B"])
    rows, columns = left[-2:-1] if len(a) > 1 else (), right[-1:] if len(b) > 1 else ()
    return [(*np.broadcast_shapes(left[:-2], right[:-2]), *rows, *columns)]


def _wide(node: ir.Node, shapes: Given) -> list[Dims | None]:
    """A product with a packed matrix of N columns."""
    return [(*there(shapes, 0)[:-1], node.attributes.get_int("N", 0) or there(shapes, 1)[0])]


def _wide_of_4_bits(node: ir.Node, shapes: Given) -> list[Dims | None]:
    if not node.attributes.get_int("transB", 1):
        raise ValueError("its matrix is not transposed")
    return _wide(node, shapes)


def _wide_gated(node: ir.Node, shapes: Given) -> list[Dims | None]:
    return [*_wide(node, shapes), there(shapes, 0)]


def _wide_heads(node: ir.Node, shapes: Given) -> list[Dims | None]:
    x, attributes = there(shapes, 0), node.attributes
    query, key = ((*x[:-1], attributes.get_int(name, 0)) for name in ("Nq", "Nkv"))
    return [query, key, key, x]


def _embeddings(node: ir.Node, shapes: Given) -> list[Dims | None]:
    ids = there(shapes, 0)
    full = (*ids, there(shapes, 2)[1])
    return [full, ids[:1], full]


def _gathered(node: ir.Node, shapes: Given) -> list[Dims | None]:
    """GatherBlockQuantized: rows of a table, in bytes of which several elements may stand."""
    data, ids = list(there(shapes, 0)), there(shapes, 1)
    axis = node.attributes.get_int("gather_axis", 0) % len(data)
    if (table := node.inputs[0]) is not None and table.dtype == ir.DataType.UINT8:
        blocks = node.attributes.get_int("quantize_axis", 1) % len(data)
        data[blocks] *= 8 // node.attributes.get_int("bits", 4)
    return [(*data[:axis], *ids, *data[axis + 1 :])]


def _halved(node: ir.Node, shapes: Given) -> list[Dims | None]:
    """A gate and what it gates stand in a row."""
    x = there(shapes, 0)
    return [(*x[:-1], x[-1] // 2)]


def _swiglu(node: ir.Node, shapes: Given) -> list[Dims | None]:
    apart = len(shapes) > 1 and shapes[1] is not None
    return [there(shapes, 0)] if apart else _halved(node, shapes)


def _router_and_gate(node: ir.Node, shapes: Given) -> list[Dims | None]:
    x, experts = there(shapes, 0), node.attributes.get_int("router_size", 0)
    return [(*x[:-1], experts), (*x[:-1], (there(shapes, 1)[1] - experts) // 2)]


def _group_router(node: ir.Node, shapes: Given) -> list[Dims | None]:
    return [(math.prod(there(shapes, 0)[:-1]), there(shapes, 1)[0])] * len(node.outputs)


def _rotated_heads(node: ir.Node, shapes: Given) -> list[Dims | None]:
    """RMSNormRotary: (batch, tokens, heads, stride), of which a part is taken."""
    x, width = there(shapes, 0), there(shapes, 1)[0]
    if node.attributes.get_int("flatten_batch", 0):
        raise ValueError("its batch is flattened")
    return [(*x[:2], x[2] * width), (*x[:3], width)]


def _without_padding(node: ir.Node, shapes: Given) -> list[Dims | None]:
    x = there(shapes, 0)
    return [(None, x[2]), x[:2], (x[0] + 1,), (1,)]


def _with_padding(node: ir.Node, shapes: Given) -> list[Dims | None]:
    return [(*there(shapes, 1), there(shapes, 0)[-1])]


def _relative(node: ir.Node, shapes: Given) -> list[Dims | None]:
    return [(1, there(shapes, 0)[1], None, None)]


def _gated_relative(node: ir.Node, shapes: Given) -> list[Dims | None]:
    batch = there(shapes, 0)[0] if len(there(shapes, 0)) == 3 else there(shapes, 6)[0]
    return [(batch, *there(shapes, 2)[1:])]


def _broadcast(node: ir.Node, shapes: Given, *slots: int) -> list[Dims | None]:
    return [np.broadcast_shapes(*(there(shapes, slot) for slot in slots))]


def _two(node: ir.Node, shapes: Given) -> list[Dims | None]:
    """Integers, scale and zero point of each operand."""
    return _broadcast(node, shapes, 0, 3)


def _choice(node: ir.Node, shapes: Given) -> list[Dims | None]:
    return _broadcast(node, shapes, 0, 1, 4)


def _joined(node: ir.Node, shapes: Given) -> list[Dims | None]:
    """QLinearConcat: scale and zero point of the result, then those behind each piece."""
    pieces = [there(shapes, slot) for slot in range(2, len(shapes), 3)]
    axis = node.attributes.get_int("axis", 1) % len(pieces[0])
    total = sum(piece[axis] for piece in pieces)
    return [tuple(total if i == axis else n for i, n in enumerate(pieces[0]))]


def _one_place(node: ir.Node, shapes: Given) -> list[Dims | None]:
    x = there(shapes, 0)
    if node.attributes.get_int("channels_last", 0):
        raise ValueError("its channels stand last")
    return [(*x[:2], *(1 for _ in x[2:]))]


def _reduced(node: ir.Node, shapes: Given) -> list[Dims | None]:
    x, keep = there(shapes, 0), node.attributes.get_int("keepdims", 1)
    axes = {axis % len(x) for axis in node.attributes.get_ints("axes", None) or range(len(x))}
    return [tuple(1 if i in axes else n for i, n in enumerate(x) if keep or i not in axes)]


def _gemm(node: ir.Node, shapes: Given) -> list[Dims | None]:
    """QGemm: scales and zero points stand behind each operand."""
    return _matmul(node, (there(shapes, 0), there(shapes, 3)))


def _lstm(node: ir.Node, shapes: Given) -> list[Dims | None]:
    (steps, batch, _), (directions, hidden, _) = there(shapes, 0), there(shapes, 2)
    state = directions, batch, hidden
    return [(steps, *state), state, state]


def _columns(node: ir.Node, shapes: Given) -> list[Dims | None]:
    return [(there(shapes, 0)[0], sum(shape[-1] for shape in shapes if shape is not None))]


def _regressor(node: ir.Node, shapes: Given) -> list[Dims | None]:
    x, targets = there(shapes, 0), node.attributes.get_int("targets", 0)
    return [(x[0] if len(x) > 1 else 1, targets or node.attributes.get_int("n_targets", 1))]


_RULES: Mapping[Callable[[ir.Node, Given], list[Dims | None]], str] = {
    _same: """
        Gelu FastGelu BiasGelu QuickGelu BiasAdd RotaryEmbedding MRotaryEmbedding BiasSoftmax ScaledSiLU
        GatedRMSNorm BranchwiseRMSNorm GatedAdd GroupNorm SkipGroupNorm Trilu MoE QMoE MoEPacked
        QLinearSigmoid QLinearLeakyRelu QLinearSoftmax QuantizeLinear DequantizeLinear
    """,
    _skip: "SkipLayerNormalization SkipSimplifiedLayerNormalization",
    _each: "GemmaRotaryEmbedding",
    _gate: "LinearAttentionGate",
    _matmul: """
        FusedMatMul FusedMatMulActivation TransposeMatMul GemmFastGelu DynamicQuantizeMatMul
        MatMulIntegerToFloat MatMulInteger16
    """,
    _wide: """
        MatMulNBits MatMulNBitsQLoRA MatMulPacked MatMulBlockQuantizedFp4Weight MatMulBlockQuantizedFp8Weight
    """,
    _wide_of_4_bits: "MatMulBnb4",
    _wide_gated: "MatMulNBitsMlp",
    _wide_heads: "MatMulNBitsQkv",
    _two: "QLinearAdd QLinearMul",
    _choice: "QLinearWhere",
    _joined: "QLinearConcat",
    _one_place: "QLinearGlobalAveragePool",
    _reduced: "QLinearReduceMean",
    _gemm: "QGemm",
    _lstm: "DynamicQuantizeLSTM",
    _embeddings: "EmbedLayerNormalization QEmbedLayerNormalization",
    _gathered: "GatherBlockQuantized",
    _halved: "BiasSplitGelu",
    _swiglu: "SwiGLU",
    _router_and_gate: "RouterGateUpProj",
    _group_router: "MoEGroupRouter",
    _rotated_heads: "RMSNormRotary",
    _without_padding: "RemovePadding",
    _with_padding: "RestorePadding",
    _relative: "RelativePositionBias",
    _gated_relative: "GatedRelativePositionBias",
}

SHAPES: dict[str, Callable[[ir.Node, Given], list[Dims | None]]] = {
    **{f"com.microsoft::{name}": rule for rule, names in _RULES.items() for name in names.split()},
    **ATTENTION,
    **{f"ai.onnx.ml::{name}": _same for name in ("Imputer", "Normalizer", "Scaler")},
    **{
        f"ai.onnx.ml::{name}": _regressor
        for name in ("LinearRegressor", "SVMRegressor", "TreeEnsembleRegressor")
    },
    "ai.onnx.ml::FeatureVectorizer": _columns,
    "SimplifiedLayerNormalization": _skip,
}
"""Shapes of the outputs by those of the inputs, which are at their places (None: missing)."""

_FLOAT, _INT32 = ir.DataType.FLOAT, ir.DataType.INT32

_KINDS: dict[str, Mapping[int, int | ir.DataType | tuple[int, ir.DataType]]] = {
    **{
        f"ai.onnx.ml::{name}": {0: _FLOAT}
        for name in (
            "FeatureVectorizer",
            "LinearRegressor",
            "Normalizer",
            "SVMRegressor",
            "Scaler",
            "TreeEnsembleRegressor",
        )
    },
    **{
        f"com.microsoft::{name}": {1: 3, 2: 4}  # caches, which may hold fewer bits
        for name in ("GroupQueryAttention", "PagedAttention", "SparsePagedAttention")
    },
    **{
        f"com.microsoft::{name}": {0: 0}  # where scales are numbers that the output is none of
        for name in (
            "QLinearAdd",
            "QLinearGlobalAveragePool",
            "QLinearLeakyRelu",
            "QLinearMul",
            "QLinearReduceMean",
            "QLinearSigmoid",
            "QLinearSoftmax",
        )
    },
    "com.microsoft::DequantizeLinear": {0: 1},
    "com.microsoft::QuantizeLinear": {0: (2, ir.DataType.UINT8)},
    "com.microsoft::QGemm": {0: 8},
    "com.microsoft::QLinearConcat": {0: 1},
    "com.microsoft::QLinearWhere": {0: 1},
    "com.microsoft::EmbedLayerNormalization": {1: _INT32},
    "com.microsoft::QEmbedLayerNormalization": {1: _INT32},
    "com.microsoft::GatedDeltaNet": {1: _FLOAT},
    "com.microsoft::LinearAttention": {1: 3},
    "com.microsoft::MatMulInteger16": {0: _INT32},
    "com.microsoft::RemovePadding": {1: _INT32, 2: _INT32, 3: _INT32},
}
"""Types of outputs, or the inputs that they are those of (and which where that is missing), where not the
first input of numbers says it."""


def kind_of(name: str, index: int, inputs: Sequence[ir.DataType | None]) -> ir.DataType:
    """Type of output ``index`` of the operator ``name``, by those of its inputs (None: missing)."""
    there = [kind for kind in inputs if kind is not None]
    first = [*(kind for kind in there if kind.is_floating_point()), *there][0]
    said = _KINDS.get(name, {}).get(index)
    if isinstance(said, ir.DataType):
        return said
    slot, missing = said if isinstance(said, tuple) else (said, first)
    return (inputs[slot] if slot is not None and slot < len(inputs) else None) or missing
