"""Reverse-mode differentiation of a graph into a graph.

The gradient dL/dv of every value v between the wanted ones and the loss L is the sum, over the nodes that
use v, of what their ``vjp`` gives. The backward nodes are appended to the graph and read the activations of
the forward pass directly; they are standard operators of the model's own opset, each with a ``vjp`` of its
own, so that the result can be differentiated again. That gives exact products with the Hessian:

    H v = d/dw <dL/dw, v>      (Pearlmutter, Fast exact multiplication by the Hessian, 1994)

What bodies of If, Loop and Scan read of outer graphs counts as an input of the node. A value whose type is
not floating-point has no gradient, except where numbers were rounded to integers: these have one per step,
of floating point (:mod:`obs_onnx.passes.ops.quantized.straight_through`), until they are numbers again. An
operator without a rule between a wanted value and the loss is an error, never a zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from obs_onnx.passes.errors import GradientError, boundary
from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.graph.emitter import Emitter
from obs_onnx.passes.graph.names import Names
from obs_onnx.passes.graph.scopes import captured, reads
from obs_onnx.passes.ops import lookup
from obs_onnx.passes.shapes.carried_shapes import CarriedShapes
from obs_onnx.passes.shapes.complete_shapes import CompleteShapes
from obs_onnx.passes.traits.op import nothing
from obs_onnx.passes.traits.vjp import Differentiation, Vjp

__all__ = ["Gradient", "HessianVectorProduct", "weights"]


@dataclass(frozen=True)
class Gradient(ir.passes.InPlacePass):
    """Add outputs ``<name>.grad``: the gradient of a scalar with respect to each of ``wrt``.

    Attributes:
        loss: name of a value with one element (see :mod:`obs_onnx.passes.autodiff.losses`).
        wrt: names of floating-point initializers, inputs or intermediate values.
        suffix: what is appended to a name for its gradient.
        unconnected: what to do about a value that does not influence the loss: ``error``, or ``zeros``.

    The model must be canonical (:func:`obs_onnx.passes.canonical.canonicalize.canonicalize`) with an opset of
    11 at least (see :func:`modernize`).

    Raises:
        GradientError: an operator on the way has no rule, a value is missing, the loss is no scalar.
    """

    loss: str
    wrt: Sequence[str]
    suffix: str = ".grad"
    unconnected: Literal["error", "zeros"] = "error"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass on ``model``."""
        CarriedShapes().call(model)
        CompleteShapes().call(model)
        emitter = Emitter(model, Names(model), "gradient")
        loss, wrt = find(model, [self.loss])[0], find(model, self.wrt)
        if any(dim != 1 for dim in emitter.dims(loss)):
            raise GradientError(f"the loss {self.loss!r} is no scalar: its shape is {loss.shape}")
        seeds = {loss: emitter.filled(1.0, loss)}
        grads = backpropagate(emitter, seeds, wrt)
        _publish(emitter, wrt, grads, self.suffix, self.unconnected)
        return ir.passes.PassResult(model, modified=True)


