"""Outputs that are maps: a ``ZipMap`` gives every score its class as a key, and stands aside in here.

The classifiers of scikit-learn end in one by default. It turns a tensor with a column per class into a
sequence with a map per row. While a model is looked at and changed, that tensor is the output, under the same
name.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import onnx
import onnx_ir as ir

from obs_onnx.passes.errors import ModelError
from obs_onnx.passes.graph.names import Names

__all__ = ["check_scores", "check_types", "declare_maps", "set_aside", "unzip", "zip_again"]

_ASIDE = "obs_onnx.zip_maps"  # in the graph's meta: what stands aside
_DOMAIN = "ai.onnx.ml"
_NEW_ENOUGH = 13  # version of Identity, where a model has none of the default domain


@dataclass(frozen=True)
class ZipMap:
    """A node that makes a map of every row.

    Attributes:
        name: of the node.
        output: a sequence of maps, an output of the model.
        classes: the keys, integers or strings.
    """

    name: str
    output: str
    classes: tuple[int, ...] | tuple[str, ...]

    @classmethod
    def of(cls, node: onnx.NodeProto) -> ZipMap:
        """What a node says."""
        known = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
        strings = tuple(key.decode() for key in known.get("classlabels_strings", ()))
        return cls(node.name, node.output[0], strings or tuple(known.get("classlabels_int64s", ())))

    def node(self, scores: ir.Value) -> ir.Node:
        """The node, reading a tensor."""
        strings = all(isinstance(key, str) for key in self.classes)
        attribute = (
            ir.AttrStrings("classlabels_strings", [str(key) for key in self.classes])
            if strings
            else ir.AttrInt64s("classlabels_int64s", [int(key) for key in self.classes])
        )
        out = ir.Value(name=self.output)
        return ir.Node(_DOMAIN, "ZipMap", [scores], [attribute], outputs=[out], name=self.name)

    def type(self) -> onnx.TypeProto:
        """Of the output."""
        strings = all(isinstance(key, str) for key in self.classes)
        score = onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, [])
        key = onnx.TensorProto.STRING if strings else onnx.TensorProto.INT64
        return onnx.helper.make_sequence_type_proto(onnx.helper.make_map_type_proto(key, score))


def unzip(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[ZipMap, ...]]:
    """The model with tensors as outputs in place of maps, and the nodes that made the maps."""
    outputs = {value.name for value in proto.graph.output}

    def ends(node: onnx.NodeProto) -> bool:
        return node.domain == _DOMAIN and node.op_type == "ZipMap" and node.output[0] in outputs

    if not any(map(ends, proto.graph.node)):
        return proto, ()
    plain = onnx.ModelProto()
    plain.CopyFrom(proto)
    aside = {node.output[0]: ZipMap.of(node) for node in plain.graph.node if ends(node)}
    for node in filter(ends, plain.graph.node):
        node.CopyFrom(onnx.helper.make_node("Identity", node.input, node.output, name=node.name))
    for value in (*plain.graph.output, *plain.graph.value_info):
        if value.name in aside:
            value.ClearField("type")  # is that of the scores, which inference finds
    if not any(one.domain in ("", "ai.onnx") for one in plain.opset_import):
        plain.opset_import.add(domain="", version=_NEW_ENOUGH)
    return plain, tuple(aside.values())


def set_aside(model: ir.Model, nodes: tuple[ZipMap, ...]) -> None:
    """Let a model remember the nodes that :func:`unzip` found."""
    if nodes:
        model.graph.meta[_ASIDE] = nodes


def zip_again(model: ir.Model) -> tuple[ZipMap, ...]:
    """Put the nodes that stand aside behind the outputs of a model, which is changed; those that were put."""
    graph = model.graph
    places = {str(value.name): place for place, value in enumerate(graph.outputs)}
    nodes = tuple(one for one in graph.meta.get(_ASIDE, ()) if one.output in places)
    for one in nodes:
        value = graph.outputs[places[one.output]]
        copy = value.producer()
        spare = copy is not None and copy.op_type == "Identity" and not copy.domain and not value.uses()
        if not spare:
            names = Names(model)
            value.name = names.fresh(f"{one.output}_scores")
            one = replace(one, name=names.fresh(one.name))
        node = one.node(copy.inputs[0] if copy is not None and spare else value)
        graph.append(node)
        graph.outputs[places[one.output]] = node.outputs[0]
        if copy is not None and spare:
            graph.remove(copy, safe=True)
    if nodes:
        graph.opset_imports.setdefault(_DOMAIN, 1)
    return nodes


def declare_maps(proto: onnx.ModelProto, nodes: tuple[ZipMap, ...]) -> None:
    """Write the types of maps, which ``onnx_ir`` does not know, into a message."""
    types = {one.output: one.type() for one in nodes}
    for value in proto.graph.output:
        if value.name in types:
            value.type.CopyFrom(types[value.name])


def check_scores(model: ir.Model, nodes: tuple[ZipMap, ...], where: str) -> None:
    """Raise ModelError unless maps are made of numbers that ONNX allows in them."""
    types = {str(value.name): value.dtype for value in model.graph.outputs}
    for one in nodes:
        if types[one.output] != ir.DataType.FLOAT:
            raise ModelError(
                f"{where} is broken: node {one.name!r} (ZipMap) reads {types[one.output]}, which ONNX does "
                "not allow; export it for inputs in single precision"
            )


def check_types(proto: onnx.ModelProto, where: str) -> None:
    """Raise ModelError for an input or an output that is a map, or made of maps."""
    for what, values in (("input", proto.graph.input), ("output", proto.graph.output)):
        for value in values:
            if _has_map(value.type):
                raise ModelError(
                    f"{where}: its {what} {value.name!r} is a map or made of maps, which cannot be followed; "
                    "export it with tensors (skl2onnx: options={'zipmap': False})"
                )


def _has_map(kind: onnx.TypeProto) -> bool:
    if kind.HasField("sequence_type"):
        return _has_map(kind.sequence_type.elem_type)
    return kind.HasField("map_type") or (
        kind.HasField("optional_type") and _has_map(kind.optional_type.elem_type)
    )
