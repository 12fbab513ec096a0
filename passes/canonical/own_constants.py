"""The form of a model in which channels are looked for: canonical, and every small constant has one user."""

from __future__ import annotations

from collections.abc import Hashable

import onnx_ir as ir

from obs_onnx.passes.canonical.bare_integers import BareIntegers
from obs_onnx.passes.canonical.canonicalize import canonicalize, plain
from obs_onnx.passes.canonical.plainer.blocks import OpenBlocks
from obs_onnx.passes.canonical.plainer.decompose import Decompose
from obs_onnx.passes.canonical.plainer.integer_layers import OpenIntegers
from obs_onnx.passes.errors import boundary
from obs_onnx.passes.graph.names import COPY_OF, Names
from obs_onnx.passes.ops import lookup
from obs_onnx.passes.shapes.concrete import optional_inputs
from obs_onnx.passes.shapes.infer_shapes import InferShapes

__all__ = ["OwnConstants", "ShareConstants", "prepare", "with_open_blocks"]

_SMALL = 1024  # elements of a matrix or kernel that still gets a copy for each use


def prepare(model: ir.Model, canonical: bool = True) -> ir.Model:
    """A copy of ``model`` whose vectors, scalars and small matrices belong to one use each.

    Args:
        model: any model; large tensors are shared with the copy.
        canonical: bring it to canonical form first. Otherwise functions are inlined and constants become
            initializers, but initializers keep the layout they have in ``model`` (as ``keep.json`` wants it).

    Raises:
        ModelError: see :func:`obs_onnx.passes.canonical.canonicalize.canonicalize`.
    """
    copy = canonicalize(model) if canonical else plain(model)
    with boundary("the model cannot be brought to the form in which channels are looked for"):
        if not canonical:
            OpenIntegers().call(copy)
        if canonical:
            _open_blocks(copy)
        else:
            OpenBlocks().call(copy)
            InferShapes().call(copy)
        Decompose().call(copy)
        OwnConstants().call(copy)
        return copy


def with_open_blocks(model: ir.Model) -> ir.Model:
    """A copy of a canonical model whose weights lie in no blocks (see :class:`OpenBlocks`)."""
    copy = model.clone()
    with boundary("the model cannot be written without blocks"):
        _open_blocks(copy)
    return copy


def _open_blocks(model: ir.Model) -> None:
    if OpenBlocks().call(model).modified:
        BareIntegers().call(model)
        InferShapes().call(model)


class OwnConstants(ir.passes.InPlacePass):
    """Give every use of a small or one-dimensional initializer an initializer of its own.

    1. The first use keeps the name; the names of the others are the same every time.
    2. Larger tensors stay shared: tied weights shrink alike or not at all.
    3. Defaults of graph inputs stay as they are, and so do graph outputs.
    4. Whoever asks for a shape is no use: it stays with the first one.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass on ``model``."""
        names, optional, modified = Names(model), optional_inputs(model), False
        for value in list(model.graph.initializers.values()):
            tensor = value.const_value
            if tensor is None or value.is_graph_output() or value in optional:  # 3.
                continue
            wide = sum(dim > 1 for dim in tensor.shape.numpy()) > 1
            if wide and tensor.size >= _SMALL:  # 2.
                continue
            uses = [use for use in value.uses() if not lookup(use.node).shape_only]  # 4.
            for node, index in uses[1:]:
                node.replace_input_with(index, names.copy(value))  # 1.
                modified = True
        return ir.passes.PassResult(model, modified)


class ShareConstants(ir.passes.InPlacePass):
    """Make copies of an initializer that still hold the same one again, so that the file holds it once."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass on ``model``."""
        first: dict[tuple[Hashable, ...], ir.Value] = {}
        shared = []
        copied = {value.meta[COPY_OF] for value in model.graph.initializers.values() if COPY_OF in value.meta}
        for value in model.graph.initializers.values():
            tensor = value.const_value
            if tensor is None or value.is_graph_input() or value.is_graph_output():
                continue
            family = str(value.meta.get(COPY_OF, value.name))
            if family not in copied:
                continue
            one = first.setdefault((family, str(tensor.dtype), tuple(tensor.shape), _held(tensor)), value)
            if one is not value and COPY_OF in value.meta:
                value.replace_all_uses_with(one)
                shared.append(value)
        for value in shared:
            del model.graph.initializers[str(value.name)]
        return ir.passes.PassResult(model, bool(shared))


def _held(tensor: ir.TensorProtocol) -> Hashable:
    """What equal tensors have in common."""
    return tuple(tensor.string_data()) if isinstance(tensor, ir.StringTensor) else tensor.tobytes()
