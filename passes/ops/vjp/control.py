"""Vector-Jacobian products of If, Loop and Scan: the bodies are computed again and differentiated.

If: an If with the same condition, whose branches give the gradients of what the forward branches read.

Loop and Scan, with carried values h, slices x_t and y_t of inputs and outputs and outer values w, compute
(h_t, y_t) = f(h_(t-1), x_t, w): a Scan goes from the last step to the first with dL/dh_t and sums of dL/dw,

    dL/dh_(t-1), dL/dx_t, dL/dw (of step t) = vjp of f at (h_(t-1), x_t, w) for (dL/dh_t, dL/dy_t)

For that the forward node gets further outputs: what it carried into each step. Only those that the backward
body reads are stored. The result is made of the same operators, so that it can be differentiated again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.graph.bodies import copy_body, drop_dead_nodes, infer_body
from obs_onnx.passes.graph.emitter import Emitter
from obs_onnx.passes.graph.scopes import bodies
from obs_onnx.passes.traits.vjp import Vjp

__all__ = ["RULES"]


@dataclass(frozen=True)
class _Carried:
    """A value that goes from one step to the next: a slot of the node and the place in its body."""

    slot: int
    before: ir.Value
    after: ir.Value
    output: int


@dataclass(frozen=True)
class _Scanned:
    """An input that is taken apart, or an output that is put together, a slice for each step."""

    slot: int
    inner: ir.Value
    axis: int
    direction: int


def _if(v: Vjp) -> None:
    v.stop(0)
    branches = {name: copy_body(v, v.node.attributes[name].as_graph()) for name in _BRANCHES}
    found = {}
    for name, branch in branches.items():
        infer_body(v, branch)
        inside = v.to(f"{v.near}.{name}", branch)
        arriving = [
            (branch.outputs[k], inside.shaped(inside.op("Identity", grad), branch.outputs[k]))
            for k, grad in v.grads.items()
        ]
        found[name] = _backpropagate(v, inside, arriving, v.outer)
    kept = [k for k in range(len(v.outer)) if any(grads[k] is not None for grads in found.values())]
    if not kept:
        return
    for name, branch in branches.items():
        inside = v.to(f"{v.near}.{name}", branch)
        _set_outputs(inside, [_or_zeros(inside, found[name][k], v.outer[k]) for k in kept])
        drop_dead_nodes(branch)
    attributes = [ir.AttrGraph(name, branch) for name, branch in branches.items()]
    outputs = _append(v, "If", [v.x(0)], attributes, [v.outer[k] for k in kept])
    for k, output in zip(kept, outputs, strict=True):
        v.give_outer(v.outer[k], output)


_BRANCHES = ("then_branch", "else_branch")


def _scan(v: Vjp) -> None:
    (body,) = bodies(v.node)
    _name_outputs(v, body.outputs)
    copy = copy_body(v, body)
    inputs, outputs = len(v.node.inputs), len(v.node.outputs)
    count = node_facts.int_attribute(v.node, "num_scan_inputs")
    states = inputs - count
    axes, directions = (_numbers(v, f"scan_input_{name}", count) for name in ("axes", "directions"))
    taken = [
        _Scanned(states + i, copy.inputs[states + i], axes[i] % v.rank(v.x(states + i)), directions[i])
        for i in range(count)
    ]
    axes, directions = (_numbers(v, f"scan_output_{name}", outputs - states) for name in _PAIR)
    given = [
        _Scanned(k, copy.outputs[k], axes[k - states], directions[k - states]) for k in range(states, outputs)
    ]
    carried = [_Carried(i, copy.inputs[i], copy.outputs[i], i) for i in range(states)]
    for graph in (body, copy):
        for state, value in zip(carried, graph.inputs, strict=False):
            _typed(v, value, v.x(state.slot))
        for one in taken:
            x, value = v.x(one.slot), graph.inputs[one.slot]
            dims = _typed(v, value, x)
            value.shape = ir.Shape(dims[: one.axis] + dims[one.axis + 1 :])
    _reverse(v, copy, carried, taken, given)


_PAIR = ("axes", "directions")


def _loop(v: Vjp) -> None:
    (body,) = bodies(v.node)
    _name_outputs(v, body.outputs[1:])  # in front is the condition
    copy = copy_body(v, body)
    v.stop(0, 1)
    states = len(v.node.inputs) - 2
    carried = [_Carried(i + 2, copy.inputs[i + 2], copy.outputs[i + 1], i) for i in range(states)]
    given = [_Scanned(k, copy.outputs[k + 1], 0, 0) for k in range(states, len(v.node.outputs))]
    for state in carried:
        if state.before.dtype is None:
            v.refuse(f"the type of what it carries as {state.before.name!r} is unknown")
    _reverse(v, copy, carried, [], given)


def _name_outputs(v: Vjp, inner: Sequence[ir.Value]) -> None:
    """Outputs that the model leaves out get names."""
    node = v.node
    node.resize_outputs(len(inner))
    for output, value in zip(node.outputs, inner, strict=True):
        output.name = output.name or v.names.fresh(f"{node.name}.unused")
        output.type = output.type or value.type


def _reverse(
    v: Vjp, body: ir.Graph, carried: Sequence[_Carried], taken: Sequence[_Scanned], given: Sequence[_Scanned]
) -> None:
    """Append the Scan of a copied ``body`` that goes from the last step to the first."""
    infer_body(v, body)
    inside, originals = v.to(v.near, body), list(body.inputs)
    states = _active(v, body, carried, taken)
    columns = [one for one in taken if v.wants(one.slot)]
    rows = [one for one in given if v.arrives(one.slot)]
    state_grads = [_input(v, state.after, "carried") for state in states]
    row_grads = [_input(v, one.inner, "row") for one in rows]
    arriving = list(
        zip([x.after for x in states] + [x.inner for x in rows], state_grads + row_grads, strict=True)
    )
    wrt = [*(x.before for x in states), *(x.inner for x in columns), *v.outer]
    grads = _backpropagate(v, inside, arriving, wrt)
    ends = (len(states), len(states) + len(columns))
    outer = [(x, grad) for x, grad in zip(v.outer, grads[ends[1] :], strict=True) if grad is not None]
    sums = [_input(v, x, "sum") for x, _ in outer]
    results = [_or_zeros(inside, grad, x.before) for x, grad in zip(states, grads, strict=False)]
    results += [inside.add(total, grad) for total, (_, grad) in zip(sums, outer, strict=True)]
    columns = [x for x, grad in zip(columns, grads[ends[0] : ends[1]], strict=True) if grad is not None]
    results += [grad for grad in grads[ends[0] : ends[1]] if grad is not None]
    v.stop(*v.wanted)
    if not results:
        return
    _set_outputs(inside, results)
    drop_dead_nodes(body)

    sources = _read_again(v, originals, taken)
    if not sources and not rows:  # something must say how many steps there were
        sources = [
            (v.x(taken[0].slot), taken[0]) if taken else (_stack(v, 0), _Scanned(0, originals[0], 0, 0))
        ]
    body.inputs[:] = [*state_grads, *sums, *(one.inner for _, one in sources), *row_grads]
    sources += [(v.gy(one.slot), one) for one in rows]
    initial = [*(v.gy(x.output) for x in states), *(v.filled(0.0, x) for x, _ in outer)]
    attributes = [
        ir.AttrGraph("body", body),
        ir.AttrInt64("num_scan_inputs", len(sources)),
        ir.AttrInt64s("scan_input_axes", [one.axis for _, one in sources]),
        ir.AttrInt64s("scan_input_directions", [1 - one.direction for _, one in sources]),
    ]
    if columns:
        attributes += [
            ir.AttrInt64s("scan_output_axes", [one.axis for one in columns]),
            ir.AttrInt64s("scan_output_directions", [1 - one.direction for one in columns]),
        ]
    likes = [*(v.x(x.slot) for x in states), *(x for x, _ in outer), *(v.x(x.slot) for x in columns)]
    outputs = _append(v, "Scan", [*initial, *(source for source, _ in sources)], attributes, likes)
    for (value, _), output in zip(outer, outputs[len(states) :], strict=False):
        v.give_outer(value, output)
    slots = [x.slot for x in states] + [None] * len(outer) + [x.slot for x in columns]
    for slot, output in zip(slots, outputs, strict=True):
        if slot is not None:
            v.give(slot, output)


def _read_again(
    v: Vjp, inner: Sequence[ir.Value], taken: Sequence[_Scanned]
) -> list[tuple[ir.Value, _Scanned]]:
    """What the backward body reads of the inputs of the forward one: their values at every step, stacked."""
    by_inner, found = {one.inner: one for one in taken}, []
    for k, value in enumerate(inner):
        one = by_inner.get(value)
        if value.uses():
            source = v.x(one.slot) if one is not None else _stack(v, k)
            found.append((source, one or _Scanned(k, value, 0, 0)))
    return found


def _active(v: Vjp, body: ir.Graph, carried: Sequence[_Carried], taken: Sequence[_Scanned]) -> list[_Carried]:
    """The carried values through which gradients flow to what is wanted."""
    nodes = list(body)
    sources = {*v.outer, *(one.inner for one in taken if v.wants(one.slot))}
    sources.update(state.before for state in carried if v.wants(state.slot))
    while True:
        reached = v.inner.influenced(nodes, sources)
        more = {
            x.before for x in carried if x.after in reached and x.before.dtype in node_facts.FLOATS
        } - sources
        if not more:
            return [x for x in carried if x.before in sources]
        sources |= more


def _stack(v: Vjp, position: int) -> ir.Value:
    """A new output of the forward node: its body's input ``position`` at every step, stacked."""
    node = v.node
    (body,) = bodies(node)
    value = body.inputs[position]
    scanning = node.op_type == "Scan"
    first = len(body.outputs) - len(node.outputs)  # the body of a Loop has its condition in front
    states = len(node.inputs) - (node_facts.int_attribute(node, "num_scan_inputs") if scanning else 2)
    for k in range(states, len(node.outputs)):
        made = body.outputs[k + first].producer()
        copied = made is not None and made.op_type == "Identity" and made.inputs[0] is value
        if copied and _in_order(node, k - states):
            return node.outputs[k]
    inside = v.to(f"{node.name}.before", body)
    output = inside.op("Identity", value)
    _typed(v, output, value)
    body.outputs.append(output)
    node.resize_outputs(len(node.outputs) + 1)
    for name in _PAIR:
        if (given := node_facts.ints_attribute(node, f"scan_output_{name}")) and scanning:
            node.attributes.add(ir.AttrInt64s(f"scan_output_{name}", [*given, 0]))
    output = node.outputs[-1]
    output.name, output.type = v.names.fresh(f"{node.name}.{value.name}.steps"), value.type
    if value.shape is not None:
        output.shape = ir.Shape([None, *value.shape])
    return output


