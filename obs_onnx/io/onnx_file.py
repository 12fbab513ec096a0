"""ONNX files in and out.

Reading never executes anything; external data is mapped, not read. Writing is atomic: new files appear under
their final names when they are complete, or not at all.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from obs_onnx.io.atomic_files import Together, check_writable, part_of
from obs_onnx.io.external_data import data_file, folders_of
from obs_onnx.io.onnx_checks import (
    check_counts,
    check_graph,
    check_loops,
    check_operators,
    check_opset,
    check_tensors,
    check_version,
)
from obs_onnx.io.paths import side_path
from obs_onnx.io.streams import is_stream
from obs_onnx.passes.errors import ModelError, ObsOnnxError, boundary
from obs_onnx.passes.graph.parameters import SPARSE
from obs_onnx.passes.graph.scopes import return_by_identity
from obs_onnx.passes.shapes.infer_shapes import InferShapes

__all__ = [
    "ModelLike",
    "from_proto",
    "load_model",
    "name_of",
    "open_model",
    "parse",
    "save_model",
    "serialize",
]

ModelLike = str | os.PathLike[str] | ir.Model | onnx.ModelProto
"""A model as it may be given: its file, or a model in memory."""

_PROTOBUF_BYTES = 2**31 - 1
_EXTERNAL = "obs_onnx.external_data"  # in the graph's meta: the model came with external data
_EXTERNAL_BYTES = 1024  # smaller tensors stay in the model file


def load_model(path: str | os.PathLike[str], *, custom_domains: Collection[str] = ()) -> ir.Model:
    """Read an ONNX model of opset 7 or later; weights in external files are mapped.

    Args:
        path: the file.
        custom_domains: domains of operators whose library the caller has registered.

    Raises:
        ModelError: the file is missing, is no ONNX model, is truncated or broken, lacks its external data or
            has it outside its own folder, is older than opset 7, or needs custom operators.
    """
    where = str(path)
    with boundary(f"{where} cannot be read"):
        file = Path(path)
        proto = onnx.ModelProto()
        try:
            proto.ParseFromString(_read(file, where))
        except ObsOnnxError:
            raise
        except Exception as error:  # the protobuf package's own, which has no types
            raise ModelError(
                f"{where} is not an ONNX model, or it is truncated; export or download it again"
            ) from error
        return from_proto(proto, where=where, folders=folders_of(file), custom_domains=custom_domains)


def _read(file: Path, where: str) -> bytes:
    """The bytes of a model's file; not empty."""
    if file.is_dir():
        raise ModelError(f"{where} is a folder; give the .onnx file in it")
    try:
        if file.stat().st_size > _PROTOBUF_BYTES:
            raise ModelError(
                f"{where} is larger than the 2 GB an ONNX file can have; use external data for weights"
            )
        data = file.read_bytes()
    except FileNotFoundError as error:
        raise ModelError(f"{where} does not exist; check the path of the model") from error
    except OSError as error:
        raise ModelError(f"{where} cannot be read: {error.strerror}") from error
    if not data:
        raise ModelError(f"{where} is empty; export or download the model again")
    return data


def from_proto(
    proto: onnx.ModelProto,
    *,
    where: str = "the model",
    folders: Sequence[str] = (".",),
    custom_domains: Collection[str] = (),
) -> ir.Model:
    """A checked model from a protobuf message; sparse initializers become dense.

    Args:
        proto: the message; it must not be changed afterwards.
        where: what error messages call the model.
        folders: where external data lies; :func:`obs_onnx.io.external_data.folders_of`.
        custom_domains: domains of operators whose library the caller has registered.

    Raises:
        ModelError: as for :func:`load_model`.
    """
    with boundary(f"{where} is broken"):
        check_graph(proto, where)
        check_version(proto, where)
        check_opset(proto, where)
        check_operators(proto, where, custom_domains)
        check_counts(proto, where)
        check_tensors(proto, where, folders)
        check_loops(proto, where)
        proto, sparse = _densified(proto, where)
        model = ir.from_proto(proto)
        return_by_identity(model)
        if not all(_is_sorted(graph) for graph in model.graphs()):
            model.graph.sort()
        _undeclare(model)
        model.graph.name = model.graph.name or "model"  # which the checker wants, as it does types of outputs
        if model.ir_version < 4:  # where every initializer is an input
            model.graph.inputs.extend(v for v in model.graph.initializers.values() if not v.is_graph_input())
        if any(output.type is None for output in model.graph.outputs):
            InferShapes().call(model)
        for output in model.graph.outputs:
            if output.type is None:
                raise ModelError(f"{where}: its output {output.name!r} has no type; export it again")
    with boundary(f"{where} is broken: a body reads a value that does not exist"):
        model.clone()
    _replace_tensors(model, lambda tensor: _at_home(tensor, folders, where))
    for name in sparse:
        model.graph.initializers[name].meta[SPARSE] = True
    if any(isinstance(tensor, ir.ExternalTensor) for tensor in tensors(model)):
        model.graph.meta[_EXTERNAL] = True
    return model


def serialize(model: ir.Model) -> bytes:
    """The whole model as bytes, external data included, for a runtime's session.

    Raises:
        ModelError: it is larger than the 2 GB that one message can have; save it and load it by its path.
    """
    if _size(model) > _PROTOBUF_BYTES:
        raise ModelError("the model is larger than 2 GB: save it and load it by its path")
    return bytes(ir.to_proto(_in_memory(model)).SerializeToString(deterministic=True))


