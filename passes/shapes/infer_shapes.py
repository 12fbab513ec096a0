"""Shape inference that says when it fails."""

from __future__ import annotations

from contextlib import suppress

import onnx
import onnx_ir as ir
from onnx_ir.traversal import RecursiveGraphIterator

from obs_onnx.passes.errors import ModelError, boundary, reason
from obs_onnx.passes.graph.names import Names
from obs_onnx.passes.graph.node_facts import INFERRED
from obs_onnx.passes.graph.parameters import hold_small
from obs_onnx.passes.shapes.schemas import functional, schema_of

__all__ = ["MADE_UP", "InferShapes", "without_data"]

MADE_UP = "unk__"
"""How a name begins that the ``onnx`` package gives to a size that it does not know."""

_LONGEST = 1 << 20  # elements of a vector
_KEPT_BYTES = 1024  # constants up to this size may hold shapes and axes; larger ones are weights


class InferShapes(ir.passes.InPlacePass):
    """Add all types and shapes that ONNX can infer; declared inputs and outputs of the model stay.

    1. Inference runs strictly, on a copy without the data of large constants.
    2. Shapes declared inside the graph give way to what follows from the inputs where the two differ. Those
       of its outputs stay declared; runtimes run such models.
    3. Where an operator is unknown to ONNX, whatever can be inferred around it is kept.
    4. What follows for a declared output is kept beside it, in its ``meta``.
    5. Sizes are followed through arithmetic unless a vector is so long that this would take its own memory.

    Raises:
        ModelError: the shapes contradict each other, or an attribute, a name or a domain is broken.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass on ``model``."""
        try:
            skeleton = ir.to_proto(without_data(model))
            _set_defaults(skeleton)
        except ir.serde.SerdeError as error:
            raise ModelError(f"the model is broken: {reason(_first_cause(error))}") from error
        with boundary("the shapes of the model cannot be inferred"):
            inferred = _infer(skeleton, _of_unknown(model))
        modified = False
        infos = _value_infos(inferred.graph)
        values = [output for node in RecursiveGraphIterator(model.graph) for output in node.outputs]
        for value in values:
            info = infos.get(str(value.name))
            if info is None:
                continue
            fresh = ir.Value(name=value.name)
            ir.serde.deserialize_value_info_proto(info, fresh)
            if value.is_graph_output() and value.shape is not None:
                value.meta[INFERRED] = fresh.shape  # 4.
                continue
            if value.is_graph_output():
                fresh.shape = _named_by_the_model(fresh.shape)
            if fresh.shape is not None and fresh.shape != value.shape:
                value.shape, modified = fresh.shape, True
            if fresh.type is not None and fresh.type != value.type:
                value.type, modified = fresh.type, True
        return ir.passes.PassResult(model, modified)


def without_data(model: ir.Model) -> ir.Model:
    """A copy in which large initializers, of subgraphs too, are inputs of the main graph."""
    copy = model.clone()
    hold_small(copy, _KEPT_BYTES)
    names = Names(copy)
    for graph in list(copy.graphs()):
        for name, value in list(graph.initializers.items()):
            tensor = value.const_value
            if tensor is None or tensor.nbytes <= _KEPT_BYTES:
                continue
            value.shape, value.type = ir.Shape(tensor.shape.numpy()), ir.TensorType(tensor.dtype)
            del graph.initializers[name]
            value.const_value = None
            if graph is not copy.graph:
                value.name = names.fresh(str(value.name))
            if not value.is_graph_input():
                copy.graph.inputs.append(value)
    return copy


def _set_defaults(proto: onnx.ModelProto) -> None:
    """Attributes that operators leave out get their defaults where ONNX infers through a function.

    It passes on what is there, and fails at what the function's nodes then lack.
    """
    versions = {entry.domain: entry.version for entry in proto.opset_import}
    for node in proto.graph.node:
        schema = schema_of(node.domain, node.op_type, versions.get(node.domain, 1))
        known = functional(schema)
        if schema is None or known is None or not known.function_opset_versions:
            continue
        given = {attribute.name for attribute in node.attribute}
        lacking = [a.default_value for name, a in schema.attributes.items() if name not in given]
        node.attribute.extend(value for value in lacking if value.name)


