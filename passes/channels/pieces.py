"""Which elements of an output's axes come from where: pieces that a Concat puts together, channels of a
layer.

Every operator's table says how it carries labels from axis to axis (:mod:`obs_onnx.passes.traits.relation`),
through Reshape, Transpose, Slice and arithmetic. A layer gives its channels labels of their own; here each
input of a Concat gets further ones where channels stand along its axis. The labels that arrive at an output
tell its channels from axes of positions (which have none), and its pieces from each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from obs_onnx.passes.channels.relate import relate
from obs_onnx.passes.graph.scopes import reads
from obs_onnx.passes.ops import key
from obs_onnx.passes.shapes.concrete import concretize
from obs_onnx.passes.traits.atoms import Atoms, Labels, fixed
from obs_onnx.passes.traits.relation import Graph

__all__ = ["ChannelAxis", "Piece", "channel_axes"]


@dataclass(frozen=True)
class Piece:
    """Elements of an axis that come from one place.

    Attributes:
        elements: their indices, rising.
        node: that gave them, where it is known.
    """

    elements: tuple[int, ...]
    node: str = ""


@dataclass(frozen=True)
class ChannelAxis:
    """An axis of an output along which channels stand.

    Attributes:
        axis: which one.
        pieces: of it, in the order of their first elements; together they are the whole axis.
    """

    axis: int
    pieces: tuple[Piece, ...]


def channel_axes(model: ir.Model) -> dict[str, tuple[ChannelAxis, ...]]:
    """Axes of the outputs of ``model`` along which channels stand; outputs of which nothing is known have
    none.

    Args:
        model: functions inlined, constants lifted; stays as it is.
    """
    graph = _Carried(Atoms(), concretize(model), model.opset_imports.get("", 1))
    givers = [""]  # by family of atoms
    needed = _ancestors(model)
    for node in model.graph:
        if node not in needed:
            continue
        relate(node, graph)
        givers += [str(node.name)] * (int(graph.atoms.family.max()) + 1 - len(givers))
        if key(node) == "Concat":
            _mark(node, graph, givers)
    found = {}
    for output in model.graph.outputs:
        axes = [
            ChannelAxis(axis, _pieces(graph.atoms, labels, givers))
            for axis, labels in enumerate(graph.axes(output) or ())
            if graph.atoms.resolve(labels).shape[1]
        ]
        found[str(output.name)] = tuple(axes)
    return found


class _Carried(Graph):
    """Labels that only tell elements apart: what may not be removed keeps them, too."""

    def fix(self, node: ir.Node, axes: Sequence[Labels], reason: str | None) -> None:
        """Nothing is removed here."""


def _ancestors(model: ir.Model) -> set[ir.Node]:
    """Nodes that an output depends on: what others say about the axes that they read does not count."""
    found: set[ir.Node] = set()
    waiting = [node for output in model.graph.outputs if (node := output.producer()) is not None]
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += [producer for value in reads(node) if (producer := value.producer()) is not None]
    return found


def _mark(node: ir.Node, graph: Graph, givers: list[str]) -> None:
    """Give the inputs of a Concat labels of their own, where channels stand along its axis."""
    (output,) = node.outputs
    axes, given = graph.labels.get(output), [value for value in node.inputs if value is not None]
    shapes = [graph.concrete.shapes.get(value) for value in given]
    if axes is None or len(given) < 2 or any(shape is None or len(shape) != len(axes) for shape in shapes):
        return
    sizes = [shape for shape in shapes if shape is not None]
    along = [axis for axis, labels in enumerate(axes) if sum(one[axis] for one in sizes) == len(labels)]
    if len(along) != 1 or not graph.atoms.resolve(axes[along[0]]).shape[1]:
        return
    marks = []
    for value, shape in zip(given, sizes, strict=True):
        marks.append(graph.atoms.fresh(max(shape[along[0]], 2))[: shape[along[0]]])
        producer = value.producer()
        giver = str(value.name if producer is None else producer.name)
        givers += [giver] * (int(graph.atoms.family.max()) + 1 - len(givers))
    if all(mark.shape[1] for mark in marks):
        axes[along[0]] = np.concatenate([axes[along[0]], np.concatenate(marks)], axis=1)


def _pieces(atoms: Atoms, labels: Labels, givers: list[str]) -> tuple[Piece, ...]:
    """Elements with atoms of the same families."""
    labels = atoms.resolve(labels)
    families = np.where(labels != 0, atoms.family[labels], 0)
    families = np.sort(families, axis=1) if families.shape[1] else fixed(len(labels))
    kinds, kind = np.unique(families, axis=0, return_inverse=True)
    found = []
    for number, members in enumerate(kinds):
        newest = int(members.max(initial=0))
        elements = np.flatnonzero(kind.reshape(-1) == number)
        found.append(Piece(tuple(elements.tolist()), givers[newest]))
    return tuple(sorted(found, key=lambda piece: piece.elements[0]))