def save_model(
    model: ir.Model,
    path: str | os.PathLike[str],
    check: Callable[[Path], None] = lambda written: None,
    files: Together | None = None,
) -> None:
    """Write ``model`` whole or not at all.

    Weights go to ``<path>.data`` if they came from such a file or exceed 2 GB. A device or a pipe gets
    everything in one piece.

    Args:
        model: to write.
        path: where.
        check: called with the complete new file before it takes its final place; if it raises, nothing is
            written or replaced.
        files: that the model appears together with.

    Raises:
        OptionError: the files cannot be written; nothing is left behind then.
        ModelError: more than 2 GB for a device or a pipe.
    """
    check_writable(path)
    with part_of(files) as own:
        new, side = own.new(path), side_path(Path(path))
        if not is_stream(path) and (_size(model) > _PROTOBUF_BYTES or model.graph.meta.get(_EXTERNAL)):
            _unmap(model, side)
            ir.save(
                _in_memory(model),
                new,
                "protobuf",
                external_data=side.name,
                size_threshold_bytes=_EXTERNAL_BYTES,
            )
        else:
            new.write_bytes(serialize(model))
        check(new)


def _undeclare(model: ir.Model) -> None:
    """What is declared as -1, as old exporters do for a free batch, or without a type, is not known."""
    for graph in (*model.graphs(), *(function.graph for function in model.functions.values())):
        for value in (*graph.inputs, *graph.outputs, *(y for node in graph for y in node.outputs)):
            if value.type is None and value.producer() is not None:
                value.shape = None
            elif value.shape is not None and any(isinstance(n, int) and n < 0 for n in value.shape):
                value.shape = ir.Shape([None if isinstance(n, int) and n < 0 else n for n in value.shape])


def _is_sorted(graph: ir.Graph) -> bool:
    seen: set[ir.Node] = set()
    for node in graph:
        if any(p.graph is graph and p not in seen for p in node.predecessors()):
            return False
        seen.add(node)
    return True


def tensors(model: ir.Model) -> Iterator[ir.TensorProtocol]:
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


def _size(model: ir.Model) -> int:
    return sum(tensor.nbytes for tensor in tensors(model))


def _replace_tensors(model: ir.Model, change: Callable[[ir.TensorProtocol], ir.TensorProtocol]) -> None:
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


def _at_home(tensor: ir.TensorProtocol, folders: Sequence[str], where: str) -> ir.TensorProtocol:
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


def _in_memory(model: ir.Model) -> ir.Model:
    """A copy whose tensors refer to no external file; their data stays mapped."""
    copy = model.clone()
    _replace_tensors(copy, _held)
    return copy


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


def _unmap(model: ir.Model, side: Path) -> None:
    """Let tensors that read from ``side`` hold on to the data that is about to be replaced."""

    def unmapped(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
        reads = isinstance(tensor, ir.ExternalTensor) and os.path.realpath(tensor.path) == str(side)
        return _mapped(tensor) if isinstance(tensor, ir.ExternalTensor) and reads else tensor

    _replace_tensors(model, unmapped)


def _densified(proto: onnx.ModelProto, where: str) -> tuple[onnx.ModelProto, list[str]]:
    """The model with its sparse initializers and sparse Constant nodes made dense, and the former's names."""
    constants = [
        (node, attribute)
        for node in proto.graph.node
        for attribute in node.attribute
        if attribute.HasField("sparse_tensor") and node.op_type == "Constant"
    ]
    if not proto.graph.sparse_initializer and not constants:
        return proto, []
    names = [sparse.values.name for sparse in proto.graph.sparse_initializer]
    proto.graph.initializer.extend(_dense(sparse, where) for sparse in proto.graph.sparse_initializer)
    del proto.graph.sparse_initializer[:]
    for node, attribute in constants:
        dense = _dense(attribute.sparse_tensor, where)
        node.attribute.remove(attribute)
        node.attribute.append(onnx.helper.make_attribute("value", dense))
    return proto, names


def _dense(sparse: onnx.SparseTensorProto, where: str) -> onnx.TensorProto:
    values, indices = onnx.numpy_helper.to_array(sparse.values), onnx.numpy_helper.to_array(sparse.indices)
    dense = np.zeros(tuple(sparse.dims), dtype=values.dtype)
    try:
        if indices.ndim == 1:
            dense.reshape(-1)[indices] = values
        else:
            dense[tuple(indices.T)] = values
    except IndexError as error:
        raise ModelError(
            f"{where} is broken: sparse tensor {sparse.values.name!r} has wrong indices"
        ) from error
    return onnx.numpy_helper.from_array(dense, sparse.values.name)


def name_of(model: ModelLike) -> str:
    """What a model is called in messages."""
    if isinstance(model, ir.Model | onnx.ModelProto):
        return model.graph.name or "the model"
    return str(model)


def open_model(model: ModelLike, custom_domains: Sequence[str]) -> tuple[ir.Model, str, Path | None]:
    """The model, its name for people, and its file if there is one."""
    if isinstance(model, ir.Model):
        return model, model.graph.name or "model", None
    if isinstance(model, onnx.ModelProto):
        return from_proto(model, custom_domains=custom_domains), model.graph.name or "model", None
    return load_model(model, custom_domains=custom_domains), str(model), Path(model)


def parse(model: bytes) -> onnx.ModelProto | None:
    """The message, without external data; None for what is no model."""
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(model)
    except Exception:  # the protobuf package's own, which has no types
        return None
    return proto
