"""Fresh names and new initializers."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

import onnx_ir as ir
from onnx_ir.traversal import RecursiveGraphIterator

from obs_onnx.passes.graph.usage import is_used

__all__ = ["COPY_OF", "Names", "add_initializer", "chosen", "named", "remove_if_unused"]

COPY_OF = "obs_onnx.copy_of"
"""Key in ``Value.meta`` of a copied initializer: name of the one it was copied from."""


def chosen(pattern: str, names: Iterable[str]) -> set[str]:
    """Those of ``names`` that a user means: the one that is written so, else all that match a shell pattern.

    Names of weights have brackets and stars of their own (``blocks[0].weight``).
    """
    known = set(names)
    return {pattern} & known or {name for name in known if fnmatchcase(name, pattern)}


class Names:
    """All names of values and nodes of a model; hands out new ones and registers initializers under them."""

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._used = {str(value.name) for graph in model.graphs() for value in graph.inputs}
        self._used.update(name for graph in model.graphs() for name in graph.initializers)
        for node in RecursiveGraphIterator(model.graph):
            self._used.add(str(node.name))
            self._used.update(str(output.name) for output in node.outputs)

    def fresh(self, base: str) -> str:
        """``base``, or ``base`` with a number where that is taken."""
        name, count = base, 0
        while name in self._used:
            count += 1
            name = f"{base}_{count}"
        self._used.add(name)
        return name

    def initializer(self, base: str, tensor: ir.TensorProtocol) -> ir.Value:
        """A new initializer of the main graph, named after ``base``, that shares the data of ``tensor``."""
        name = self.fresh(base)
        tensor = named(tensor, name)
        value = ir.Value(
            name=name,
            shape=ir.Shape(tensor.shape.numpy()),
            type=ir.TensorType(tensor.dtype),
            const_value=tensor,
        )
        add_initializer(self._model, value)
        return value

    def copy(self, value: ir.Value) -> ir.Value:
        """A new initializer with the data of the initializer ``value``, marked as a copy of it."""
        assert value.const_value is not None, value
        own = self.initializer(str(value.name), value.const_value)
        own.meta[COPY_OF] = value.meta.get(COPY_OF, value.name)
        return own


def named(tensor: ir.TensorProtocol, name: str) -> ir.TensorProtocol:
    """The same data under another name (a tensor takes its value's name, so it must not serve two values)."""
    if tensor.name == name or tensor.dtype == ir.DataType.STRING:
        return tensor
    return ir.LazyTensor(lambda: tensor, tensor.dtype, ir.Shape(tensor.shape.numpy()), name=name)


def add_initializer(model: ir.Model, value: ir.Value) -> None:
    """Register ``value`` in the main graph; before IR version 4 every initializer is an input as well."""
    model.graph.register_initializer(value)
    if model.ir_version < 4:
        model.graph.inputs.append(value)


def remove_if_unused(model: ir.Model, value: ir.Value | None) -> None:
    """Drop an initializer of the main graph that nothing uses any more."""
    if value is None or is_used(value):
        return
    name = str(value.name)
    if model.graph.initializers.get(name) is not value:
        return
    if value.is_graph_input():
        if model.ir_version >= 4:
            return
        model.graph.inputs.remove(value)
    del model.graph.initializers[name]
