"""Where a graph decides on numbers or draws them, and the same places in other forms of it.

Rounding errors may turn a decision into another one (the largest of two equal scores, a number halfway
between two steps), and what is drawn is another number in every run. A comparison of two models takes these
places apart: what goes in, what comes out of equal numbers, and everything that follows from equal results.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import onnx_ir as ir

from obs_onnx.passes.canonical.fixed_numbers import drops_out
from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.graph.inputs import real_inputs
from obs_onnx.passes.graph.scopes import bodies, reads
from obs_onnx.passes.ops import key, lookup
from obs_onnx.passes.traits.lipschitz import independent

__all__ = [
    "Decision",
    "Forms",
    "Place",
    "behind",
    "decided_outputs",
    "decides",
    "deciding_nodes",
    "drawn_outputs",
    "draws",
    "in_all",
]


def decides(node: ir.Node) -> bool:
    """Whether the node, or one in its bodies, decides on numbers; a Cast to integers rounds as well."""
    return any(lookup(one).decides or _loses_fractions(one) for one in _with_bodies(node))


def draws(node: ir.Node) -> bool:
    """Whether the results are other numbers in every run."""
    return any(lookup(one).random or drops_out(one) for one in _with_bodies(node))


def deciding_nodes(model: ir.Model) -> list[ir.Node]:
    """Nodes of the main graph that draw, or decide on what follows from more than the sizes of the inputs."""
    varies: set[ir.Value] = set(real_inputs(model))
    found = []
    for node in model.graph:
        random, reads_data = draws(node), any(value in varies for value in reads(node))
        if random or (reads_data and not lookup(node).shape_only):
            varies.update(node.outputs)
        if random or (reads_data and decides(node)):
            found.append(node)
    return found


def behind(model: ir.Model, nodes: Iterable[ir.Node], cut: Container[ir.Node] = ()) -> set[str]:
    """Names of the results of ``nodes``, and of all that follows from them on a way around ``cut``."""
    reached = {value for node in nodes for value in node.outputs}
    for node in model.graph:
        if node not in cut and any(value in reached for value in reads(node)):
            reached.update(node.outputs)
    return {str(value.name) for value in reached}


def decided_outputs(model: ir.Model) -> set[str]:
    """Outputs that follow from a decision taken on numbers: an index, a comparison, a rounded number."""
    reached = behind(model, [node for node in deciding_nodes(model) if decides(node)])
    return {str(value.name) for value in model.graph.outputs} & reached


def drawn_outputs(model: ir.Model) -> dict[str, str]:
    """Outputs in which nothing but drawn numbers follows from the inputs, and a reason that says so."""
    sources = [node for node in model.graph if lookup(node).random and lookup(node).lipschitz is independent]
    if not sources:
        return {}
    varies: set[ir.Value] = set(real_inputs(model))
    for node in model.graph:
        if node not in sources and not lookup(node).shape_only and any(x in varies for x in reads(node)):
            varies.update(node.outputs)
    fixed = {str(value.name) for value in model.graph.outputs if value not in varies}
    reasons: dict[str, str] = {}
    for node in sources:
        for name in sorted(fixed & behind(model, [node])):
            reasons.setdefault(name, f"is drawn at random by node {node.name} ({key(node)})")
    return reasons


class Forms(NamedTuple):
    """A model with its own weights, with channels silenced, and without them."""

    dense: ir.Model
    silenced: ir.Model
    small: ir.Model


class Place(NamedTuple):
    """Names of a value in each form."""

    dense: str
    silenced: str
    small: str


@dataclass(frozen=True)
class Decision:
    """A node that decides or draws, in all forms of a graph.

    Attributes:
        node, op: its name, and what it does.
        random: its results are drawn.
        outputs: names of the results that are used, the same in all forms.
        reads: what it takes of that which is computed before.
    """

    node: str
    op: str
    random: bool
    outputs: tuple[str, ...]
    reads: tuple[Place, ...]

    def __str__(self) -> str:
        return f"node {self.node} ({self.op})"


def in_all(nodes: Sequence[ir.Node], models: Forms) -> list[Decision | None]:
    """Each of ``nodes`` in all of ``models``; None where it is not in all, or not of tensors alone."""
    made = [ir.convenience.create_value_mapping(model.graph, include_subgraphs=False) for model in models]
    return [_in_all(node, made) for node in nodes]


def _in_all(node: ir.Node, made: Sequence[Mapping[str, ir.Value]]) -> Decision | None:
    outputs = _used(node)
    names = tuple(str(value.name) for value in outputs)
    found = [{values[name].producer() if name in values else None for name in names} for values in made]
    twins = [twin for one in found for twin in one if twin is not None and key(twin) == key(node)]
    slots = [reads(twin) for twin in twins]
    if any(len(one) != 1 for one in found) or len(twins) != len(made) or len({*map(len, slots)}) != 1:
        return None
    computed = [
        values for values in zip(*slots, strict=True) if not any(value.is_initializer() for value in values)
    ]
    if not all(map(_is_plain, [*outputs, *(value for values in computed for value in values)])):
        return None
    read = tuple(Place(*(str(value.name) for value in values)) for values in computed)
    return Decision(str(node.name), key(node), draws(node), names, read)


def _used(node: ir.Node) -> list[ir.Value]:
    return [value for value in node.outputs if value.uses() or value.is_graph_output()]


def _with_bodies(node: ir.Node) -> Iterator[ir.Node]:
    yield node
    for body in bodies(node):
        yield from body.all_nodes()


def _loses_fractions(node: ir.Node) -> bool:
    """Whether numbers without fractions are made of numbers with fractions."""
    if lookup(node).shape_only:
        return False
    made = [kind for value in _used(node) if (kind := node_facts.dtype(value)) is not None]
    return any(not kind.is_floating_point() for kind in made) and any(
        (kind := node_facts.dtype(value)) is not None and kind.is_floating_point()
        for value in node_facts.data_inputs(node)
    )


def _is_plain(value: ir.Value) -> bool:
    """A tensor of a type that can be fed."""
    if value.type is not None and not isinstance(value.type, ir.TensorType):
        return False
    kind = node_facts.dtype(value)
    return kind is None or kind == ir.DataType.STRING or kind.numpy().kind in "biuf"
