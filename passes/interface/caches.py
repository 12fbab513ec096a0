"""Caches: inputs of a model that an output gives again, keys and values with further tokens behind, or states
of linear attention and causal convolutions after these tokens.

Where caches may change, a model is worked on without the outputs, and with inputs as they were: whoever
feeds it need not know what is gone, which a Gather behind the input drops. At the end inputs and outputs have
the sizes that are left.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.passes.errors import ModelError, OptionError, named
from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.graph.inputs import real_inputs
from obs_onnx.passes.graph.names import Names, remove_if_unused
from obs_onnx.passes.ops import key, lookup

__all__ = ["Cache", "Caches", "Kept", "changing", "find_caches", "narrowed"]

Kept = Mapping[str, Mapping[int, Sequence[int]]]
"""``{input: {axis: kept indices}}``."""


def narrowed(feed: Mapping[str, NDArray[Any]], kept: Kept) -> dict[str, NDArray[Any]]:
    """Arrays for the dense model as those for a smaller one, of which it keeps parts."""
    found = dict(feed)
    for name, axes in kept.items():
        for axis, index in axes.items():
            found[name] = found[name].take(index, axis)
    return found


@dataclass(frozen=True)
class Cache:
    """An input, and the output that becomes it in the next step.

    Attributes:
        past, present: their names.
        giver: name of the first output of the node that gives ``present``.
        index: which output of that node it is.
    """

    past: str
    present: str
    giver: str
    index: int


def find_caches(model: ir.Model) -> tuple[Cache, ...]:
    """Caches of ``model``: a node of attention, a recurrence, a Concat or TensorScatter takes and gives them.

    Both are of a floating-point type and equally many axes. Identity nodes in between do not count.
    """
    found, taken = [], set[str]()
    inputs = {value for value in real_inputs(model) if _is_float(value)}
    for present in model.graph.outputs:
        value = present
        while (node := value.producer()) is not None and key(node) == "Identity":
            first = node_facts.input_of(node, 0)
            if first is None:
                break
            value = first
        if node is None or value.is_graph_input():
            continue
        for past in _pasts(node, value.index() or 0):
            name = str(past.name)
            if past in inputs and name not in taken and _rank(past) == _rank(present):
                taken.add(name)
                found.append(Cache(name, str(present.name), str(node.outputs[0].name), value.index() or 0))
                break
    return tuple(found)


def changing(model: ir.Model, name: str) -> Caches:
    """The caches of a model, which may change; ``name`` is what messages call it.

    Raises:
        OptionError: it has none.
    """
    pairs = find_caches(model)
    if not pairs:
        raise OptionError(
            f"{named('change_caches')}: {name} has no cache, an input that an output gives again "
            "for the next tokens: leave it out"
        )
    return Caches(model, pairs)


def _pasts(node: ir.Node, index: int) -> Iterator[ir.Value]:
    """What output ``index`` of a node holds in front."""
    op = lookup(node)
    slots = [past for past, present in (*op.caches, *op.states) if present == index]
    for slot in range(len(node.inputs)) if op.joins else slots:
        value = node_facts.input_of(node, slot)
        while value is not None and (above := value.producer()) is not None and key(above) == "Identity":
            value = node_facts.input_of(above, 0)
        if value is not None:
            yield value


def _rank(value: ir.Value) -> int:
    return -1 if value.shape is None else len(value.shape)


def _is_float(value: ir.Value) -> bool:
    kind = node_facts.dtype(value)
    return kind is not None and kind.is_floating_point() and value.shape is not None


@dataclass(frozen=True)
class Caches:
    """A model whose caches may change.

    Attributes:
        whole: as it came in.
        pairs: its caches.
    """

    whole: ir.Model
    pairs: tuple[Cache, ...]

    @property
    def names(self) -> frozenset[str]:
        """Of the inputs."""
        return frozenset(one.past for one in self.pairs)

    def inner(self, model: ir.Model) -> ir.Model:
        """A copy of another form of the model without the outputs that are caches."""
        copy, gone = model.clone(), {one.present for one in self.pairs}
        outputs = [value for value in copy.graph.outputs if value.name not in gone]
        if not outputs:
            raise ModelError("the model gives nothing but caches")
        copy.graph.outputs.clear()
        copy.graph.outputs.extend(outputs)
        return copy

    def kept(self, model: ir.Model) -> Kept:
        """What a smaller form of :meth:`inner` still reads of each cache, where that is not all."""
        found: dict[str, dict[int, Sequence[int]]] = {}
        for value in model.graph.inputs:
            axes: dict[int, NDArray[Any]] = {}
            for gather in _dropping(value) if value.name in self.names else ():
                index = node_facts.array(gather, 1)
                assert index is not None
                axis = node_facts.int_attribute(gather, "axis")
                axes[axis] = axes[axis][index] if axis in axes else index
            if axes:
                found[str(value.name)] = {axis: [int(i) for i in index] for axis, index in axes.items()}
        return found

    def droppers(self, model: ir.Model) -> list[str]:
        """Names of the nodes that drop elements of inputs, which go when a model is :meth:`closed`."""
        pasts = [value for value in model.graph.inputs if value.name in self.names]
        return [str(gather.name) for value in pasts for gather in _dropping(value)]

    def shown(self, model: ir.Model) -> ir.Model:
        """A copy of a form of :meth:`inner` with the outputs behind its own, as far as it gives them."""
        copy = model.clone()
        names, made = Names(copy), _givers(copy)
        types = {str(value.name): value.type for value in self.whole.graph.outputs}
        for one in self.pairs:
            if one.giver in made:
                value = _output(copy, made[one.giver], one, names)
                value.type = types[one.present]
                copy.graph.outputs.append(value)
        return copy

    def closed(self, model: ir.Model) -> ir.Model:
        """A copy of a form of :meth:`inner` with the outputs, and with inputs of the sizes that are left.

        Raises:
            ModelError: a node that gives a cache is gone.
        """
        kept, copy = self.kept(model), model.clone()
        names, inputs = Names(copy), {str(value.name): value for value in copy.graph.inputs}
        made = _givers(copy)
        given = {str(value.name): value for value in copy.graph.outputs}
        shapes = {str(value.name): value for value in (*self.whole.graph.inputs, *self.whole.graph.outputs)}
        for one in self.pairs:
            axes = kept.get(one.past, {})
            if (past := inputs.get(one.past)) is not None and axes:
                _drop_gathers(copy, past)
                past.shape = _with_sizes(past.shape, axes)
            if (node := made.get(one.giver)) is None:
                raise ModelError(f"nothing gives the cache {one.present} any more")
            value = _output(copy, node, one, names)
            value.type = shapes[one.present].type
            value.shape = _with_sizes(shapes[one.present].shape, axes)
            given[one.present] = value
        copy.graph.outputs.clear()
        copy.graph.outputs.extend(given[str(value.name)] for value in self.whole.graph.outputs)
        return copy


def _givers(model: ir.Model) -> dict[str, ir.Node]:
    return {str(node.outputs[0].name): node for node in model.graph if node.outputs}


def _dropping(value: ir.Value) -> list[ir.Node]:
    """The Gathers of constant elements of an axis, one behind the other, that alone read ``value``."""
    found: list[ir.Node] = []
    while not value.is_graph_output() and len(nodes := list(value.consumers())) == 1:
        index = node_facts.constant(nodes[0], 1) if key(nodes[0]) == "Gather" else None
        if index is None or len(index.shape) != 1:
            break
        found.append(nodes[0])
        value = nodes[0].outputs[0]
    return found


def _drop_gathers(model: ir.Model, value: ir.Value) -> None:
    for gather in _dropping(value):
        gather.outputs[0].replace_all_uses_with(value)
        index = gather.inputs[1]
        model.graph.remove(gather, safe=True)
        remove_if_unused(model, index)


def _with_sizes(shape: ir.Shape | None, axes: Mapping[int, Sequence[int]]) -> ir.Shape | None:
    if shape is None:
        return None
    return ir.Shape([len(axes[axis]) if axis in axes else dim for axis, dim in enumerate(shape)])


def _output(model: ir.Model, node: ir.Node, one: Cache, names: Names) -> ir.Value:
    """The value that is to be the output ``one.present``, under its name."""
    if len(node.outputs) <= one.index:
        node.resize_outputs(one.index + 1)
    value = node.outputs[one.index]
    if value.name == one.present:
        return value
    if one.index and not value.is_graph_output():
        value.name = one.present
        return value
    copy = ir.Node("", "Identity", [value], name=names.fresh(f"{one.present}.Identity"), num_outputs=1)
    model.graph.append(copy)
    copy.outputs[0].name = one.present
    return copy.outputs[0]
