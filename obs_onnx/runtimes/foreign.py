"""Operators that a runtime does not have: plugins of another runtime, custom operators without their
library."""

from __future__ import annotations

from collections.abc import Collection

import onnx
import onnx_ir as ir
from onnx_ir.traversal import RecursiveGraphIterator

from obs_onnx.io.onnx_file import serialize
from obs_onnx.passes.errors import ModelError
from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.graph.names import named
from obs_onnx.passes.ops import TABLE, key
from obs_onnx.runtimes.base import Runtime

__all__ = ["foreign_operators"]

_UNKNOWN = ("not a registered", "No Op registered", "Could not find an implementation", "unsupported")


def foreign_operators(runtime: Runtime, model: ir.Model) -> Collection[str]:
    """Operators of ``model`` that the runtime does not know, as keys of the operator tables.

    Those that neither ONNX nor this program knows are tried, each in a model of its own.

    Args:
        runtime: where they would run.
        model: without functions, with types inferred as far as they can be.
    """
    found: dict[str, bool] = {}
    for node in RecursiveGraphIterator(model.graph):
        name = key(node)
        if name not in found:
            known = name in TABLE or onnx.defs.has(node.op_type, node.domain)
            found[name] = not known and _refused(runtime, node, model)
    return [name for name, refused in found.items() if refused]


def _refused(runtime: Runtime, node: ir.Node, model: ir.Model) -> bool:
    """Whether a model of this node alone, with its own constants, does not load."""
    copies = [
        value
        and ir.Value(
            name=f"x{i}",
            type=node_facts.type_of(value),
            shape=value.shape,
            const_value=value.const_value and named(value.const_value, f"x{i}"),
        )
        for i, value in enumerate(node.inputs)
    ]
    given = [value for value in copies if value is not None]
    outputs = [ir.Value(name=f"y{i}", type=y.type, shape=y.shape) for i, y in enumerate(node.outputs)]
    alone = ir.Node(node.domain, node.op_type, copies, tuple(node.attributes.values()), outputs=outputs)
    graph = ir.Graph(
        [value for value in given if value.const_value is None],
        outputs,
        nodes=[alone],
        initializers=[value for value in given if value.const_value is not None],
        opset_imports={"": 1, node.domain: 1, **model.opset_imports},
        name="alone",
    )
    try:
        runtime.session(serialize(ir.Model(graph, ir_version=max(model.ir_version, 4))))
    except ModelError as error:
        typed = all(value.type is not None for value in given)
        return typed or any(words in str(error) for words in _UNKNOWN)
    return False
