"""Multiply-accumulates of a model, from its static shapes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import cast

import onnx_ir as ir

from obs_onnx.passes.canonical.plainer.integer_forms import FORMS
from obs_onnx.passes.graph.node_facts import INFERRED, inside
from obs_onnx.passes.ops import key, lookup

__all__ = ["MacCounter", "count_macs", "in_integers", "macs_per_node"]

_LAYERS = {form.op_type for form in FORMS.values()}


def macs_per_node(model: ir.Model, shapes: Mapping[str, Sequence[int]] | None = None) -> dict[str, int]:
    """Multiply-accumulates of each node of the main graph that has any, by node name.

    A symbolic dimension counts as one, so that a model with a free batch is counted for one example.

    Args:
        model: in canonical form.
        shapes: value name -> shape of one run, for values whose shapes depend on computed numbers (a Reshape
            or Pad by a computed tensor) and cannot be inferred; other values keep their inferred shapes.
    """
    if shapes:
        model = model.clone()
        for node in model.graph:
            for value in (*node.inputs, *node.outputs):
                shape = None if value is None else shapes.get(str(value.name))
                if value is not None and shape is not None:
                    value.shape = ir.Shape(shape)
                    value.meta.pop(INFERRED, None)
    counts = {}
    for node in model.graph:
        op = lookup(node)
        if op.macs is not None:
            with inside(node):
                counts[str(node.name)] = op.macs(node)
    return counts


def count_macs(model: ir.Model, shapes: Mapping[str, Sequence[int]] | None = None) -> int:
    """Multiply-accumulates of one run of the main graph of a canonical model; see :func:`macs_per_node`."""
    return sum(macs_per_node(model, shapes).values())


def in_integers(node: ir.Node) -> bool:
    """Whether a product may be computed in integers: both of its factors are made of integers."""
    if key(node) in FORMS:
        return True
    made = [None if value is None else value.producer() for value in node.inputs[:2]]
    return key(node) in _LAYERS and all(one is not None and one.op_type == "DequantizeLinear" for one in made)


class MacCounter:
    """Counts multiply-accumulates of nodes at any sizes of their values, quickly and without touching them.

    Attributes:
        values: whose shapes matter.
    """

    def __init__(self, nodes: Iterable[ir.Node]) -> None:
        counted = [(node, op.macs) for node in nodes if (op := lookup(node)).macs]
        self.values = list({v: None for node, _ in counted for v in (*node.inputs, *node.outputs) if v})
        self._sized = {value: SimpleNamespace(shape=(), const_value=None, meta={}) for value in self.values}
        self._counts = [(self._stand_in(node), count) for node, count in counted]

    def _stand_in(self, node: ir.Node) -> ir.Node:
        """Has the attributes of ``node`` and values that are nothing but shapes."""
        inputs = [None if value is None else self._sized[value] for value in node.inputs]
        outputs = [self._sized[value] for value in node.outputs]
        return cast(ir.Node, SimpleNamespace(attributes=node.attributes, inputs=inputs, outputs=outputs))

    def __call__(self, shapes: Mapping[ir.Value, Sequence[int]]) -> int:
        """Multiply-accumulates when the values have ``shapes``; one that is missing counts as a number."""
        for value, sized in self._sized.items():
            sized.shape = shapes.get(value, ())
        return sum(count(node) for node, count in self._counts)
