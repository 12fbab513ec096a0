"""What is checked about an ONNX file before anything is built from it.

Nothing is allocated for what a file merely claims: shapes are compared with the bytes that are there.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence

import onnx
import onnx_ir as ir

from obs_onnx.io.external_data import check_external
from obs_onnx.passes.errors import ModelError, named

__all__ = [
    "check_graph",
    "check_loops",
    "check_operators",
    "check_opset",
    "check_tensors",
    "check_version",
    "tensor_bytes",
    "tensors_of",
]

_BUILT_IN_DOMAINS = {
    "",
    "ai.onnx",
    "ai.onnx.ml",
    "ai.onnx.preview",
    "ai.onnx.preview.training",
    "ai.onnx.training",
    "com.microsoft",
    "com.microsoft.experimental",
}
_OF_ONE_MACHINE = {
    "com.microsoft.nchwc",
    "com.ms.internal.nhwc",
}  # layouts that onnxruntime chooses by itself
_MOST_ROUNDS = 10**9  # of a loop that nothing else ends
_MAX_DENSE_BYTES = 2**31  # of a sparse initializer that is made dense


def check_opset(proto: onnx.ModelProto, where: str) -> None:
    """Raise ModelError unless the default opset is one that this program and its onnx package know."""
    for entry in proto.opset_import:
        if not 0 < entry.version < 2**31:
            raise ModelError(
                f"{where} is broken: its operators of the domain {entry.domain!r} are of version "
                f"{entry.version}; export it again"
            )
    versions = [entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")]
    if not versions and not any(node.domain in ("", "ai.onnx") for node in proto.graph.node):
        return
    version, newest = max(versions, default=1), onnx.defs.onnx_opset_version()
    if version < 7:
        raise ModelError(
            f"{where} uses opset {version}; convert it to opset 7 or later with onnx.version_converter"
        )
    if version > newest:
        raise ModelError(
            f"{where} uses opset {version}, newer than opset {newest} of the installed onnx; upgrade onnx"
        )


def check_version(proto: onnx.ModelProto, where: str) -> None:
    """Raise ModelError for a version of the format without versions of operators."""
    if proto.ir_version < 3:
        raise ModelError(
            f"{where} uses version {proto.ir_version} of the format, from before ONNX 1.0; export it again"
        )


def check_graph(proto: onnx.ModelProto, where: str) -> None:
    """Raise ModelError unless there is a graph with outputs in which everything that is read exists."""
    if not proto.HasField("graph") or not (proto.graph.node or proto.graph.output):
        raise ModelError(f"{where} holds no graph: it is not an ONNX model, or it is broken; export it again")
    if not proto.graph.output:
        raise ModelError(f"{where} has no outputs; export it again with the outputs named")
    _check_names(proto.graph, where, set())


def _check_names(graph: onnx.GraphProto, where: str, outer: set[str]) -> None:
    known = outer | {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    known |= {tensor.values.name for tensor in graph.sparse_initializer}
    known |= {name for node in graph.node for name in node.output}
    for node in graph.node:
        for name in node.input:
            if name and name not in known:
                raise ModelError(
                    f"{where} is broken: node {node.name!r} ({node.op_type}) reads {name!r}, "
                    "which nothing produces; export it again"
                )
        for body in _bodies(node):
            _check_names(body, where, known)
    for value in graph.output:
        if value.name not in known:
            raise ModelError(
                f"{where} is broken: nothing produces its output {value.name!r}; export it again"
            )


def check_operators(proto: onnx.ModelProto, where: str, custom_domains: Collection[str] | None = ()) -> None:
    """Raise ModelError for the first operator that needs a custom-op library, or one kind of machine.

    Where ``custom_domains`` is None, any library may be there.
    """
    functions = {(function.domain, function.name) for function in proto.functions}
    bodies = [proto.graph.node, *(function.node for function in proto.functions)]
    for node in (node for body in bodies for node in _nodes(body)):
        if node.domain in _OF_ONE_MACHINE:
            raise ModelError(
                f"{where} was saved by onnxruntime with weights laid out for one machine (node "
                f"{node.name!r} is {node.domain}::{node.op_type}): give the model from before its optimizer, "
                "or save it at the optimization level 'extended' in place of 'all'"
            )
        if custom_domains is None:
            continue
        known = node.domain in _BUILT_IN_DOMAINS or node.domain in custom_domains
        if not known and (node.domain, node.op_type) not in functions:
            raise ModelError(
                f"{where} needs a custom operator: node {node.name!r} is {node.domain}::{node.op_type}; "
                f"register the library that implements it with {named('custom_ops')}"
            )


def check_loops(proto: onnx.ModelProto, where: str) -> None:
    """Raise ModelError for a Loop that is sure to run for days, or one or an If that no number steers."""
    for graph in _graphs(proto):
        known = _constants(graph)
        for node in graph.node:
            steering = {"Loop": 2, "If": 1}.get(node.op_type, 0) if not node.domain else 0
            for name in node.input[:steering]:
                if name in known and math.prod(known[name].dims) != 1:
                    raise ModelError(
                        f"{where} is broken: {name!r}, which steers node {node.name!r} ({node.op_type}), is "
                        "no single number; export it again"
                    )
            if steering == 2 and _is_endless(node, known):
                raise ModelError(
                    f"{where} cannot be run: node {node.name!r} (Loop) ends only after more than "
                    f"{_MOST_ROUNDS} rounds"
                )


def _constants(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """Initializers, and what Constant nodes hold as a tensor or an integer, by name."""
    known = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        for attribute in node.attribute if node.op_type == "Constant" else ():
            if attribute.HasField("t"):
                known[node.output[0]] = attribute.t
            elif attribute.name == "value_int":
                kind = onnx.TensorProto.INT64
                known[node.output[0]] = onnx.helper.make_tensor("n", kind, [], [attribute.i])
    return known


def _is_endless(node: onnx.NodeProto, known: Mapping[str, onnx.TensorProto]) -> bool:
    """Whether the condition of a loop stays as it is, and the number of rounds is none or absurd."""
    limit, start = (*node.input, "", "")[:2]
    rounds = known.get(limit)
    if limit and (rounds is None or (onnx.numpy_helper.to_array(rounds) <= _MOST_ROUNDS).all()):
        return False
    if start and (start not in known or not onnx.numpy_helper.to_array(known[start]).all()):
        return False
    (body,) = _bodies(node)
    sources = {y: one.input[0] for one in body.node if one.op_type == "Identity" for y in one.output}
    condition = body.output[0].name
    while condition in sources:
        condition = sources.pop(condition)
    return len(body.input) > 1 and condition == body.input[1].name


def check_counts(proto: onnx.ModelProto, where: str) -> None:
    """Raise ModelError for a node with more or fewer inputs or outputs than its operator has.

    Shape inference, which is no Python, trusts an attribute that counts outputs.
    """
    version = max((one.version for one in proto.opset_import if one.domain in ("", "ai.onnx")), default=1)
    for node in _nodes(proto.graph.node):
        if node.domain not in ("", "ai.onnx") or not onnx.defs.has(node.op_type, version, ""):
            continue
        schema = onnx.defs.get_schema(node.op_type, version, "")
        counted = [int(one.i) for one in node.attribute if one.name == "num_outputs"]
        for what, count, least, most in (
            ("inputs", len(node.input), schema.min_input, schema.max_input),
            ("outputs", len(node.output), *(2 * counted or (schema.min_output, schema.max_output))),
        ):
            if not least <= count <= most:
                raise ModelError(
                    f"{where} is broken: node {node.name!r} ({node.op_type}) has {count} {what} in place of "
                    f"{least if count < least else most}; export it again"
                )


def check_tensors(proto: onnx.ModelProto, where: str, folders: Sequence[str]) -> None:
    """Raise ModelError unless every tensor has the bytes that its shape needs, in the file or beside it.

    Check sums of files beside it, in ``folders``, are verified where they are given.
    """
    sums: dict[str, str] = {}
    for tensor in tensors_of(proto):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            strings = tensor.data_type == onnx.TensorProto.STRING
            needed = 0 if strings else tensor_bytes(tensor, tensor.data_type, where)
            check_external(tensor, needed, where, folders, sums)
        else:
            _check_inline(tensor, where)
    for sparse in _sparse_of(proto):
        _check_sparse(sparse, where)


def tensor_bytes(tensor: onnx.TensorProto | onnx.SparseTensorProto, data_type: int, where: str) -> int:
    """Bytes that the shape and type of ``tensor`` need; ModelError when they make no sense."""
    name = tensor.name if isinstance(tensor, onnx.TensorProto) else tensor.values.name
    if any(dim < 0 for dim in tensor.dims):
        raise ModelError(f"{where} is broken: tensor {name!r} has the negative shape {list(tensor.dims)}")
    try:
        bits = int(ir.DataType(data_type).bitwidth)
    except (ValueError, TypeError) as error:
        raise ModelError(f"{where} is broken: tensor {name!r} is of no known type ({data_type})") from error
    return int(-(-math.prod(tensor.dims) * bits // 8))


def tensors_of(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """All dense tensors of a model: initializers and attributes, of subgraphs and functions too."""
    for graph in _graphs(proto):
        yield from graph.initializer
    for node in _all_nodes(proto):
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def _sparse_of(proto: onnx.ModelProto) -> Iterator[onnx.SparseTensorProto]:
    for graph in _graphs(proto):
        yield from graph.sparse_initializer
    for node in _all_nodes(proto):
        for attribute in node.attribute:
            if attribute.HasField("sparse_tensor"):
                yield attribute.sparse_tensor


def _all_nodes(proto: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    yield from _nodes(proto.graph.node)
    for function in proto.functions:
        yield from _nodes(function.node)


def _nodes(body: Collection[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in body:
        yield node
        for graph in _bodies(node):
            yield from _nodes(graph.node)


def _graphs(proto: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    yield proto.graph
    for node in _all_nodes(proto):
        yield from _bodies(node)


def _bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _check_inline(tensor: onnx.TensorProto, where: str) -> None:
    count = math.prod(tensor.dims)
    if tensor.data_type == onnx.TensorProto.STRING:
        found, needed, unit = len(tensor.string_data), count, "strings"
    elif tensor.HasField("raw_data"):
        found, needed, unit = len(tensor.raw_data), tensor_bytes(tensor, tensor.data_type, where), "bytes"
    else:
        needed, unit = _typed_count(tensor, where), "numbers"
        fields = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data")
        found = sum(len(getattr(tensor, field)) for field in fields)
    if found != needed:
        raise ModelError(
            f"{where} is truncated or broken: tensor {tensor.name!r} of shape {list(tensor.dims)} needs "
            f"{needed} {unit} and has {found}; export or download it again"
        )


def _typed_count(tensor: onnx.TensorProto, where: str) -> int:
    """Entries of the typed field that holds ``tensor``."""
    size, count = tensor_bytes(tensor, tensor.data_type, where), int(math.prod(tensor.dims))
    if tensor.data_type in (onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128):
        return 2 * count
    return size if ir.DataType(tensor.data_type).bitwidth < 8 else count


def _check_sparse(sparse: onnx.SparseTensorProto, where: str) -> None:
    _check_inline(sparse.values, where)
    _check_inline(sparse.indices, where)
    count, rank, indices = len(sparse.values.dims) and sparse.values.dims[0], len(sparse.dims), sparse.indices
    if (
        indices.data_type != onnx.TensorProto.INT64
        or list(indices.dims) not in ([count], [count, rank])
        or onnx.TensorProto.EXTERNAL in (sparse.values.data_location, indices.data_location)
    ):
        raise ModelError(f"{where} is broken: sparse tensor {sparse.values.name!r} has no usable indices")
    if tensor_bytes(sparse, sparse.values.data_type, where) > _MAX_DENSE_BYTES:
        raise ModelError(
            f"the sparse tensor {sparse.values.name!r} of {where}, shape {list(sparse.dims)}, is too large "
            "to be made dense; store it densely as external data"
        )
