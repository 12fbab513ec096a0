"""Layers that a runtime's optimizer has fused with their neighbours are written apart again.

onnxruntime saves what it fuses when a model goes through its optimizer, and fuses the same again whenever it
loads a model. Apart, the layer is one of the standard operators, whose weights may be pruned and refitted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from obs_onnx.passes.canonical.plainer.norms import gated_product, products_of_heads, skipped
from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.graph.names import Names
from obs_onnx.passes.graph.usage import is_used
from obs_onnx.passes.graph.writer import Writer, take_over
from obs_onnx.passes.ops import key, lookup
from obs_onnx.passes.shapes.schemas import schema_of

__all__ = ["Unfuse"]

_PARAMETERS: Mapping[str, tuple[str, ...]] = {
    "Clip": ("min", "max"),
    "Elu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"),
    "HardSwish": (),
    "LeakyRelu": ("alpha",),
    "Relu": (),
    "Selu": ("alpha", "gamma"),
    "Sigmoid": (),
    "Softplus": (),
    "Softsign": (),
    "Tanh": (),
    "ThresholdedRelu": ("alpha",),
}
"""Activations that onnxruntime fuses, and their parameters in the order of ``activation_params``."""

_NORMALIZATION_OPSET = 17  # the first with LayerNormalization
_EMBED_EPSILON = 1e-12  # where the node says none
_TO_FIRST, _TO_LAST = (0, 3, 1, 2), (0, 2, 3, 1)  # where the channels go


class Unfuse(ir.passes.InPlacePass):
    """Write fused layers with a constant weight as the layer and what follows it.

    1. FusedConv is Conv, the addition of a fourth input, and an activation; FusedGemm is Gemm and one.
    2. FusedMatMul is MatMul of transposed operands, times ``alpha``.
    3. GemmFastGelu is MatMul and FastGelu; the bias of BiasGelu, FastGelu is an Add.
    4. NhwcConv is Conv between two Transposes.
    5. EmbedLayerNormalization is the sum of rows of two or three tables, and LayerNormalization.
    6. SkipLayerNormalization and SkipSimplifiedLayerNormalization are Add and what is left of their names.
    7. MatMulNBitsMlp and MatMulNBitsQkv are such a norm, MatMulNBits of each weight, and a gate.

    A node with an activation, an attribute or an input that is not known stays as it is.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass on ``model``, whose constants are initializers."""
        count = 0
        for node in list(model.graph):
            rule = _RULES.get(key(node))
            if rule is None or lookup(node).foreign is not None:
                continue
            with node_facts.inside(node):
                write = Writer(Names(model), node)
                result = rule(write, node)
            if result is not None:
                old = node.outputs[0]
                result.shape, result.type = result.shape or old.shape, result.type or old.type
                take_over(write.names, node.outputs[0], result)
                model.graph.remove(node, safe=True)
                count += 1
        return ir.passes.PassResult(model, modified=bool(count))


def _fused_conv(write: Writer, node: ir.Node) -> ir.Value | None:
    activation = _activation(node, node.attributes.get_floats("activation_params", ()))
    if activation is None or node_facts.constant(node, 1) is None:
        return None
    kept = [a for name, a in node.attributes.items() if name in _attributes(node, "Conv")]
    y = write.op("Conv", node.inputs[:3], *kept)
    if node_facts.input_of(node, 3) is not None:
        y = write.op("Add", [y, node.inputs[3]])
    return activation(write, y)


def _fused_gemm(write: Writer, node: ir.Node) -> ir.Value | None:
    names = _PARAMETERS.get(node_facts.text_attribute(node, "activation", ""), ())
    given = [node.attributes.get_float(f"activation_{name}", None) for name in names]
    activation = _activation(node, [] if None in given else [float(x) for x in given if x is not None])
    if activation is None or not _has_weight(node):
        return None
    kept = [a for name, a in node.attributes.items() if name in _attributes(node, "Gemm")]
    return activation(write, write.op("Gemm", node.inputs, *kept))


def _fused_matmul(write: Writer, node: ir.Node) -> ir.Value | None:
    if not _has_weight(node) or node_facts.int_attribute(node, "transBatchA"):
        return None
    if node_facts.int_attribute(node, "transBatchB"):
        return None
    operands = list(node.inputs)
    for index, name in enumerate(("transA", "transB")):
        if node_facts.int_attribute(node, name):
            turned = _turned(write, node, index)
            if turned is None:
                return None
            operands[index] = turned
    y = write.op("MatMul", operands)
    alpha = node_facts.float_attribute(node, "alpha", 1.0)
    if alpha != 1.0:
        y = write.op("Mul", [y, write.constant(np.array(alpha), _weight_type(node))])
    return y


def _gemm_gelu(write: Writer, node: ir.Node) -> ir.Value | None:
    if node_facts.constant(node, 1) is None:
        return None
    y = write.op("MatMul", node.inputs[:2])
    if node_facts.input_of(node, 2) is not None:
        y = write.op("Add", [y, node.inputs[2]])
    return write.op("FastGelu", [y], domain=node.domain)


def _bias_gelu(write: Writer, node: ir.Node) -> ir.Value | None:
    if node_facts.constant(node, 1) is None:
        return None
    y = write.op("Add", node.inputs[:2])
    return write.op({"BiasGelu": "Gelu"}.get(node.op_type, node.op_type), [y], domain=node.domain)


def _nhwc_conv(write: Writer, node: ir.Node) -> ir.Value | None:
    if node_facts.constant(node, 1) is None:
        return None
    to_first, to_last = (ir.AttrInt64s("perm", perm) for perm in (_TO_FIRST, _TO_LAST))
    x, w = (write.op("Transpose", [value], to_first) for value in node.inputs[:2])
    y = write.op("Conv", [x, w, *node.inputs[2:]], *node.attributes.values())
    return write.op("Transpose", [y], to_last)


def _embedded(write: Writer, node: ir.Node) -> ir.Value | None:
    ids, segments, words, places, kinds, scale, shift = node.inputs[:7]
    given = (ids, words, places, scale, shift)
    opset = write.graph.opset_imports.get("") or 1
    if None in given or (len(node.outputs) > 1 and is_used(node.outputs[1])) or opset < _NORMALIZATION_OPSET:
        return None
    where = node_facts.input_of(node, 8)
    if where is None:
        length = write.op("Gather", [write.op("Shape", [ids]), write.constant(np.array(1))])
        where = write.op("Range", [write.constant(np.array(0)), length, write.constant(np.array(1))])
    total = write.op("Add", [write.op("Gather", [words, ids]), write.op("Gather", [places, where])])
    if segments is not None and kinds is not None:
        total = write.op("Add", [total, write.op("Gather", [kinds, segments])])
    epsilon = ir.AttrFloat32("epsilon", node_facts.float_attribute(node, "epsilon", _EMBED_EPSILON))
    if len(node.outputs) > 2 and is_used(node.outputs[2]):
        take_over(write.names, node.outputs[2], total)
    return write.op("LayerNormalization", [total, scale, shift], ir.AttrInt64("axis", -1), epsilon)


def _activation(node: ir.Node, parameters: Sequence[float]) -> Callable[[Writer, ir.Value], ir.Value] | None:
    """What applies the activation of ``node``; None for one that is not known."""
    name = node_facts.text_attribute(node, "activation", "")
    if not name:
        return lambda write, y: y
    names = _PARAMETERS.get(name)
    if names is None or len(parameters) not in (0, len(names)):
        return None

    def apply(write: Writer, y: ir.Value) -> ir.Value:
        if set(names) <= _attributes(node, name):
            return write.op(name, [y], *map(ir.AttrFloat32, names, parameters))
        kind = _weight_type(node)
        return write.op(name, [y, *(write.constant(np.array(p), kind) for p in parameters)])

    return apply


def _attributes(node: ir.Node, op_type: str) -> set[str]:
    """Attributes of a standard operator in the model of ``node``."""
    graph = node.graph
    assert graph is not None
    schema = schema_of("", op_type, graph.opset_imports.get("", 1))
    return set() if schema is None else set(schema.attributes)


def _has_weight(node: ir.Node) -> bool:
    return any(node_facts.constant(node, index) is not None for index in (0, 1))


def _weight_type(node: ir.Node) -> ir.DataType | None:
    found = [tensor for index in (0, 1) if (tensor := node_facts.constant(node, index)) is not None]
    return found[0].dtype if found else None


def _turned(write: Writer, node: ir.Node, index: int) -> ir.Value | None:
    """An operand with its last two axes swapped; None where their places are not known."""
    value = node.inputs[index]
    dims = node_facts.dims(value)
    if dims is None or len(dims) < 2:
        return None
    perm = [*range(len(dims) - 2), len(dims) - 1, len(dims) - 2]
    return write.op("Transpose", [value], ir.AttrInt64s("perm", perm))


_RULES: Mapping[str, Callable[[Writer, ir.Node], ir.Value | None]] = {
    "com.microsoft::BiasGelu": _bias_gelu,
    "com.microsoft::EmbedLayerNormalization": _embedded,
    "com.microsoft::FastGelu": _bias_gelu,
    "com.microsoft::FusedConv": _fused_conv,
    "com.microsoft::FusedGemm": _fused_gemm,
    "com.microsoft::FusedMatMul": _fused_matmul,
    "com.microsoft::GemmFastGelu": _gemm_gelu,
    "com.microsoft::MatMulNBitsMlp": gated_product,
    "com.microsoft::MatMulNBitsQkv": products_of_heads,
    "com.microsoft::NhwcConv": _nhwc_conv,
    "com.microsoft::SkipLayerNormalization": skipped,
    "com.microsoft::SkipSimplifiedLayerNormalization": skipped,
    "com.microsoft::TransposeMatMul": _fused_matmul,
}
