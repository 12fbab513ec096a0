"""Products with the Gauss-Newton matrix of a loss, as a graph.

With outputs y(w), their Jacobian J and the Hessian H of the loss with respect to y, the Gauss-Newton matrix
is ``G = J^T H J``: the Hessian of the loss without the second derivatives of y. It is positive semidefinite
wherever the loss is convex in y, and equal to the Hessian where the gradient with respect to y is zero
(Schraudolph, Fast curvature matrix-vector products for second-order gradient descent, 2002). From right to
left:

    J v      = d/du <J^T u, v>                 u stands for a gradient of y; the product does not depend on it
    H (J v)  = d/dy <dL/dy, J v>               exact for every loss
    J^T (..)                                   back to the weights
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from obs_onnx.passes.autodiff.gradient import backpropagate, find
from obs_onnx.passes.autodiff.training_step import Term, become_inputs, make_outputs, with_loss
from obs_onnx.passes.errors import GradientError
from obs_onnx.passes.graph.emitter import Emitter
from obs_onnx.passes.graph.extract import extract
from obs_onnx.passes.graph.inputs import input_names
from obs_onnx.passes.graph.names import Names
from obs_onnx.passes.shapes.complete_shapes import CompleteShapes

__all__ = ["CurvatureGraphs", "curvature_graphs"]


@dataclass(frozen=True)
class CurvatureGraphs:
    """Graphs whose weights are inputs.

    Attributes:
        gradient: gives the loss and its gradients.
        product: gives the products of the Gauss-Newton matrix with the inputs ``vectors``.
        loss: name of the loss in ``gradient``.
        gradients: weight -> name of its gradient in ``gradient``.
        vectors: weight -> name of the input that is multiplied.
        products: weight -> name of the product.
    """

    gradient: ir.Model
    product: ir.Model
    loss: str
    gradients: dict[str, str]
    vectors: dict[str, str]
    products: dict[str, str]


def curvature_graphs(model: ir.Model, terms: Sequence[Term], weights: Sequence[str]) -> CurvatureGraphs:
    """Graphs for the gradient of a loss and for products with its Gauss-Newton matrix.

    Args:
        model: canonical, with inferred shapes, of opset 11 or later; not changed.
        terms: of the loss; their weighted sum counts.
        weights: names of float initializers.

    Raises:
        GradientError: an operator on the way has no rule, or a weight does not influence the loss.
    """
    gradient, loss, grads = _gradient(model, terms, weights)
    product, vectors, products = _product(model, terms, weights)
    return CurvatureGraphs(gradient, product, loss, grads, vectors, products)


def _gradient(
    model: ir.Model, terms: Sequence[Term], weights: Sequence[str]
) -> tuple[ir.Model, str, dict[str, str]]:
    """The graph of the loss, its name, and its gradients by weight."""
    copy = model.clone()
    CompleteShapes().call(copy)
    e, loss = with_loss(copy, terms)
    values = find(copy, weights)
    found = backpropagate(e, {loss: e.filled(1.0, loss)}, values)
    grads = _connected(values, found)
    become_inputs(copy, weights)
    make_outputs(copy, [loss, *grads])
    return copy, str(loss.name), _by_weight(weights, grads)


def _product(
    model: ir.Model, terms: Sequence[Term], weights: Sequence[str]
) -> tuple[ir.Model, dict[str, str], dict[str, str]]:
    """The graph of products, its vectors and its products by weight."""
    copy = model.clone()
    CompleteShapes().call(copy)
    e = Emitter(copy, Names(copy), "tangent")
    ys = find(copy, list(dict.fromkeys(term.output for term in terms)))
    values = find(copy, weights)
    vectors = [_input(e, f"{w.name}.v", w) for w in values]
    seeds = [_input(e, f"{y.name}.u", y) for y in ys]
    grads = _connected(values, backpropagate(e, dict(zip(ys, seeds, strict=True)), values))
    tangents = backpropagate(e, dict(zip(grads, vectors, strict=True)), seeds)
    zs = {str(y.name): e.op("Identity", y) for y in ys}
    e, loss = with_loss(copy, [replace(term, output=str(zs[term.output].name)) for term in terms])
    ends = list(zs.values())
    slopes = backpropagate(e, {loss: e.filled(1.0, loss)}, ends)
    pairs = zip(slopes, tangents, strict=True)
    moved = {slope: tangent for slope, tangent in pairs if slope is not None and tangent is not None}
    bent = backpropagate(e, moved, ends)
    back = {y: one for y, one in zip(ys, bent, strict=True) if one is not None}
    products = _connected(values, backpropagate(e, back, values))
    become_inputs(copy, weights)
    make_outputs(copy, products)
    for seed, y in zip(seeds, ys, strict=True):  # of which nothing but the shape counts
        ir.convenience.replace_all_uses_with(seed, y)
        copy.graph.inputs.remove(seed)
    wanted = _by_weight(weights, products)
    part = extract(copy, input_names(copy), list(wanted.values()))
    return part, _by_weight(weights, vectors), wanted


def _connected(values: Sequence[ir.Value], grads: Sequence[ir.Value | None]) -> list[ir.Value]:
    """The gradients.

    Raises:
        GradientError: a weight has none.
    """
    found = []
    for value, grad in zip(values, grads, strict=True):
        if grad is None:
            raise GradientError(f"{value.name!r} does not influence the loss by any differentiable way")
        grad.shape, grad.type = value.shape, value.type
        found.append(grad)
    return found


def _by_weight(weights: Sequence[str], values: Sequence[ir.Value]) -> dict[str, str]:
    return {name: str(value.name) for name, value in zip(weights, values, strict=True)}


def _input(e: Emitter, name: str, like: ir.Value) -> ir.Value:
    value = ir.Value(name=e.names.fresh(name), shape=like.shape, type=like.type)
    if like.const_value is not None:
        value.shape, value.type = (
            ir.Shape(like.const_value.shape.numpy()),
            ir.TensorType(like.const_value.dtype),
        )
    e.model.graph.inputs.append(value)
    return value