@dataclass(frozen=True)
class HessianVectorProduct(ir.passes.InPlacePass):
    """Add inputs ``<name>.v`` and outputs ``<name>.hvp``: the product of the Hessian of the loss with all v.

    Outputs ``<name>.grad`` come with it. The product is zero for a value on which the loss depends linearly.

    Attributes:
        loss: name of a value with one element.
        wrt: names of floating-point initializers, inputs or intermediate values.

    Raises:
        GradientError: see :class:`Gradient`.
    """

    loss: str
    wrt: Sequence[str]

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass on ``model``."""
        Gradient(self.loss, self.wrt).call(model)
        emitter = Emitter(model, Names(model), "hessian")
        wrt = find(model, self.wrt)
        grads = find(model, [f"{name}.grad" for name in self.wrt])
        seeds = {}
        for value, grad in zip(wrt, grads, strict=True):
            vector = ir.Value(name=emitter.names.fresh(f"{value.name}.v"))
            vector.shape, vector.type = grad.shape, grad.type
            model.graph.inputs.append(vector)
            seeds[grad] = vector
        products = backpropagate(emitter, seeds, wrt)
        _publish(emitter, wrt, products, ".hvp", "zeros")
        return ir.passes.PassResult(model, modified=True)


def backpropagate(
    emitter: Emitter, seeds: Mapping[ir.Value, ir.Value], wrt: Sequence[ir.Value]
) -> list[ir.Value | None]:
    """Gradients of the sum of <value, seed> with respect to each of ``wrt``; None where nothing flows.

    Args:
        emitter: of the graph, main or body, that computes all values.
        seeds: values and the gradients that arrive at them, of the same shapes.
        wrt: values of floating-point type; those that a body reads of outer graphs may be among them.

    Raises:
        GradientError: an operator on the way has no rule.
    """
    nodes = list(emitter.graph)
    active = influenced(nodes, wrt)
    sums = {value: seed for value, seed in seeds.items() if value in active}
    for node in reversed(nodes):
        arriving = {k: sums[y] for k, y in enumerate(node.outputs) if y in sums}
        slots = frozenset(k for k, x in enumerate(node.inputs) if x is not None and x in active)
        outer = [x for x in captured(node) if x in active]
        if not arriving or not (slots or outer):
            continue
        for x, grad in _differentiate(emitter, node, arriving, slots, outer):
            sums[x] = emitter.to(f"{node.name}.sum").add(sums[x], grad) if x in sums else grad
    return [sums.get(value) for value in wrt]


def weights(model: ir.Model, loss: str) -> list[str]:
    """Names of the floating-point initializers, scalars left out, that influence ``loss`` differentiably."""
    candidates = [
        value
        for value in model.graph.initializers.values()
        if value.const_value is not None
        and value.const_value.shape.rank()
        and node_facts.dtype(value) in node_facts.FLOATS
    ]
    target = find(model, [loss])[0]
    wanted: set[ir.Value] = {target}
    for node in reversed(list(model.graph)):
        if any(y in wanted for y in node.outputs) and _passes_gradients(node):
            inputs = node.inputs[: lookup(node).differentiable_inputs]
            whole = lookup(node).quantizes or any(y in wanted and not _floating(y) for y in node.outputs)
            wanted.update(x for x in (*inputs, *captured(node)) if x is not None and (whole or _floating(x)))
    return [str(value.name) for value in candidates if value in wanted]


def find(model: ir.Model, names: Sequence[str]) -> list[ir.Value]:
    """The values of these names in the main graph.

    Raises:
        GradientError: a name is not there, or the value is not floating-point.
    """
    graph = model.graph
    values = {str(value.name): value for value in (*graph.initializers.values(), *graph.inputs)}
    values.update((str(output.name), output) for node in graph for output in node.outputs)
    missing = [name for name in names if name not in values]
    if missing:
        raise GradientError(f"the graph has no value {missing[0]!r}")
    found = [values[name] for name in names]
    for value in found:
        if not _floating(value):
            raise GradientError(f"{value.name!r} has no gradient: its type is {value.dtype}")
    return found


def _differentiate(
    emitter: Emitter,
    node: ir.Node,
    grads: Mapping[int, ir.Value],
    wanted: frozenset[int],
    outer: Sequence[ir.Value],
) -> Iterator[tuple[ir.Value, ir.Value]]:
    """Pairs (value, gradient) for wanted inputs of one node and outer values that its bodies read.

    Those are left out into which nothing flows by definition; a value may come several times.
    """
    vjp = lookup(node).vjp
    if vjp is None:
        raise GradientError(
            f"no gradient for node {node.name!r}: the operator {node.op_type} has no rule for it"
        )
    if any(not _floating(x) for k in wanted if (x := node.inputs[k]) is not None) and not _on_steps(node):
        raise GradientError(
            f"no gradient for node {node.name!r}: what it reads was rounded, and {node.op_type} is known on "
            "numbers alone"
        )
    near = f"{node.name}.grad"
    v = Vjp(
        emitter.model,
        emitter.names,
        near,
        emitter.constants,
        emitter.body,
        of=node,
        grads=grads,
        wanted=wanted,
        outer=tuple(outer),
        differentiation=Differentiation(backpropagate, influenced),
    )
    with boundary(f"no gradient for node {node.name!r} ({node.op_type})", GradientError):
        vjp(v)
    forgotten = wanted - v.given.keys()
    if forgotten:
        v.refuse(f"there is no rule for input {min(forgotten)} ({v.x(min(forgotten)).name!r})")
    yield from ((v.x(index), grad) for index, grad in v.given.items() if index in wanted and grad is not None)
    yield from v.given_outer.items()


def influenced(nodes: Sequence[ir.Node], wrt: Iterable[ir.Value]) -> set[ir.Value]:
    """``wrt`` and what is computed from them by operators through which gradients flow: numbers, and integers
    that these are rounded to."""
    active = set(wrt)
    for node in nodes:
        touched = [x for x in reads(node) if x in active]
        if touched and _passes_gradients(node):
            whole = lookup(node).quantizes or not all(map(_floating, touched))
            active.update(y for y in node.outputs if whole or _floating(y))
    return active


def _on_steps(node: ir.Node) -> bool:
    """Whether the rule of a node holds for integers that numbers were rounded to."""
    return lookup(node).quantizes or lookup(node).view


def _passes_gradients(node: ir.Node) -> bool:
    return lookup(node).vjp is not nothing


def _floating(value: ir.Value) -> bool:
    """Whether the type is floating-point, or unknown."""
    dtype = node_facts.dtype(value)
    return dtype is None or dtype.is_floating_point()


def _publish(
    emitter: Emitter,
    wrt: Sequence[ir.Value],
    grads: Sequence[ir.Value | None],
    suffix: str,
    unconnected: Literal["error", "zeros"],
) -> None:
    """Make the gradients outputs of the model under the names of their values with ``suffix``."""
    graph = emitter.model.graph
    for value, grad in zip(wrt, grads, strict=True):
        if grad is None and unconnected == "error":
            raise GradientError(f"{value.name!r} does not influence the loss by any differentiable way")
        source = emitter.filled(0.0, value) if grad is None else grad
        output = emitter.op("Identity", source)
        output.name = emitter.names.fresh(f"{value.name}{suffix}")
        if output.name != f"{value.name}{suffix}":
            raise GradientError(f"the name {value.name}{suffix} is taken in the model")
        output.type = node_facts.type_of(value)
        output.shape = value.shape if value.const_value is None else ir.Shape(value.const_value.shape.numpy())
        graph.outputs.append(output)
