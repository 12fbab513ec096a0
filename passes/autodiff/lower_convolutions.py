"""Convolutions with few outputs per example, as matrix products over all examples."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from obs_onnx.passes.graph.names import Names
from obs_onnx.passes.ops.vjp.conv import as_product
from obs_onnx.passes.traits.vjp import Vjp

__all__ = ["LowerConvolutions"]


class LowerConvolutions(ir.passes.InPlacePass):
    """Replace each ``Conv`` of the main graph that is faster as one product; values keep their names.

    For graphs that see many examples at a time. The product keeps patches of the input, which are small where
    this applies, and its gradients are two products as large.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass on ``model``: canonical, with inferred shapes."""
        names, modified = Names(model), False
        constants: dict[Any, ir.Value] = {}
        for node in [node for node in model.graph if node.op_type == "Conv" and node.domain == ""]:
            old = node.outputs[0]
            new = as_product(Vjp(model, names, f"{node.name}.product", constants, of=node))
            if new is None:
                continue
            ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
            new.name, old.name = old.name, None
            model.graph.remove(node, safe=True)
            modified = True
        if modified:
            model.graph.sort()
        return ir.passes.PassResult(model, modified)
