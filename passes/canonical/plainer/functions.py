"""Calls of functions are written out: those that a model brings along, and operators that are functions.

ONNX defines many operators as functions of others (SwiGLU, CenterCropPad, losses ...). Where the tables have
no rule for such an operator, they may have rules for those that it is made of.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from obs_onnx.passes.errors import ModelError
from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.graph.scopes import bodies
from obs_onnx.passes.ops import lookup
from obs_onnx.passes.shapes.infer_shapes import InferShapes
from obs_onnx.passes.shapes.schemas import functional, schema_of

__all__ = ["ExpandOperators", "inline"]

_MOST_NODES = 500_000  # functions may call each other many times: nodes are counted before any is written
_DEEPEST = 8  # operators that are functions of operators that are functions
_DOMAIN = "obs_onnx.functions"


def inline(model: ir.Model) -> None:
    """Write out all calls of the functions of ``model``, in it.

    Raises:
        ModelError: they call each other in a circle or too often, or use another opset than the model.
    """
    if not model.functions:
        return
    step = InlinePass()
    try:
        step.requires(model)
        if (count := _size_inlined(model)) > _MOST_NODES:
            raise ModelError(
                f"the model has {count} nodes once its functions are inlined, more than the {_MOST_NODES} "
                "that this program takes: export it without nested functions"
            )
        step.call(model)
    except (ValueError, ir.passes.PreconditionError) as error:
        raise ModelError(f"the functions of the model cannot be inlined: {error}") from error


def _size_inlined(model: ir.Model) -> int:
    """Nodes of the model, and of functions that are not called, when all calls are written out."""
    sizes: dict[ir.OperatorIdentifier, int] = {}
    waiting = list(model.functions)
    while waiting:
        name = waiting[-1]
        called = [node.op_identifier() for node in model.functions[name].all_nodes()]
        missing = {one for one in called if one in model.functions and one not in sizes}
        if missing:
            waiting.extend(missing)
            continue
        sizes[name] = sum(sizes.get(one, 1) for one in called)
        waiting.pop()
    return sum(sizes.values()) + sum(sizes.get(node.op_identifier(), 1) for node in model.graph.all_nodes())


class ExpandOperators(ir.passes.InPlacePass):
    """Write out operators without a rule of their own that ONNX defines as functions, until none is left.

    1. Operators stay that draw random numbers, quantize, or hold bodies (or their functions do): of those
       the tables know no more.
    2. A function that was written for an older opset than the model's is taken only if its nodes mean the
       same in that of the model.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass on ``model``, whose functions are inlined."""
        modified = False
        for _ in range(_DEEPEST):
            waiting = [node for node in model.graph if _lacks_rule(node) and _versions(node) != ((), ())]
            if not waiting:
                break
            InferShapes().call(model)
            count = 0
            for node in waiting:
                function = _function(node, str(count))
                if function is not None:
                    model.functions[function.identifier()] = function
                    _set_defaults(node)
                    node.domain, node.op_type, node.overload = function.identifier()
                    count += 1
            if not count:
                break
            inline(model)
            model.opset_imports.pop(_DOMAIN, None)
            modified = True
        return ir.passes.PassResult(model, modified)


def _lacks_rule(node: ir.Node) -> bool:
    op = lookup(node)
    kept = op.random or op.quantizes or any(True for _ in bodies(node))  # 1.
    return not kept and (op.relate is None or op.foreign is not None)


def _schema(node: ir.Node) -> onnx.defs.OpSchema | None:
    return schema_of(node.domain, node.op_type, node_facts.version(node) or 1)


def _versions(node: ir.Node) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Opsets up to that of ``node`` that functions for its operator were written for.

    Those of one function for all cases, then those of functions that depend on attributes and types.
    """
    schema, opset = functional(_schema(node)), node_facts.version(node) or 1
    if schema is None:
        return (), ()
    return (
        tuple(v for v in schema.function_opset_versions if v <= opset),
        tuple(v for v in schema.context_dependent_function_opset_versions if v <= opset),
    )


def _function(node: ir.Node, name: str) -> ir.Function | None:
    """The function that ``node`` calls, under a name of its own; None where ONNX has none for this case."""
    schema, proto = functional(_schema(node)), onnx.FunctionProto()
    assert schema is not None
    fixed, in_context = _versions(node)
    if fixed:
        proto.ParseFromString(schema.get_function_with_opset_version(max(fixed)))
    else:
        types = [_type(value).SerializeToString() for value in node.inputs]
        said = ir.serde.serialize_node(node).SerializeToString()
        proto.ParseFromString(
            schema.get_context_dependent_function_with_opset_version(max(in_context), said, types)
        )
    graph = node.graph
    assert graph is not None
    before = {one.domain: one.version for one in proto.opset_import}
    after = {**before, **{domain: graph.opset_imports.get(domain, n) for domain, n in before.items()}}
    if not proto.node or not all(_means_the_same(one, before, after) for one in proto.node):  # 2.
        return None
    proto.name, proto.domain = f"{node.op_type}_{name}", _DOMAIN
    del proto.opset_import[:], proto.output[len(node.outputs) :]
    proto.opset_import.extend(onnx.helper.make_opsetid(domain, n) for domain, n in after.items())
    return ir.serde.deserialize_function(proto)


def _set_defaults(node: ir.Node) -> None:
    """Attributes that ``node`` leaves out get their defaults, which functions do not know."""
    schema = _schema(node)
    assert schema is not None
    for name, attribute in schema.attributes.items():
        if name not in node.attributes and attribute.default_value.name:
            node.attributes[name] = ir.serde.deserialize_attribute(attribute.default_value)


def _type(value: ir.Value | None) -> onnx.TypeProto:
    proto = onnx.TypeProto()
    if value is not None and value.type is not None:
        ir.serde.serialize_type_into(proto, value.type)
        if value.shape is not None:
            ir.serde.serialize_shape_into(proto, value.shape)
    return proto


def _means_the_same(node: onnx.NodeProto, before: Mapping[str, int], after: Mapping[str, int]) -> bool:
    """Whether a node of a function, without a body, says the same with the versions of domains ``after``."""
    if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
        return False
    old, new = (schema_of(node.domain, node.op_type, one.get(node.domain, 1)) for one in (before, after))
    if old is None or new is None:
        return False
    if old.since_version == new.since_version:
        return True
    given = {attribute.name for attribute in node.attribute}
    fits = new.min_input <= len(node.input) <= new.max_input and given <= set(new.attributes)
    left = [name for name in new.attributes if name not in given and name in old.attributes]
    return fits and all(
        old.attributes[name].default_value == new.attributes[name].default_value for name in left
    )
