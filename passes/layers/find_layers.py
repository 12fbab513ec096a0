"""Layers: whatever multiplies an activation by a constant weight, brought to one canonical form.

Every weight becomes ``w_GOI`` (groups, outputs per group, inputs per group) and every input of it
``x_GNI`` (groups, positions, inputs per group), so that nobody asks afterwards what kind of layer it
was. For convolutions the last axis of ``w_GOI`` runs over kernel offsets first and input channels last
(channels are neighbours): N:M patterns and blocks along the input axis are then plain runs of columns.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.traversal import RecursiveGraphIterator

from obs_onnx.passes.errors import ModelError
from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.graph.parameters import SPARSE
from obs_onnx.passes.layers.bias import bias_add
from obs_onnx.passes.layers.layer import Frozen, Layer, Use
from obs_onnx.passes.ops import key, lookup
from obs_onnx.passes.traits.linear import Linear

__all__ = ["check_any", "find_layers"]

_NAMED = 5  # kinds of nodes in a message
_MINOR = ("Identity", "Cast", "Reshape")  # kinds that say nothing about a model


def check_any(model: ir.Model, name: str) -> None:
    """Raise ModelError for a canonical model without layers, as are trees and linear models.

    Args:
        model: where no part was found that could be pruned.
        name: what messages call it.
    """
    if any(find_layers(model)):
        return
    kinds = dict.fromkeys(node.op_type for node in RecursiveGraphIterator(model.graph))
    telling = [kind for kind in kinds if kind not in _MINOR] or list(kinds)
    more = ["others"] if len(telling) > _NAMED else []
    raise ModelError(
        f"{name} has no layers, so nothing in it can be pruned: it is made of "
        f"{', '.join([*telling[:_NAMED], *more])}"
    )


def find_layers(model: ir.Model) -> tuple[list[Layer], list[Frozen]]:
    """All prunable weights of a canonical ``model``, and all other weights with the reason.

    Returns:
        Layers in topological order of their first use, and one :class:`Frozen` for each node that holds
        weights which stay as they are.
    """
    frozen: dict[ir.Node, str] = {}
    found: dict[ir.Value, list[tuple[ir.Node, Linear]]] = {}
    for node in RecursiveGraphIterator(model.graph):
        op = lookup(node)
        if op.linear is None:
            continue
        with node_facts.inside(node):
            linear = op.linear(node)
        if linear is None:
            linear = _computed_weight(node)
        elif node.graph is not model.graph:
            linear = "weights used inside the body of a control flow operator are not pruned"
        if isinstance(linear, str):
            frozen[node] = linear
        elif linear is not None:
            weight = node.inputs[linear.weight_input]
            assert weight is not None
            found.setdefault(weight, []).append((node, linear))

    layers, living = [], _living(model.graph)
    for weight, uses in found.items():
        reason = _why_frozen(weight, uses)
        if not any(node in living for node, _ in uses):
            reason = "no output of the model depends on it"
        if reason is not None:
            frozen.update((node, reason) for node, _ in uses)
            continue
        first, linear = uses[0]
        layers.append(
            Layer(
                str(weight.name) if linear.integers is None else linear.integers.q,
                key(first),
                linear.layout,
                tuple(_use(node, lin) for node, lin in uses),
                linear.integers,
                str(weight.name),
            )
        )
    return layers, [Frozen(str(node.name), key(node), reason) for node, reason in frozen.items()]


def _living(graph: ir.Graph) -> set[ir.Node]:
    """Nodes that an output of the graph, or a body inside it, depends on."""
    living: set[ir.Node] = set()
    for node in reversed(graph):
        for value in node.outputs:
            users = (usage.node for usage in value.uses())
            if value.is_graph_output() or any(user.graph is not graph or user in living for user in users):
                living.add(node)
                break
    return living


def _computed_weight(node: ir.Node) -> str | None:
    """Why the weight is not prunable when one operand is computed from constants and the other is not."""
    operands = [(value, node_facts.constant_cone(value)) for value in node.inputs[:2] if value is not None]
    computed = [(value, cone) for value, cone in operands if cone]
    if len(operands) < 2 or len(computed) != 1 or any(cone == [] for _, cone in operands):
        return None
    value, cone = computed[0]
    stored = [v for member in cone for v in member.inputs if v is not None and v.is_initializer()]
    largest = max(stored, key=node_facts.size, default=None)
    if any(lookup(member).quantizes for member in cone):
        return "quantized weights are not pruned"
    if largest is None or node_facts.size(largest) < 2:
        return None
    for usage in largest.uses():
        if usage.node not in cone:
            return f"its weight {largest.name} is also used by {usage.node.op_type} {usage.node.name}"
    return f"its weight is computed from {largest.name} by {value.producer().op_type}"  # type: ignore[union-attr]


def _why_frozen(weight: ir.Value, uses: list[tuple[ir.Node, Linear]]) -> str | None:
    if weight.meta.get(SPARSE):
        return f"its weight {weight.name} is stored as a sparse tensor"
    if weight.is_graph_output():
        return f"its weight {weight.name} is an output of the model"
    own = {(node, linear.weight_input) for node, linear in uses}
    others = [usage.node for usage in weight.uses() if (usage.node, usage.idx) not in own]
    if others:
        return f"its weight {weight.name} is also used by {others[0].op_type} {others[0].name}"
    if len({linear.layout for _, linear in uses}) > 1:
        return f"its weight {weight.name} is used in several layouts"
    return _shared(weight, uses)


def _shared(weight: ir.Value, uses: list[tuple[ir.Node, Linear]]) -> str | None:
    """Why integers that a weight or a bias is stored in are not its own."""
    graph = uses[0][0].graph
    for node, linear in uses:
        bias = None if linear.bias_input is None else node.inputs[linear.bias_input]
        for value, integers in ((weight, linear.integers), (bias, linear.bias_integers)):
            if integers is None or value is None or graph is None:
                continue
            own = {*(node_facts.constant_cone(value) or ()), *(one for one, _ in uses)}
            for name in integers.names:
                held = graph.initializers[name]
                others = [usage.node for usage in held.uses() if usage.node not in own]
                if others or held.is_graph_output() or len(held.uses()) > len(uses):
                    user = f"{others[0].op_type} {others[0].name}" if others else "the model itself"
                    return f"its weight is computed from {name}, which is also used by {user}"
    return None


def _use(node: ir.Node, linear: Linear) -> Use:
    x, y, bias = node.inputs[linear.data_input], node.outputs[0], None
    if linear.bias_input is not None:
        bias = node.inputs[linear.bias_input]
    elif linear.bias_behind:
        y, bias = bias_add(y, linear)
    assert x is not None
    name = None if bias is None else str(bias.name)
    return Use(
        str(node.name),
        str(x.name),
        str(y.name),
        linear.geometry,
        name if linear.bias_integers is None else linear.bias_integers.q,
        linear.bias_scale,
        linear.bias_integers,
        linear.input_scale,
    )
