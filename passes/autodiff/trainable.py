"""Which constants of a model training changes: what a framework would have made parameters."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.layers.find_layers import find_layers
from obs_onnx.passes.ops import lookup

__all__ = ["trainable"]


def trainable(model: ir.Model) -> list[str]:
    """Names of weights and biases of layers, scales and shifts of normalizations, and the like.

    Weights that are stored as integers, masks, embedding tables and other constants are left out: a graph
    does not tell them from each other.
    """
    return list(dict.fromkeys(_names(model)))


def _names(model: ir.Model) -> Iterator[str]:
    for layer in find_layers(model)[0]:
        if layer.integers is None:
            yield layer.name
        yield from (use.bias for use in layer.uses if use.bias is not None and use.bias_integers is None)
    for node in model.graph:
        for index in lookup(node).learnt:
            value = node_facts.input_of(node, index)
            if value is not None and value.is_initializer() and not value.is_graph_output():
                yield str(value.name)
