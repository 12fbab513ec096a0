"""Norms that a runtime has fused with the sum in front of them, and with the products behind."""

from __future__ import annotations

import onnx_ir as ir

from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.graph.usage import is_used
from obs_onnx.passes.graph.writer import Writer, take_over

__all__ = ["SKIPS", "apart", "gated_product", "products_of_heads", "skipped"]

SKIPS = {
    "SkipLayerNormalization": "LayerNormalization",
    "SkipSimplifiedLayerNormalization": "SimplifiedLayerNormalization",
}
"""Norms of a sum, and what they are without it."""

_SKIP_EPSILON, _EPSILON = 1e-12, 1e-5  # where a node says none
_OPSET = 17  # the first with LayerNormalization
_PRODUCT = ("K", "bits", "block_size", "accuracy_level")  # attributes of MatMulNBits beside N


def skipped(write: Writer, node: ir.Node) -> ir.Value | None:
    """SkipLayerNormalization, SkipSimplifiedLayerNormalization as a sum and a norm.

    None where its statistics are used, or the opset has no such norm.
    """
    opset = write.graph.opset_imports.get("") or 1
    without = node.op_type == "SkipLayerNormalization" and opset < _OPSET
    return None if without or any(map(is_used, node.outputs[1:3])) else apart(write, node)


def apart(write: Writer, node: ir.Node) -> ir.Value:
    """The norm of a sum, which may be an output; what is used of its statistics is left out."""
    target = SKIPS[node.op_type]
    given = [node_facts.input_of(node, slot) for slot in range(5)]
    shift, bias = given[3:] if target == "LayerNormalization" else (None, given[3])
    total = write.op("Add", given[:2])
    if bias is not None:
        total = write.op("Add", [total, bias])
    epsilon = node_facts.float_attribute(node, "epsilon", _SKIP_EPSILON)
    result = _normalized(write, target, [total, given[2], *([] if shift is None else [shift])], epsilon)
    _give_sum(write, node, 3, total)
    return result


def gated_product(write: Writer, node: ir.Node) -> ir.Value | None:
    """MatMulNBitsMlp: ``silu(x gate) * (x up)``, where x may be the norm of a sum."""
    if node_facts.text_attribute(node, "activation", "") not in ("silu", "swish"):
        return None
    x = _before(write, node, 1)
    if x is None:
        return None
    count = node_facts.int_attribute(node, "N")
    gate, up = (_product(write, node, x, slot, count) for slot in (3, 6))
    return write.op("Mul", [write.op("Mul", [gate, write.op("Sigmoid", [gate])]), up])


def products_of_heads(write: Writer, node: ir.Node) -> ir.Value | None:
    """MatMulNBitsQkv: queries, keys and values of the norm of an input or of a sum."""
    x = _before(write, node, 3)
    if x is None:
        return None
    counts = [node_facts.int_attribute(node, name) for name in ("Nq", "Nkv", "Nkv")]
    query, *others = (
        _product(write, node, x, slot, count) for slot, count in zip((3, 6, 9), counts, strict=True)
    )
    for old, new in zip(node.outputs[1:3], others, strict=True):
        new.shape, new.type = new.shape or old.shape, new.type or old.type
        take_over(write.names, old, new)
    return query


def _before(write: Writer, node: ir.Node, output: int) -> ir.Value | None:
    """What is multiplied: the first input, the norm of it, or that of its sum with the second, which is
    ``output``; None for a sum without a norm."""
    x, skip, scale = (node_facts.input_of(node, slot) for slot in range(3))
    if scale is None:
        return None if skip is not None else x
    epsilon = node_facts.float_attribute(node, "epsilon", _EPSILON)
    total = x if skip is None else write.op("Add", [x, skip])
    result = _normalized(write, "SimplifiedLayerNormalization", [total, scale], epsilon)
    if skip is not None and total is not None:
        _give_sum(write, node, output, total)
    return result


def _normalized(write: Writer, op_type: str, inputs: list[ir.Value | None], epsilon: float) -> ir.Value:
    return write.op(op_type, inputs, ir.AttrInt64("axis", -1), ir.AttrFloat32("epsilon", epsilon))


def _give_sum(write: Writer, node: ir.Node, index: int, total: ir.Value) -> None:
    old = node.outputs[index] if index < len(node.outputs) else None
    if old is not None and is_used(old):
        total.shape, total.type = total.shape or old.shape, total.type or old.type
        take_over(write.names, old, total)


def _product(write: Writer, node: ir.Node, x: ir.Value, slot: int, count: int) -> ir.Value:
    """MatMulNBits of the weight, scales and bias from input ``slot`` on."""
    weight, scales, bias = (node_facts.input_of(node, slot + i) for i in range(3))
    kept = [node.attributes[name] for name in _PRODUCT if name in node.attributes]
    inputs = [x, weight, scales, *([] if bias is None else [None, None, bias])]
    return write.op("MatMulNBits", inputs, ir.AttrInt64("N", count), *kept, domain=node.domain)
