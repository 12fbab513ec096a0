"""ONNX files in and out.

Reading never executes anything; external data is mapped, not read. Writing is atomic: new files appear under
their final names when they are complete, or not at all.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from obs_onnx.io.atomic_files import Together, check_writable, part_of
from obs_onnx.io.external_data import folders_of
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
from obs_onnx.io.tensors import at_home, in_memory, replace_tensors, size_of, tensors, unmap
from obs_onnx.io.zip_maps import check_scores, check_types, declare_maps, set_aside, unzip, zip_again
from obs_onnx.passes.canonical.canonicalize import plain
from obs_onnx.passes.errors import ModelError, ObsOnnxError, boundary
from obs_onnx.passes.graph.parameters import SPARSE
from obs_onnx.passes.graph.scopes import return_by_identity
from obs_onnx.passes.shapes.complete_shapes import CompleteShapes
from obs_onnx.passes.shapes.infer_shapes import MADE_UP, InferShapes

__all__ = [
    "ModelLike",
    "file_size",
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
_TOO_LARGE = "the model is larger than 2 GB: save it and load it by its path"
_EXTERNAL = "obs_onnx.external_data"  # in the graph's meta: the model came with external data
_COUNTED_BYTES = 1 << 28  # weights of a model that is serialized to see how long its file is
_EXTERNAL_BYTES = 1024  # smaller tensors stay in the model file


def load_model(path: str | os.PathLike[str], *, custom_domains: Collection[str] | None = ()) -> ir.Model:
    """Read an ONNX model of opset 7 or later; weights in external files are mapped.

    Args:
        path: the file.
        custom_domains: domains of operators whose library the caller has registered; None: any domain may be
            there.

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
    custom_domains: Collection[str] | None = (),
) -> ir.Model:
    """A checked model from a protobuf message; sparse initializers become dense.

    Args:
        proto: the message; it must not be changed afterwards.
        where: what error messages call the model.
        folders: where external data lies; :func:`obs_onnx.io.external_data.folders_of`.
        custom_domains: domains of operators whose library the caller has registered; None: any domain may be
            there.

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
        proto, zip_maps = unzip(proto)
        check_types(proto, where)
        proto, sparse = _densified(proto, where)
        model = ir.from_proto(proto)
        return_by_identity(model)
        if not all(_is_sorted(graph) for graph in model.graphs()):
            model.graph.sort()
        _undeclare(model)
        model.graph.name = model.graph.name or "model"  # which the checker wants, as it does types of outputs
        if model.ir_version < 4:  # where every initializer is an input
            model.graph.inputs.extend(v for v in model.graph.initializers.values() if not v.is_graph_input())
        _declare(model, where)
        check_scores(model, zip_maps, where)
    with boundary(f"{where} is broken: a body reads a value that does not exist"):
        model.clone()
    replace_tensors(model, lambda tensor: at_home(tensor, folders, where))
    for name in sparse:
        model.graph.initializers[name].meta[SPARSE] = True
    if any(isinstance(tensor, ir.ExternalTensor) for tensor in tensors(model)):
        model.graph.meta[_EXTERNAL] = True
    set_aside(model, zip_maps)
    return model


def serialize(model: ir.Model) -> bytes:
    """The whole model as bytes, external data included, for a runtime's session.

    Raises:
        ModelError: it is larger than the 2 GB that one message can have; save it and load it by its path.
    """
    if size_of(model) > _PROTOBUF_BYTES:
        raise ModelError(_TOO_LARGE)
    return bytes(ir.to_proto(in_memory(model)).SerializeToString(deterministic=True))


def file_size(model: ir.Model) -> int:
    """Bytes of the file of a model; of a large one, those of its file without the weights, and of these."""
    if size_of(model) <= _COUNTED_BYTES:
        return len(serialize(model))
    copy, outside = model.clone(), 0

    def named(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
        nonlocal outside
        if tensor.nbytes <= _EXTERNAL_BYTES or tensor.dtype == ir.DataType.STRING:
            return tensor
        outside += tensor.nbytes
        shape = ir.Shape(tensor.shape.numpy())
        return ir.ExternalTensor("", 0, tensor.nbytes, tensor.dtype, shape=shape, name=str(tensor.name))

    replace_tensors(copy, named)
    return len(ir.to_proto(copy).SerializeToString()) + outside


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
        if not is_stream(path) and (size_of(model) > _PROTOBUF_BYTES or model.graph.meta.get(_EXTERNAL)):
            unmap(model, side)
            new.write_bytes(_message(model, new, side.name))
        else:
            new.write_bytes(_message(model))
        check(new)


def _message(model: ir.Model, path: Path | None = None, side: str = "") -> bytes:
    """What goes into a file: outputs are maps again where they were.

    Args:
        model: to write.
        path: of the file, where weights go beside it.
        side: name of the file for them.
    """
    copy = in_memory(model)
    maps = zip_again(copy)
    if path is not None:
        ir.external_data.unload_from_model(copy, path.parent, side, size_threshold_bytes=_EXTERNAL_BYTES)
    elif size_of(copy) > _PROTOBUF_BYTES:
        raise ModelError(_TOO_LARGE)
    proto = ir.to_proto(copy)
    declare_maps(proto, maps)
    _forget_symbols(proto.graph)
    return bytes(proto.SerializeToString(deterministic=True))


def _forget_symbols(graph: onnx.GraphProto) -> None:
    """Names of sizes that shape inference made up, which runtimes would show as those of the outputs."""
    ends = [d.dim_param for value in (*graph.input, *graph.output) for d in value.type.tensor_type.shape.dim]
    for value in graph.value_info:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param.startswith(MADE_UP) and dim.dim_param not in ends:
                dim.ClearField("dim_param")


def _undeclare(model: ir.Model) -> None:
    """What is declared as -1, as old exporters do for a free batch, or without a type, is not known."""
    for graph in (*model.graphs(), *(function.graph for function in model.functions.values())):
        for value in (*graph.inputs, *graph.outputs, *(y for node in graph for y in node.outputs)):
            if value.type is None and value.producer() is not None:
                value.shape = None
            elif value.shape is not None and any(isinstance(n, int) and n < 0 for n in value.shape):
                value.shape = ir.Shape([None if isinstance(n, int) and n < 0 else n for n in value.shape])


def _declare(model: ir.Model, where: str) -> None:
    """What is not declared about outputs, which the checker wants, is what follows from the inputs."""
    if all(one.type is not None and one.shape is not None for one in model.graph.outputs):
        return
    copy = plain(model)
    InferShapes().call(copy)
    CompleteShapes().call(copy)
    for value, found in zip(model.graph.outputs, copy.graph.outputs, strict=True):
        value.type = found.type if value.type is None else value.type
        value.shape = found.shape if value.shape is None else value.shape
    for output in model.graph.outputs:
        if output.type is None:
            raise ModelError(f"{where}: its output {output.name!r} has no type; export it again")


def _is_sorted(graph: ir.Graph) -> bool:
    seen: set[ir.Node] = set()
    for node in graph:
        if any(p.graph is graph and p not in seen for p in node.predecessors()):
            return False
        seen.add(node)
    return True


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


def open_model(model: ModelLike, custom_domains: Sequence[str] | None) -> tuple[ir.Model, str, Path | None]:
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
