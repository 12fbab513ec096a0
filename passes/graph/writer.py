"""New nodes beside an old one.

(:class:`onnx_ir.tape.Tape` appends to the end of a graph only, and gives new values neither names nor types.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.graph.names import Names

__all__ = ["Writer", "append", "take_over"]


class Writer:
    """Writes nodes in front of ``node`` (or behind it), and constants, under names of their own."""

    def __init__(self, names: Names, node: ir.Node) -> None:
        assert isinstance(node.graph, ir.Graph)
        self.names, self.node, self.graph = names, node, node.graph

    def constant(self, array: NDArray[Any], dtype: ir.DataType | None = None) -> ir.Value:
        """A new initializer; with ``dtype`` the array is cast to it."""
        kept = np.array(array, None if dtype is None else dtype.numpy(), order="C")
        return self.names.initializer(f"{self.node.name}.constant", ir.Tensor(kept, dtype=dtype))

    def op(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        *attributes: ir.Attr,
        behind: bool = False,
        domain: str = "",
    ) -> ir.Value:
        """The only output of a new node, of the type of its first input of data."""
        (output,) = self.ops(op_type, inputs, *attributes, behind=behind, domain=domain)
        return output

    def ops(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        *attributes: ir.Attr,
        outputs: int = 1,
        behind: bool = False,
        domain: str = "",
    ) -> Sequence[ir.Value]:
        """All outputs of a new node, of the type of its first input of data where that is known."""
        name = self.names.fresh(f"{self.node.name}.{op_type}")
        node = ir.Node(domain, op_type, inputs, attributes, num_outputs=outputs, name=name)
        like = inputs[1 if op_type == "Where" else 0]
        kind = ir.DataType.INT64 if op_type == "Shape" else None if like is None else node_facts.dtype(like)
        for k, output in enumerate(node.outputs):
            output.name = self.names.fresh(f"{name}.{k}")
            output.type = ir.TensorType(kind) if kind else None
        if behind:
            self.graph.insert_after(self.node, node)
            self.node = node
        else:
            self.graph.insert_before(self.node, node)
        return node.outputs


def append(names: Names, output: ir.Value, last: ir.Value) -> None:
    """Let ``last``, computed from ``output`` by new nodes, serve whoever used ``output`` before."""
    follower = next(use for use in output.uses() if use.node.graph is output.graph and _leads(use.node, last))
    take_over(names, output, last)
    follower.node.replace_input_with(follower.idx, output)


def _leads(node: ir.Node, last: ir.Value) -> bool:
    """True when ``last`` is computed from ``node`` along single uses."""
    while last not in node.outputs:
        uses = list(node.outputs[0].uses())
        if len(uses) != 1:
            return False
        node = uses[0].node
    return True


def take_over(names: Names, old: ir.Value, new: ir.Value) -> None:
    """Let ``new`` serve wherever ``old`` does, under its name, so that what is known of it stays true."""
    if old.is_graph_output():
        new.shape, new.type = old.shape, old.type
    if old.is_graph_output() or not new.is_graph_output():
        name, old.name = old.name, names.fresh(f"{old.name}.replaced")
        new.name = name
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
