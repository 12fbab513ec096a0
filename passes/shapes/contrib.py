"""Output shapes of operators that ONNX's own inference does not know: of runtimes, and of ``ai.onnx.ml``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

__all__ = ["ALIASES", "FLOATS", "SHAPES"]

Shape = tuple[int, ...]

ALIASES = {"com.microsoft::FusedConv": "Conv", "com.microsoft::FusedGemm": "Gemm"}


def _same(node: ir.Node, shapes: Sequence[Shape]) -> list[Shape | None]:
    return [shapes[0]]


def _skip(node: ir.Node, shapes: Sequence[Shape]) -> list[Shape | None]:
    return [shapes[0], None, None, shapes[0]]


def _matmul(node: ir.Node, shapes: Sequence[Shape]) -> list[Shape | None]:
    a, b = shapes[:2]
    a = (*a[:-2], a[-1], a[-2]) if node.attributes.get_int("transA", 0) else a
    b = (*b[:-2], b[-1], b[-2]) if node.attributes.get_int("transB", 0) else b
    return [(*np.broadcast_shapes(a[:-2], b[:-2]), a[-2], b[-1])]


def _fused_attention(node: ir.Node, shapes: Sequence[Shape]) -> list[Shape | None]:
    sizes = node.attributes.get_ints("qkv_hidden_sizes", None)
    return [(*shapes[0][:2], sizes[2] if sizes else shapes[1][1] // 3)]


def _heads(node: ir.Node, shapes: Sequence[Shape]) -> list[Shape | None]:
    return [(*shapes[0][:2], shapes[2][-1])] if len(shapes) > 2 else []


def _grouped(node: ir.Node, shapes: Sequence[Shape]) -> list[Shape | None]:
    query = shapes[0]
    if all(slot < len(node.inputs) and node.inputs[slot] is not None for slot in (1, 2)):
        return [query]
    heads, shared = (node.attributes.get_int(name, 1) for name in ("num_heads", "kv_num_heads"))
    return [(*query[:2], query[2] // (heads + 2 * shared) * heads)]


def _embeddings(node: ir.Node, shapes: Sequence[Shape]) -> list[Shape | None]:
    tables = [shape for shape in shapes if len(shape) == 2][1:]
    full = (*shapes[0], tables[-1][1])
    return [full, shapes[0][:1], full]


def _columns(node: ir.Node, shapes: Sequence[Shape]) -> list[Shape | None]:
    return [(shapes[0][0], sum(shape[-1] for shape in shapes))]


def _regressor(node: ir.Node, shapes: Sequence[Shape]) -> list[Shape | None]:
    targets = node.attributes.get_int("targets", 0) or node.attributes.get_int("n_targets", 1)
    return [(shapes[0][0] if len(shapes[0]) > 1 else 1, targets)]


FLOATS = {f"ai.onnx.ml::{name}" for name in ("FeatureVectorizer", "LinearRegressor", "Normalizer", "Scaler")}
FLOATS |= {"ai.onnx.ml::SVMRegressor", "ai.onnx.ml::TreeEnsembleRegressor"}
"""Operators that give single precision, whatever numbers they take."""

SHAPES: dict[str, Callable[[ir.Node, Sequence[Shape]], list[Shape | None]]] = {
    **{
        f"com.microsoft::{name}": _same
        for name in ("Gelu", "FastGelu", "BiasGelu", "QuickGelu", "BiasAdd", "RotaryEmbedding")
    },
    **{f"ai.onnx.ml::{name}": _same for name in ("Imputer", "Normalizer", "Scaler")},
    **{
        f"ai.onnx.ml::{name}": _regressor
        for name in ("LinearRegressor", "SVMRegressor", "TreeEnsembleRegressor")
    },
    "ai.onnx.ml::FeatureVectorizer": _columns,
    "SimplifiedLayerNormalization": _same,
    "com.microsoft::SkipLayerNormalization": _skip,
    "com.microsoft::SkipSimplifiedLayerNormalization": _skip,
    "com.microsoft::FusedMatMul": _matmul,
    "com.microsoft::GemmFastGelu": _matmul,
    "com.microsoft::Attention": _fused_attention,
    "com.microsoft::MultiHeadAttention": _heads,
    "com.microsoft::GroupQueryAttention": _grouped,
    "com.microsoft::EmbedLayerNormalization": _embeddings,
}
