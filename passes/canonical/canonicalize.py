"""The canonical form: what every later stage may take for granted about a model.

* no calls of local functions, and no Constant nodes: every constant is an initializer;
* operators that are functions of others, and layers that a runtime has fused, are written out where the
  tables know more about what they consist of;
* layers that compute in integers are layers of the numbers that these stand for;
* weights do not hide behind Transpose, Reshape, Cast, weight normalization and the like; what is stored as
  integers stays so, with scales of its own;
* every node has a name of its own, and every per-output bias belongs to one node;
* BatchNormalization is folded into the linear operator in front of it where that is exact;
* all shapes that ONNX can infer are there.

Names, shapes and order of the model's inputs and outputs, and its numbers up to rounding, stay as they were.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import NameFixPass

from obs_onnx.passes.canonical.bare_integers import BareIntegers
from obs_onnx.passes.canonical.fold_batchnorm import FoldBatchNormalization
from obs_onnx.passes.canonical.fold_weight_expressions import FoldWeightExpressions
from obs_onnx.passes.canonical.lift_constants import FoldConstantViews, LiftConstants
from obs_onnx.passes.canonical.own_biases import OwnBiases
from obs_onnx.passes.canonical.plainer.functions import ExpandOperators, inline
from obs_onnx.passes.canonical.plainer.integer_layers import OpenIntegers
from obs_onnx.passes.canonical.plainer.unfuse import Unfuse
from obs_onnx.passes.errors import boundary
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
        OpenIntegers(),
        BareIntegers(),
        InferShapes(),
        FoldWeightExpressions(),
        OwnBiases(),
        FoldBatchNormalization(),
    ):
        with boundary(f"the model cannot be brought to canonical form ({type(step).__name__})"):
            step.call(copy)
    return copy


def plain(model: ir.Model) -> ir.Model:
    """A copy of ``model`` without functions and Constant nodes, everything named; weights stay as they are.

    Raises:
        ModelError: functions call each other in a circle or use another opset than the model.
    """
    with boundary("the model cannot be written without functions and Constant nodes"):
        copy = model.clone()
        _declare_tensors(copy)
        inline(copy)
        _tidy(copy)
        if ExpandOperators().call(copy).modified:
            _tidy(copy)
        if Unfuse().call(copy).modified:
            _tidy(copy)
        return copy


def _declare_tensors(model: ir.Model) -> None:
    """Initializers have the types and shapes of their tensors, whatever the file declares beside them."""
    for graph in model.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None:
                value.type = ir.TensorType(value.const_value.dtype)
                value.shape = ir.Shape(value.const_value.shape.numpy())


def _tidy(model: ir.Model) -> None:
    """Every node named, with a version of its operator, and every constant an initializer."""
    for body in model.graph.subgraphs():  # whoever looks at a node there wants to know its version
        body.opset_imports.update(model.graph.opset_imports)
    NameFixPass(_NamesByOperator())(model)
    LiftConstants().call(model)


class _NamesByOperator:
    """Names for nodes and values without one."""

    def generate_node_name(self, node: ir.Node) -> str:
        """Its own name, or its operator's."""
        return node.name or node.op_type

    def generate_value_name(self, value: ir.Value) -> str:
        """Its own name, or one made from its producer's operator."""
        producer = value.producer()
        return value.name or (f"{producer.op_type}_output" if producer is not None else "value")
