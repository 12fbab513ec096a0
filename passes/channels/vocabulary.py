"""Fewer tokens: rows of the embeddings of a language model, and columns of what scores them.

For the time of the cut, stand-ins have tokens for channels: what looks rows up reads the product of a row of
ones with its table, and an output with a score for each token gives their sum. So tokens go like any other
channel, through whatever lies between a weight and the scores, and a weight that serves both loses them once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.passes.canonical.own_constants import ShareConstants, prepare
from obs_onnx.passes.canonical.plainer.written_form import WriteForms
from obs_onnx.passes.channels.coupling import Coupling, couple
from obs_onnx.passes.channels.remove_channels import RemoveChannels
from obs_onnx.passes.errors import ModelError
from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.graph.inputs import real_inputs
from obs_onnx.passes.graph.names import Names, remove_if_unused
from obs_onnx.passes.graph.writer import Writer
from obs_onnx.passes.ops import key, lookup

__all__ = ["Vocabulary", "cut_vocabulary", "find_vocabulary"]

_VIEWS = ("Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze")
_BLOCKS = "com.microsoft::GatherBlockQuantized"
_NAMED = 3  # reasons in a message
_FILLED = 0.1  # of the tokens, that a table or the scores have more than the other


@dataclass(frozen=True)
class Vocabulary:
    """Where the tokens of a prepared model stand.

    Attributes:
        ids: the inputs of token ids.
        tables: first outputs of the nodes that look rows up by them.
        scores: outputs with an element for each token in their last axis, by name, and how many: tables and
            scores may be filled up to different sizes.
        size: number of tokens, as the tables have them.
    """

    ids: tuple[str, ...]
    tables: tuple[str, ...]
    scores: Mapping[str, int]
    size: int


def find_vocabulary(model: ir.Model, ids: Collection[str]) -> Vocabulary:
    """The tokens of a model that :func:`obs_onnx.passes.canonical.own_constants.prepare` has prepared.

    Args:
        model: stays as it is.
        ids: inputs that may hold token ids.

    Raises:
        ModelError: none of them chooses rows of a table, or tables have different numbers of rows.
    """
    found = {}
    for value in real_inputs(model):
        if value.name in ids:
            tables = [node for node, _, _ in _readers(value) if _is_lookup(node)]
            found.update({str(value.name): tables} if tables else {})
    if not found:
        raise ModelError("no input of token ids chooses rows of a table of embeddings")
    nodes = list(dict.fromkeys(node for tables in found.values() for node in tables))
    sizes = {rows for node in nodes if (rows := (node_facts.dims(node.inputs[0]) or (None,))[0]) is not None}
    if len(sizes) != 1:
        raise ModelError(
            f"{', '.join(found)} choose rows of tables that differ in the number of rows, or do not say it"
        )
    size = sizes.pop()
    scores = {
        str(value.name): last
        for value in model.graph.outputs
        if (kind := node_facts.dtype(value)) is not None
        and kind.is_floating_point()
        and len(dims := node_facts.dims(value) or ()) > 1
        and (last := dims[-1]) is not None
        and abs(last - size) <= _FILLED * size
    }
    return Vocabulary(tuple(found), tuple(str(node.outputs[0].name) for node in nodes), scores, size)


def cut_vocabulary(model: ir.Model, ids: Collection[str], kept: NDArray[np.int64]) -> ir.Model:
    """A copy of a model with some of the tokens: ids count those that are kept, in their order.

    Whatever else reads the ids (a comparison with a padding token, the place of the largest one) reads those
    of the model as it came in, which a table gives back.

    Args:
        model: as it came in.
        ids: inputs that may hold token ids.
        kept: (kept,) ids that stay, rising.

    Raises:
        ModelError: there is no vocabulary, or something keeps tokens from going.
    """
    copy = prepare(model, canonical=False)
    there = find_vocabulary(copy, ids)
    names = Names(copy)
    _restore_ids(names, copy, there, kept)
    nodes = {str(node.outputs[0].name): node for node in copy.graph if node.outputs}
    tables = [nodes[name] for name in there.tables]
    for node in tables:
        if key(node) == _BLOCKS:
            _take_rows(node, kept)
    probes = [_probe(names, node) for node in tables if key(node) != _BLOCKS]
    outputs = list(copy.graph.outputs)
    shapes = {value: value.shape for value in outputs}
    sums = [_sum(names, copy, value) for value in outputs if value.name in there.scores]
    _remove(copy, [*((name, 1) for name, _ in probes), *((name, 0) for name, _ in sums)], kept)
    for _, (node, table) in probes:
        product = node.inputs[0]
        assert product is not None
        node.replace_input_with(0, table)
        _drop(copy, product)
    for _, (value, total) in sums:
        copy.graph.outputs[copy.graph.outputs.index(total)] = value
        _drop(copy, total)
    for value in outputs:
        if value.name in there.scores:
            count = int((kept < there.scores[str(value.name)]).sum())
            value.shape = ir.Shape([*(shapes[value] or ())[:-1], count])
    WriteForms().call(copy)
    ShareConstants().call(copy)
    return copy


def _readers(value: ir.Value) -> Iterator[tuple[ir.Node, int, ir.Value]]:
    """Nodes that read ids, or the same ids in another shape or type; shapes of them do not count."""
    for use in value.uses():
        if use.idx == 0 and key(use.node) in _VIEWS and _is_whole(use.node.outputs[0]):
            yield from _readers(use.node.outputs[0])
        elif not lookup(use.node).shape_only:
            yield use.node, use.idx, value


def _is_whole(value: ir.Value) -> bool:
    kind = node_facts.dtype(value)
    return kind is not None and kind.is_integer() and not value.is_graph_output()


def _is_lookup(node: ir.Node) -> bool:
    """Whether the rows of a table are what a node takes by its second input."""
    if key(node) == "Gather":
        return (
            node_facts.int_attribute(node, "axis", 0) == 0 and len(node_facts.dims(node.inputs[0]) or ()) == 2
        )
    return key(node) == _BLOCKS and node_facts.int_attribute(node, "gather_axis", 0) == 0


def _restore_ids(names: Names, model: ir.Model, there: Vocabulary, kept: NDArray[np.int64]) -> None:
    inputs = [value for value in real_inputs(model) if value.name in there.ids]
    for node, slot, value in [one for ids in inputs for one in _readers(ids)]:
        if slot == 1 and _is_lookup(node):
            continue
        write = Writer(names, node)
        old = write.constant(kept, node_facts.dtype(value))
        node.replace_input_with(slot, write.op("Gather", [old, value], ir.AttrInt64("axis", 0)))


def _take_rows(node: ir.Node, kept: NDArray[np.int64]) -> None:
    """Rows of a table in blocks, its scales and its zero points."""
    for slot in (0, 2, 3):
        value = node_facts.input_of(node, slot)
        tensor = None if value is None else value.const_value
        if value is None:
            continue
        if tensor is None or len(list(value.uses())) > 1:
            raise ModelError(f"{value.name} is no constant that node {node.name} alone reads: tokens stay")
        array = np.array(tensor.numpy()[kept])
        value.const_value = ir.Tensor(array, dtype=tensor.dtype, name=value.name)
        value.shape = ir.Shape(array.shape)


def _probe(names: Names, node: ir.Node) -> tuple[str, tuple[ir.Node, ir.Value]]:
    """Let a node look up rows of the sum of its table, and say the name of the ones, and what it read."""
    table = node.inputs[0]
    assert table is not None
    rows = (node_facts.dims(table) or (0,))[0] or 0
    write = Writer(names, node)
    ones = write.constant(np.ones((1, rows)), node_facts.dtype(table))
    node.replace_input_with(0, write.op("MatMul", [ones, table]))
    return str(ones.name), (node, table)


def _sum(names: Names, model: ir.Model, value: ir.Value) -> tuple[str, tuple[ir.Value, ir.Value]]:
    """Let the sum of the scores be the output, and say the name of the ones, and both values."""
    node = value.producer()
    if node is None or value.shape is None:
        raise ModelError(f"output {value.name} is an input: its tokens stay")
    write = Writer(names, node)
    count = value.shape[-1]
    assert isinstance(count, int)
    ones = write.constant(np.ones((count, 1)), node_facts.dtype(value))
    total = write.op("MatMul", [value, ones], behind=True)
    total.shape = ir.Shape([*value.shape[:-1], 1])
    model.graph.outputs[model.graph.outputs.index(value)] = total
    return str(ones.name), (value, total)


def _remove(model: ir.Model, probes: list[tuple[str, int]], kept: NDArray[np.int64]) -> None:
    coupling = couple(model)
    for name, axis in probes:
        if why := _bound(coupling, name, axis):
            raise ModelError(f"the vocabulary cannot be cut: {'; '.join(why[:_NAMED])}")
    sizes = {name: len((coupling.axes(coupling.named(name)) or [])[axis]) for name, axis in probes}
    stay = {name: {str(axis): kept[kept < sizes[name]].tolist()} for name, axis in probes}
    RemoveChannels(coupling.keep_from(stay), coupling).call(model)
    for name, axis in probes:
        shape = model.graph.initializers[name].shape
        if shape is None or shape[axis] != len(stay[name][str(axis)]):
            raise ModelError("the vocabulary cannot be cut: some tokens can only go along with others")


def _bound(coupling: Coupling, name: str, axis: int) -> list[str]:
    """Why tokens cannot go, where they cannot."""
    labels = (coupling.axes(coupling.named(name)) or [])[axis]
    if labels.shape[1] and (coupling.groups_along(labels) >= 0).any(1).all():
        return []
    return [f"node {one.node} ({one.op_type}): {one.reason}" for one in coupling.frozen] or [
        "it is not known why"
    ]


def _drop(model: ir.Model, value: ir.Value) -> None:
    """Remove a product that nothing reads any more, and its ones."""
    node = value.producer()
    assert node is not None
    inputs = list(node.inputs)
    model.graph.remove(node, safe=True)
    for one in inputs:
        if one is not None and one.is_initializer():
            remove_if_unused(model, one)
