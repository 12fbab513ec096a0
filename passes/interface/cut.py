"""A model in two: the front that is pruned and measured, and the rest that is put back behind it.

What the rest reads of the front are its *places*: names of values that stay the same, whatever the front
loses.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.traversal import RecursiveGraphIterator

from obs_onnx.passes.errors import ModelError
from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.graph.extract import extract
from obs_onnx.passes.graph.inputs import input_names, real_inputs
from obs_onnx.passes.graph.names import Names, named
from obs_onnx.passes.graph.scopes import bodies, reads
from obs_onnx.passes.ops import TABLE, key, lookup

__all__ = ["Cut", "cut", "has_weights", "learns"]


@dataclass(frozen=True)
class Cut:
    """A model in two.

    Attributes:
        whole: the model, without functions and Constant nodes.
        front: its part that gives ``places`` behind those of its outputs that lie in front; it has all
            inputs.
        places: values that the rest reads, as far as they follow from weights, in order.
        outputs: of the model that the rest gives.
        layers: weights in the rest, which stay as they are.
    """

    whole: ir.Model
    front: ir.Model
    places: tuple[str, ...]
    outputs: tuple[str, ...]
    layers: tuple[str, ...] = ()

    def front_of(self, model: ir.Model) -> ir.Model:
        """The front of another form of the model, in which the places have their names."""
        part = _part(model, [str(value.name) for value in self.front.graph.outputs])
        for value, known in zip(part.graph.outputs, self.front.graph.outputs, strict=True):
            value.type, value.shape = value.type or known.type, value.shape or known.shape
        return part

    def rest_of(self, model: ir.Model) -> ir.Model:
        """What lies behind the front, as a model of what the front gives and of the inputs."""
        given = [str(value.name) for value in self.front.graph.outputs]
        return extract(model, [*input_names(model), *given], self.outputs)

    def restored(self, front: ir.Model) -> ir.Model:
        """A copy of another form of the front with the rest behind it, and inputs and outputs of the model.

        Initializers of ``front`` keep their names, those of the rest get new ones where these are taken.
        """
        model, rest = front.clone(), self.rest_of(self.whole)
        given = {str(value.name): value for value in (*model.graph.inputs, *model.graph.outputs)}
        for value in rest.graph.inputs:
            value.replace_all_uses_with(given[str(value.name)])
        made = {str(value.name): value for value in rest.graph.outputs}
        _make_room(model, made)
        _rename(rest, Names(model), made)
        rest.graph.outputs.clear()
        _move(rest, model)
        outputs = [str(value.name) for value in self.whole.graph.outputs]
        model.graph.outputs.clear()
        model.graph.outputs.extend(made.get(name) or given[name] for name in outputs)
        _list_defaults(model, self.whole)
        model.opset_imports.update({**self.whole.opset_imports, **model.opset_imports})
        return model


def cut(model: ir.Model, nodes: Iterable[ir.Node], measured: Collection[str] = ()) -> Cut:
    """Cut a model in front of nodes.

    What the rest needs beside its places follows from the inputs, or from outputs of the front, and is
    computed in the rest.

    Args:
        model: without functions and Constant nodes, with types inferred; it is not changed.
        nodes: the first ones of the rest; all that follows from them belongs to it.
        measured: further values that the front gives, for example the place a user named.

    Raises:
        ModelError: the front would give nothing, or a place has no known type.
    """
    rest: dict[ir.Node, None] = dict.fromkeys(nodes)
    reached = {value for node in rest for value in node.outputs}
    for node in model.graph:
        if node in rest or any(value in reached for value in reads(node)):
            rest[node] = None
            reached.update(node.outputs)
    kept = {value for value in model.graph.outputs if value not in reached}
    asked = {value for node in model.graph for value in node.outputs if value.name in measured} - reached
    read = {_moved_from(value, kept | asked) for node in rest for value in reads(node)} - reached
    met = learns(model, kept | asked | read)[1] | asked
    places = [value for node in model.graph for value in node.outputs if value in met - kept]
    if untyped := next((value for value in places if value.type is None), None):
        raise ModelError(f"the type of {untyped.name!r} is not known: no model can end there")
    names = [str(value.name) for value in (*(y for y in model.graph.outputs if y in kept), *places)]
    if not names:
        first = next(iter(rest))
        raise ModelError(
            f"nothing in front of node {first.name!r} ({key(first)}) follows from weights: "
            "nothing can be pruned"
        )
    return Cut(
        model,
        _part(model, names),
        tuple(str(value.name) for value in places),
        tuple(str(value.name) for value in model.graph.outputs if value in reached),
        tuple(str(node.name) for node in rest if has_weights(node)),
    )


def has_weights(node: ir.Node) -> bool:
    """Whether a node multiplies by a weight that is stored, or computed from what is stored."""
    return any(_is_stored(node, index) for index in lookup(node).weights)


def learns(model: ir.Model, told: Collection[ir.Value] = ()) -> tuple[set[ir.Value], set[ir.Value]]:
    """What follows from stored weights: values on a way around ``told``, and those of ``told`` that are
    met."""
    found, met = set[ir.Value](), set[ir.Value]()
    for node in model.graph:
        op = lookup(node)
        own = any(_is_stored(node, index) for index in (*op.weights, *op.learnt))
        follows = not op.shape_only and any(value in found for value in reads(node))
        if own or follows or (key(node) not in TABLE and _has_numbers(node)):
            for value in node.outputs:
                (met if value in told else found).add(value)
    return found, met


def _moved_from(value: ir.Value, told: Collection[ir.Value]) -> ir.Value:
    """The value whose elements are those of ``value`` in another order or shape; not from behind ``told``."""
    node = value.producer()
    while value not in told and node is not None and (lookup(node).view or key(node) == "Transpose"):
        source = node_facts.input_of(node, 0)
        if source is None or source.producer() is None:
            break
        value, node = source, source.producer()
    return value


def _is_stored(node: ir.Node, index: int) -> bool:
    cone = node_facts.constant_cone(node_facts.input_of(node, index))
    if cone is None:
        return False
    others = [value for i, value in enumerate(node.inputs) if i != index and value is not None]
    return any(node_facts.constant_cone(value) is None for value in others)  # else it is itself a constant


def _has_numbers(node: ir.Node) -> bool:
    """Whether a node nothing is known about holds numbers of its own, in its bodies too."""
    held = [value for value in node.inputs if value is not None and value.is_initializer()]
    held += [value for body in bodies(node) for value in body.initializers.values()]
    return any((kind := node_facts.dtype(value)) is not None and kind.is_floating_point() for value in held)


def _part(model: ir.Model, outputs: Collection[str]) -> ir.Model:
    """The part that gives ``outputs``, with all inputs and all that is said of the model."""
    part = extract(model, input_names(model), outputs)
    there = {str(value.name): value for value in part.graph.inputs}
    part.graph.inputs.clear()
    for value in real_inputs(model):
        name = str(value.name)
        part.graph.inputs.append(there.get(name) or ir.Value(name=name, shape=value.shape, type=value.type))
    _list_defaults(part, model)
    part.producer_name, part.producer_version = model.producer_name, model.producer_version
    part.domain, part.model_version, part.doc_string = model.domain, model.model_version, model.doc_string
    part.metadata_props.update(model.metadata_props)
    part.graph.meta.update(model.graph.meta)
    return part


def _list_defaults(model: ir.Model, like: ir.Model) -> None:
    """List the initializers among the inputs that are inputs of ``like`` as well, in its order."""
    if like.ir_version < 4:  # where they all are
        return
    held = {str(value.name): value for value in (*model.graph.inputs, *model.graph.initializers.values())}
    names = [str(value.name) for value in like.graph.inputs]
    model.graph.inputs.clear()
    model.graph.inputs.extend(held[name] for name in names if name in held)


def _make_room(model: ir.Model, outputs: Collection[str]) -> None:
    """Let no value inside of ``model`` have the name of an output that it does not give."""
    names = Names(model)
    for node in RecursiveGraphIterator(model.graph):
        for value in node.outputs:
            if value.name in outputs and not value.is_graph_output():
                value.name = names.fresh(str(value.name))


def _rename(rest: ir.Model, names: Names, outputs: Collection[str]) -> None:
    """Names that are free, for everything in ``rest`` but its outputs and its own initializers."""
    for graph in rest.graph.subgraphs():
        for value in graph.inputs:
            value.name = names.fresh(str(value.name))
        for name, value in list(graph.initializers.items()):
            tensor = value.const_value
            if tensor is not None and (free := names.fresh(name)) != name:
                own = ir.Value(name=free, shape=value.shape, type=value.type, const_value=named(tensor, free))
                value.replace_all_uses_with(own)
                del graph.initializers[name]
                graph.register_initializer(own)
    for node in RecursiveGraphIterator(rest.graph):
        node.name = names.fresh(str(node.name))
        for value in node.outputs:
            if value.name and value.name not in outputs:
                value.name = names.fresh(value.name)


def _move(rest: ir.Model, model: ir.Model) -> None:
    """Move the nodes of ``rest`` behind those of ``model``, with the initializers that they read."""
    names = Names(model)
    for name, value in list(rest.graph.initializers.items()):
        del rest.graph.initializers[name]
        there, tensor = model.graph.initializers.get(name), value.const_value
        if tensor is None:
            continue
        if there is not None and there.const_value is tensor:
            value.replace_all_uses_with(there)
        elif (free := names.fresh(name)) == name:
            model.graph.register_initializer(value)
        else:
            own = ir.Value(name=free, shape=value.shape, type=value.type, const_value=named(tensor, free))
            model.graph.register_initializer(own)
            value.replace_all_uses_with(own)
    nodes = list(rest.graph)
    rest.graph.remove(nodes)
    model.graph.extend(nodes)
