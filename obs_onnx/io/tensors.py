"""The tensors of a model: all of them, where their data lies, and copies that hold on to it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import onnx_ir as ir

from obs_onnx.io.external_data import data_file

__all__ = [
    "Referring",
    "at_home",
    "in_memory",
    "referring",
    "replace_tensors",
    "size_of",
    "tensors",
    "unmap",
]

_HELD_BYTES = 1 << 16  # smaller tensors are not worth a reference to a file


def tensors(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    """Initializers and attributes, of bodies and functions too."""
    for graph in model.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield value.const_value
    for node in _nodes(model):
        for attribute in node.attributes.values():
            if not attribute.is_ref() and attribute.type == ir.AttributeType.TENSOR:
                yield attribute.as_tensor()


def _nodes(model: ir.Model) -> Iterator[ir.Node]:
    yield from model.graph.all_nodes()
    for function in model.functions.values():
        yield from function.all_nodes()


def size_of(model: ir.Model) -> int:
    """Bytes of all tensors."""
    return sum(tensor.nbytes for tensor in tensors(model))


def replace_tensors(model: ir.Model, change: Callable[[ir.TensorProtocol], ir.TensorProtocol]) -> None:
    """Put ``change`` of every tensor in its place."""
    for graph in model.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None:
                value.const_value = change(value.const_value)
    for node in _nodes(model):
        for name, attribute in list(node.attributes.items()):
            if attribute.is_ref() or attribute.type != ir.AttributeType.TENSOR:
                continue
            tensor = attribute.as_tensor()
            if (changed := change(tensor)) is not tensor:
                node.attributes[name] = ir.AttrTensor(name, changed)


def at_home(tensor: ir.TensorProtocol, folders: Sequence[str], where: str) -> ir.TensorProtocol:
    """The tensor with the real path of its file, which has been checked, in place of a name."""
    if not isinstance(tensor, ir.ExternalTensor):
        return tensor
    location = os.fspath(tensor.location)
    return ir.ExternalTensor(
        data_file(location, folders, f"the external data {location!r} in {where}"),
        tensor.offset,
        tensor.length,
        tensor.dtype,
        shape=tensor.shape,
        name=tensor.name,
        doc_string=tensor.doc_string,
        metadata_props=dict(tensor.metadata_props),
    )


def in_memory(model: ir.Model) -> ir.Model:
    """A copy whose tensors refer to no external file; their data stays mapped.

    Initializers are not declared a second time, beside their tensors.
    """
    copy = model.clone()
    replace_tensors(copy, _held)
    for value in copy.graph.initializers.values():
        if value.const_value is not None and not (value.is_graph_input() or value.is_graph_output()):
            value.type = None
            value.shape = None
    return copy


@dataclass(frozen=True)
class Referring:
    """A model that refers to the files of its large tensors, and the folder that their names start from."""

    model: ir.Model
    folder: str


def referring(model: ir.Model) -> Referring | None:
    """A copy whose large external tensors are named relative to one folder that holds all of their files.

    All others are held. None where there are no such tensors, or no such folder (files on several drives).
    """
    outside = {os.path.realpath(one.path) for one in tensors(model) if _is_outside(one)}
    try:
        folder = os.path.commonpath([os.path.dirname(path) for path in outside])
    except ValueError:
        return None

    def named(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
        if not _is_outside(tensor):
            return _held(tensor)
        return ir.ExternalTensor(
            os.path.relpath(os.path.realpath(tensor.path), folder),
            tensor.offset,
            tensor.length,
            tensor.dtype,
            shape=tensor.shape,
            name=tensor.name,
        )

    copy = model.clone()
    replace_tensors(copy, named)
    return Referring(copy, folder)


def _is_outside(tensor: ir.TensorProtocol) -> TypeGuard[ir.ExternalTensor]:
    return isinstance(tensor, ir.ExternalTensor) and tensor.nbytes > _HELD_BYTES


def _held(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    if isinstance(tensor, ir.ExternalTensor):
        return _mapped(tensor)
    return _in_order(tensor) if isinstance(tensor, ir.Tensor) else tensor


def _mapped(tensor: ir.ExternalTensor) -> ir.TensorProtocol:
    return ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=tensor.name, doc_string=tensor.doc_string)


def _in_order(tensor: ir.Tensor[Any]) -> ir.TensorProtocol:
    """The tensor with its bytes put in order when it is written (numpy writes transposed views slowly)."""
    if not isinstance(tensor.raw, np.ndarray) or tensor.raw.flags.c_contiguous:
        return tensor
    return ir.LazyTensor(
        lambda: ir.Tensor(np.ascontiguousarray(tensor.numpy()), dtype=tensor.dtype, name=tensor.name),
        tensor.dtype,
        ir.Shape(tensor.shape.numpy()),
        name=str(tensor.name),
        doc_string=tensor.doc_string,
        metadata_props=dict(tensor.metadata_props),
    )


def unmap(model: ir.Model, side: Path) -> None:
    """Let tensors that read from ``side`` hold on to the data that is about to be replaced."""

    def unmapped(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
        reads = isinstance(tensor, ir.ExternalTensor) and os.path.realpath(tensor.path) == str(side)
        return _mapped(tensor) if isinstance(tensor, ir.ExternalTensor) and reads else tensor

    replace_tensors(model, unmapped)
