"""Nodes computed by ONNX's reference evaluator, none of which may make more than it is allowed to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from obs_onnx.passes.shapes.shape_arithmetic import Array

__all__ = ["evaluate_nodes"]

_SHOWN = 4096  # elements of an operand that may say a shape


def evaluate_nodes(
    nodes: Sequence[onnx.NodeProto], feeds: Mapping[str, Array], versions: Mapping[str, int], most: int
) -> dict[str, Array]:
    """All values that ``nodes`` compute from ``feeds``, by name.

    Args:
        nodes: in topological order.
        feeds: arrays by name.
        versions: of the domains of operators.
        most: elements that one value may have. Before a node is computed its outputs are inferred from the
            operands themselves, so that what is too large is never made.

    Raises:
        ValueError: an output would be larger.
        Exception: of many kinds, for a node that cannot be computed.
    """
    values = dict(feeds)
    opsets = [onnx.helper.make_opsetid(domain, version) for domain, version in versions.items()]
    for node in nodes:
        given = {name: values[name] for name in node.input if name}
        _check(node, given, versions, opsets, most)
        inputs = [_info(name, array) for name, array in given.items()]
        outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
        model = onnx.helper.make_model(
            onnx.helper.make_graph([node], "node", inputs, outputs), opset_imports=opsets
        )
        found = ReferenceEvaluator(model).run(None, given)
        values.update((one.name, np.asarray(array)) for one, array in zip(outputs, found, strict=True))
    return values


def _check(
    node: onnx.NodeProto,
    given: Mapping[str, Array],
    versions: Mapping[str, int],
    opsets: Sequence[onnx.OperatorSetIdProto],
    most: int,
) -> None:
    schema = onnx.defs.get_schema(node.op_type, versions.get(node.domain, 1), node.domain)
    if not _means_the_same(schema):
        raise ValueError(f"{node.op_type} of version {schema.since_version} is another operator than today's")
    types = {name: _info(name, array).type for name, array in given.items()}
    data = {n: onnx.numpy_helper.from_array(a, n) for n, a in given.items() if a.size <= _SHOWN}
    found = onnx.shape_inference.infer_node_outputs(schema, node, types, data, None, list(opsets))
    for name, kind in found.items():
        sizes = [dim.dim_value for dim in kind.tensor_type.shape.dim if dim.HasField("dim_value")]
        if min(sizes, default=0) < 0 or math.prod(sizes) > most:
            raise ValueError(f"{name} would have the shape {sizes}")


@lru_cache(maxsize=512)
def _means_the_same(schema: onnx.defs.OpSchema) -> bool:
    """Whether attributes of this version mean what they mean in the newest one, which the evaluator knows.

    Where the default of an attribute has changed, so has its meaning: ``axis`` of Softmax, which up to
    version 11 was the first of the axes that are taken together.
    """
    newest = onnx.defs.get_schema(schema.name, schema.domain).attributes
    pairs = [(own, newest[name]) for name, own in schema.attributes.items() if name in newest]
    return all(_default(own) == _default(new) for own, new in pairs)


def _default(attribute: onnx.defs.OpSchema.Attribute) -> object:
    value = attribute.default_value
    return onnx.helper.get_attribute_value(value) if value.name else None


def _info(name: str, array: Array) -> onnx.ValueInfoProto:
    kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
    return onnx.helper.make_tensor_value_info(name, kind, array.shape)
