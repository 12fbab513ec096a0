"""A part of a graph as a model of its own."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from obs_onnx.passes.graph.usage import is_used

__all__ = ["extract"]


def extract(model: ir.Model, inputs: Iterable[str], outputs: Iterable[str]) -> ir.Model:
    """The part of ``model`` between values, as a model of its own (tensors are shared, not copied).

    Args:
        model: any model; it is not changed.
        inputs: values at which the part starts; those it does not reach are dropped. An initializer
            named here becomes an input that has to be fed.
        outputs: values it has to give; none of them may be among the inputs.

    Raises:
        ValueError: if the inputs do not bound the part.
    """
    names = list(dict.fromkeys(inputs))
    graph = ir.convenience.extract(model.graph, names, list(dict.fromkeys(outputs)))
    kept = [value for value in graph.inputs if is_used(value)]
    graph.inputs.clear()
    graph.inputs.extend(kept)
    for value in kept:
        graph.initializers.pop(str(value.name), None)
    version = max(model.ir_version, 4)  # before, initializers had to be inputs as well
    part = ir.Model(graph, ir_version=version, functions=list(model.functions.values()))
    part.opset_imports.update(model.opset_imports)
    return part