def _infer(proto: onnx.ModelProto, unknown: frozenset[str]) -> onnx.ModelProto:
    """Infer all shapes.

    Args:
        proto: the model.
        unknown: outputs of operators that ONNX does not know, of which nothing else says the shapes.
    """
    infer, data = onnx.shape_inference.infer_shapes, _longest(proto) <= _LONGEST  # 5.
    if unknown:  # 3.
        bare = _undeclared(proto, unknown)
        found = _value_infos(infer(bare, check_type=False, strict_mode=False, data_prop=data).graph)
        lost = {name for name in _value_infos(proto.graph) if name not in found}
        return infer(_undeclared(proto, unknown | lost), check_type=False, strict_mode=False, data_prop=data)
    try:
        return infer(proto, check_type=True, strict_mode=True, data_prop=data)
    except Exception as first:  # the C++ side raises several kinds
        for outputs in (True, False):
            with suppress(Exception):
                declared = _undeclared(proto, outputs=outputs)  # 2.
                return infer(declared, check_type=True, strict_mode=True, data_prop=data)
        raise ModelError(f"the shapes of the model contradict each other: {reason(first)}") from first


def _undeclared(
    proto: onnx.ModelProto, kept: frozenset[str] = frozenset(), *, outputs: bool = True
) -> onnx.ModelProto:
    """A copy that declares nothing inside, of values but those ``kept``, and shapes of outputs if wanted."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    _undeclare(copy.graph, kept)
    for output in () if outputs else copy.graph.output:
        if output.type.HasField("tensor_type"):
            output.type.tensor_type.ClearField("shape")
    return copy


def _undeclare(graph: onnx.GraphProto, kept: frozenset[str]) -> None:
    """Forget what is declared inside ``graph`` and its bodies, of all values but those ``kept``."""
    infos = [info for info in graph.value_info if info.name in kept]
    del graph.value_info[:]
    graph.value_info.extend(infos)
    for node in graph.node:
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                _undeclare(body, kept)


def _named_by_the_model(shape: ir.Shape | None) -> ir.Shape | None:
    """The shape without names of sizes that inference made up."""
    if shape is None:
        return None
    return ir.Shape([None if str(getattr(n, "value", "")).startswith(MADE_UP) else n for n in shape])


def _longest(proto: onnx.ModelProto) -> int:
    """Size of the longest vector: ONNX makes an entry for each element of one that arithmetic is done on."""
    graph = onnx.shape_inference.infer_shapes(
        proto, check_type=False, strict_mode=False, data_prop=False
    ).graph
    longest = max((tensor.dims[0] for tensor in graph.initializer if len(tensor.dims) == 1), default=0)
    for info in (*_value_infos(graph).values(), *graph.input):
        dims = info.type.tensor_type.shape.dim
        longest = max(longest, dims[0].dim_value if len(dims) == 1 else 0)
    return longest


def _first_cause(error: BaseException) -> BaseException:
    return error if error.__cause__ is None else _first_cause(error.__cause__)


def _of_unknown(model: ir.Model) -> frozenset[str]:
    """Outputs of operators that ONNX does not know, or not in the opset of the model."""
    return frozenset(
        str(output.name)
        for node in RecursiveGraphIterator(model.graph)
        if not onnx.defs.has(node.op_type, model.opset_imports.get(node.domain, 1), node.domain)
        for output in node.outputs
    )


def _value_infos(graph: onnx.GraphProto) -> dict[str, onnx.ValueInfoProto]:
    infos = {info.name: info for info in (*graph.value_info, *graph.output)}
    for node in graph.node:
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                for name, info in _value_infos(body).items():
                    infos.setdefault(name, info)
    return infos
