"""The canonical form: what every later stage may take for granted about a model.

* no calls of local functions, and no Constant nodes: every constant is an initializer;
* weights do not hide behind Transpose, Reshape, Cast, weight normalization and the like;
* every node has a name of its own, and every per-output bias belongs to one node;
* BatchNormalization is folded into the linear operator in front of it where that is exact;
* all shapes that ONNX can infer are there.

Names, shapes and order of the model's inputs and outputs, and its numbers up to rounding, stay as they were.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass, NameFixPass

from obs_onnx.passes.canonical.fold_batchnorm import FoldBatchNormalization
from obs_onnx.passes.canonical.fold_weight_expressions import FoldWeightExpressions
from obs_onnx.passes.canonical.lift_constants import FoldConstantViews, LiftConstants
from obs_onnx.passes.canonical.own_biases import OwnBiases
from obs_onnx.passes.errors import ModelError
from obs_onnx.passes.shapes.infer_shapes import InferShapes

__all__ = ["canonicalize", "plain"]


def canonicalize(model: ir.Model) -> ir.Model:
    """A copy of ``model`` in canonical form; tensors that stay as they were are shared with the original.

    Raises:
        ModelError: functions of the model call each other in a circle or use another opset than the model, or
            its shapes contradict each other.
    """
    copy = plain(model)
    for step in (
        FoldConstantViews(),
        InferShapes(),
        FoldWeightExpressions(),
        OwnBiases(),
        FoldBatchNormalization(),
    ):
        step.call(copy)
    return copy


def plain(model: ir.Model) -> ir.Model:
    """A copy of ``model`` without functions and Constant nodes, everything named; weights stay as they are.

    Raises:
        ModelError: functions call each other in a circle or use another opset than the model.
    """
    copy = model.clone()
    _inline(copy)
    for body in copy.graph.subgraphs():  # whoever looks at a node there wants to know its version
        body.opset_imports.update(copy.graph.opset_imports)
    NameFixPass(_NamesByOperator())(copy)
    LiftConstants().call(copy)
    return copy


def _inline(model: ir.Model) -> None:
    if not model.functions:
        return
    step = InlinePass()
    try:
        step.requires(model)
        step.call(model)
    except (ValueError, ir.passes.PreconditionError) as error:
        raise ModelError(f"the functions of the model cannot be inlined: {error}") from error


class _NamesByOperator:
    """Names for nodes and values without one."""

    def generate_node_name(self, node: ir.Node) -> str:
        """Its own name, or its operator's."""
        return node.name or node.op_type

    def generate_value_name(self, value: ir.Value) -> str:
        """Its own name, or one made from its producer's operator."""
        producer = value.producer()
        return value.name or (f"{producer.op_type}_output" if producer is not None else "value")
