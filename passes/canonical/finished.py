"""The form in which a model is written: what was only there to work with it is gone."""

from __future__ import annotations

import onnx_ir as ir

from obs_onnx.passes.canonical.own_constants import ShareConstants
from obs_onnx.passes.canonical.plainer.written_form import WriteForms

__all__ = ["finished"]


def finished(model: ir.Model, original: ir.Model) -> ir.Model:
    """A copy of ``model`` to be written.

    1. Weights in blocks that were opened are packed.
    2. Copies of a constant that still hold the same are one initializer again.
    3. Types and shapes inside the graph are declared if ``original`` declared any.

    Args:
        model: made from ``original``.
        original: as it was read.
    """
    copy = model.clone()
    WriteForms().call(copy)  # 1.
    ShareConstants().call(copy)  # 2.
    if not any(_declared(value) for node in original.graph for value in node.outputs):  # 3.
        for node in copy.graph.all_nodes():
            for value in filter(_declared, node.outputs):
                value.type = None
                value.shape = None
    return copy


def _declared(value: ir.Value) -> bool:
    return (value.type is not None or value.shape is not None) and not value.is_graph_output()