def _in_order(node: ir.Node, k: int) -> bool:
    """Whether scan output ``k`` is stacked in order along the first axis."""
    given = [node_facts.ints_attribute(node, f"scan_output_{name}") for name in _PAIR]
    return not any(numbers[k] for numbers in given if numbers)


def _typed(v: Vjp, value: ir.Value, like: ir.Value) -> list[int | ir.SymbolicDim]:
    """Type and shape of ``like`` for ``value``."""
    value.type = node_facts.type_of(like)
    return list(v.shaped(value, like).shape or [])


def _numbers(v: Vjp, name: str, count: int) -> Sequence[int]:
    return node_facts.ints_attribute(v.node, name) or (0,) * count


def _backpropagate(
    v: Vjp, inside: Emitter, arriving: Iterable[tuple[ir.Value, ir.Value]], wrt: Sequence[ir.Value]
) -> list[ir.Value | None]:
    seeds: dict[ir.Value, ir.Value] = {}
    for value, grad in arriving:
        seeds[value] = inside.add(seeds[value], grad) if value in seeds else grad
    return v.inner.backpropagate(inside, seeds, wrt)


def _input(v: Vjp, like: ir.Value, what: str) -> ir.Value:
    value = ir.Value(name=v.names.fresh(f"{v.near}.{what}"))
    _typed(v, value, like)
    return value


def _or_zeros(inside: Emitter, grad: ir.Value | None, like: ir.Value) -> ir.Value:
    return inside.filled(0.0, like) if grad is None else grad


def _set_outputs(inside: Emitter, values: Sequence[ir.Value]) -> None:
    """Each an output of its own, computed inside."""
    inside.graph.outputs[:] = [inside.shaped(inside.op("Identity", value), value) for value in values]


def _append(
    v: Vjp,
    op_type: str,
    inputs: Sequence[ir.Value],
    attributes: Sequence[ir.Attr],
    likes: Sequence[ir.Value],
) -> Sequence[ir.Value]:
    """A node with bodies, whose outputs have the types and shapes of ``likes``."""
    name = v.names.fresh(f"{v.near}.{op_type}")
    node = ir.Node("", op_type, inputs, attributes, num_outputs=len(likes), name=name)
    for k, (output, like) in enumerate(zip(node.outputs, likes, strict=True)):
        output.name = v.names.fresh(f"{name}.{k}")
        _typed(v, output, like)
    v.graph.append(node)
    return node.outputs


RULES: Mapping[Callable[[Vjp], None], str] = {_if: "If", _scan: "Scan", _loop: "Loop"}
