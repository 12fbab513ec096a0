"""Shapes that symbolic inference does not find: ranks and fixed sizes behind shape arithmetic."""

from __future__ import annotations

import onnx_ir as ir

from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.shapes.concrete import concretize

__all__ = ["CompleteShapes"]


class CompleteShapes(ir.passes.InPlacePass):
    """Fill in what follows from concrete sizes of the inputs, where a rank or a size is unknown.

    1. A graph with all ranks known is left alone.
    2. A size that is the same for two choices of the symbolic sizes is taken for fixed, others stay unknown.
    3. An output without a type, of an operator that ONNX does not know, has the one that came with its sizes,
       or that of the node's first input.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass on ``model``."""
        outputs = [output for node in model.graph for output in node.outputs if output.name]
        if all(node_facts.dims(output) is not None for output in outputs):  # 1.
            return ir.passes.PassResult(model, modified=False)
        found, modified = concretize(model), False
        for output in outputs:
            sizes = found.shapes.get(output)
            if sizes is not None and (output.shape is None or len(output.shape) == len(sizes)):
                modified |= _complete(output, sizes, found.dynamic[output])
            if output.type is None and output in found.dtypes:
                output.type, modified = ir.TensorType(found.dtypes[output]), True
            producer = output.producer()
            first = None if producer is None or not producer.inputs else producer.inputs[0]
            if output.type is None and first is not None:  # 3.
                output.type, modified = first.type, True
        return ir.passes.PassResult(model, modified)


def _complete(output: ir.Value, sizes: tuple[int, ...], dynamic: tuple[bool, ...]) -> bool:
    before = [None] * len(sizes) if output.shape is None else list(output.shape)
    after = [
        dim if isinstance(dim, int) or varies else size  # 2.
        for dim, size, varies in zip(before, sizes, dynamic, strict=True)
    ]
    output.shape = ir.Shape(after)
    return after != before
