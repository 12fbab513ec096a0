"""What one node says about the axes of its inputs and outputs, and what it left open.

A rule may forget an axis, which would then be free to lose elements that the node needs. So an element that
reaches no output, is combined nowhere (:meth:`Relation.mix`) and is not said to be dispensable
(:meth:`Relation.leave`) is fixed. Where axes of the inputs share atoms, one that was forgotten could hide
behind another: there the rule runs a second time, apart from the graph, and each axis has its own atoms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.passes.errors import reason
from obs_onnx.passes.graph.scopes import bodies, reads
from obs_onnx.passes.graph.usage import is_used
from obs_onnx.passes.ops import key, lookup
from obs_onnx.passes.traits.atoms import Atoms, Labels, fixed
from obs_onnx.passes.traits.relation import Freeze, Graph, Relation

__all__ = ["relate"]


def relate(node: ir.Node, graph: Graph) -> None:
    """Add to ``graph`` what the operator's table says about ``node``; what is not known is fixed."""
    relation, distinct = Relation(node, graph), _distinct(node, graph)
    before = len(graph.mixes), len(graph.shrinks), len(graph.restated)
    try:
        rule = _rule(node, graph)
        rule(relation)
        _fix_open(
            relation, relation if distinct else _alone(relation, rule), before[:2] if distinct else (0, 0)
        )
        unasked = [value for slot, value in enumerate(node.inputs) if value and slot not in relation.asked]
        why = None
    except Exception as freeze:  # a rule may trip over a node that is not what its operator expects
        del graph.mixes[before[0] :], graph.shrinks[before[1] :], graph.restated[before[2] :]
        unasked, why = reads(node), _why(freeze)
        for value in node.outputs:
            graph.fix(node, graph.labels.get(value, []), why)
            if (shape := graph.concrete.shapes.get(value)) is not None:
                graph.labels[value] = [fixed(n) for n in shape]
    for value in unasked:
        graph.fix(node, graph.axes(value) or [], why)


def _rule(node: ir.Node, graph: Graph) -> Callable[[Relation], None]:
    op = lookup(node)
    rule = op.relate
    if any(True for _ in bodies(node)):
        raise Freeze("it holds a body of its own")
    if op.random:
        raise Freeze("it draws random numbers, which would be others once there are fewer")
    if rule is None:
        raise Freeze("nothing is known about how its axes relate")
    if node in graph.concrete.unknown and any(graph.axes(y) is None for y in node.outputs if is_used(y)):
        raise Freeze(f"its shapes are not known: {graph.concrete.unknown[node]}")
    return rule


def _distinct(node: ir.Node, graph: Graph) -> bool:
    """Whether no atom stands in two axes of the inputs; what is not labelled yet gets its own atoms."""
    values = [value for value in node.inputs if value is not None]
    found = np.zeros(graph.atoms.count, bool)
    for value in values:
        for labels in graph.labels.get(value, ()):
            atoms = graph.atoms.resolve(labels)
            if found[atoms].any():
                return False
            found[atoms[atoms != 0]] = True
    return len(set(values)) == len(values)


def _alone(done: Relation, rule: Callable[[Relation], None]) -> Relation:
    """What ``rule`` says where every axis that can lose elements has atoms of its own."""
    atoms = Atoms()
    own = {
        slot: [
            atoms.fresh(len(labels)) if done.atoms.resolve(labels).shape[1] else fixed(len(labels))
            for labels in done.axes(slot)
        ]
        for slot in done.asked
    }
    relation = Relation(done.node, Graph(atoms, done.graph.concrete, done.graph.opset), own)
    rule(relation)
    return relation


def _fix_open(done: Relation, said: Relation, before: tuple[int, int]) -> None:
    """Fix in the graph of ``done`` what ``said``, the same with its own atoms, leaves open.

    Args:
        done: what the rule said in the graph.
        said: ``done`` itself, or what the rule said apart from the graph.
        before: numbers of mixes and shrinks in the graph of ``said`` before the rule ran.
    """
    node, graph = done.node, said.graph
    given = _atoms(graph, [labels for y in node.outputs for labels in graph.labels.get(y, ())])
    known = given | _atoms(graph, [*(mix.labels for mix in graph.mixes[before[0] :]), *said.absent])
    read = np.zeros_like(known)
    for slot in done.asked:
        for labels, own in zip(done.axes(slot), said.axes(slot), strict=True):
            atoms = graph.atoms.resolve(own)
            if not atoms.shape[1]:  # of any length
                continue
            read[atoms] = True
            if not (right := known[atoms].all(1)).all():
                done.fix(labels[~right], f"nothing is known about what {key(node)} does along this axis")
    read[0] = True
    if len(graph.shrinks) == before[1] and (given & ~read).any():
        for y in node.outputs:
            done.fix(
                done.graph.labels.get(y, []), f"nothing is known about how {key(node)} gives fewer of them"
            )


def _atoms(graph: Graph, axes: Sequence[Labels]) -> NDArray[np.bool_]:
    """Which atoms stand in any of ``axes``; padding does."""
    found = np.zeros(graph.atoms.count, bool)
    found[0] = True
    for labels in axes:
        found[graph.atoms.resolve(labels)] = True
    return found


def _why(error: Exception) -> str:
    return (
        str(error) if isinstance(error, Freeze) else f"it is not what its operator expects ({reason(error)})"
    )
