"""One step of training as one graph: forward pass, loss, backward pass, update of the weights.

Weights and the optimizer's slots become inputs; what they are after the step comes out under ``<name>.next``.
A runtime that hands the outputs of one step to the next one as inputs never copies them. :func:`loss_graph`
is the forward half with the same inputs, to measure the loss on other data.

A mask keeps zeros: it multiplies the gradient, so that the slots and the update of a masked weight are exact
zeros in all steps, and the weight stays the number it is. Where an optimizer mixes the gradients of several
weights, the mask also chooses between the new weight and the old one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.passes.autodiff.gradient import backpropagate, find
from obs_onnx.passes.autodiff.gradient import weights as influential
from obs_onnx.passes.autodiff.losses import append_loss
from obs_onnx.passes.autodiff.lower_convolutions import LowerConvolutions
from obs_onnx.passes.autodiff.optimizers import Metric, Optimizer
from obs_onnx.passes.autodiff.trainable import trainable
from obs_onnx.passes.errors import GradientError
from obs_onnx.passes.graph.emitter import Emitter
from obs_onnx.passes.graph.names import Names
from obs_onnx.passes.shapes.complete_shapes import CompleteShapes

__all__ = ["StepGraph", "Term", "loss_graph", "trained_weights", "training_step"]


@dataclass(frozen=True)
class Term:
    """A part of the loss.

    Attributes:
        loss: one of :data:`obs_onnx.passes.autodiff.losses.LOSSES`.
        output: value of the model that it is about.
        target: name of the new input with labels, or outputs of a teacher.
        weight: factor.
        factors: of the differences of ``mse``, for each element of an axis, or one for all; none for 1.
        axis: of the output, along which they lie.
    """

    loss: str
    output: str
    target: str
    weight: float = 1.0
    factors: tuple[float, ...] = ()
    axis: int = 0


@dataclass(frozen=True)
class StepGraph:
    """A graph for one step.

    Attributes:
        model: inputs are data, targets, scalars, weights and slots.
        loss: name of the output with the loss.
        carried: output -> the input that it is in the next step.
        slots: name of a slot's input -> name of its weight.
        scalars: name of the optimizer's scalar -> name of its input.
        held: inputs that are the same in every step.
    """

    model: ir.Model
    loss: str
    carried: Mapping[str, str]
    slots: Mapping[str, str]
    scalars: Mapping[str, str]
    held: Mapping[str, NDArray[Any]]


def trained_weights(model: ir.Model, terms: Sequence[Term]) -> list[str]:
    """Names of the weights that training changes: the trainable ones that influence the loss.

    Raises:
        GradientError: an output does not fit its loss.
    """
    copy = model.clone()
    CompleteShapes().call(copy)
    _, loss = with_loss(copy, terms)
    wanted = set(influential(copy, str(loss.name)))
    return [name for name in trainable(model) if name in wanted]


def loss_graph(
    model: ir.Model,
    terms: Sequence[Term],
    weights: Sequence[str] = (),
    shown: Sequence[str] = (),
    masks: Mapping[str, NDArray[np.bool_]] | None = None,
) -> tuple[ir.Model, str]:
    """A copy that computes the loss, and the name of the loss.

    Args:
        model: canonical, with inferred shapes, of opset 11 or later; not changed.
        terms: of the loss.
        weights: names of initializers that become inputs.
        shown: values that are outputs, too, in place of those of the model.
        masks: weight -> False where the graph reads a zero in its place, so that the gradient there is zero.

    Raises:
        GradientError: an output does not fit its loss.
    """
    copy = model.clone()
    CompleteShapes().call(copy)
    e, loss = with_loss(copy, terms)
    for name, mask in (masks or {}).items():
        _mask(e, find(copy, [name])[0], mask)
    become_inputs(copy, weights)
    make_outputs(copy, [*find(copy, shown), loss])
    return copy, str(loss.name)


def training_step(
    model: ir.Model,
    terms: Sequence[Term],
    weights: Sequence[str],
    optimizer: Optimizer,
    masks: Mapping[str, NDArray[np.bool_]] | None = None,
    shown: Sequence[str] = (),
    metrics: Mapping[str, Metric] | None = None,
) -> StepGraph:
    """The graph of a step.

    Args:
        model: canonical, with inferred shapes, of opset 11 or later; not changed.
        terms: of the loss; their weighted sum is minimised.
        weights: names of float initializers to train; their values stay in the caller's hands.
        optimizer: rule for the update.
        masks: weight -> True where it may change.
        shown: values of the model to give out.
        metrics: weight -> what its steps are measured by, for an optimizer that asks for it.

    Raises:
        GradientError: an operator on the way has no rule, or a weight does not influence the loss.
    """
    copy = model.clone()
    CompleteShapes().call(copy)
    LowerConvolutions().call(copy)
    e, loss = with_loss(copy, terms)
    values = find(copy, weights)
    grads = backpropagate(e, {loss: e.filled(1.0, loss)}, values)
    become_inputs(copy, weights)
    like = values[0]
    scalars = {name: _input(e, f"optimizer.{name}", ir.Shape([]), like) for name in optimizer.scalars}
    carried: dict[str, str] = {}
    slots: dict[str, str] = {}
    held: dict[str, NDArray[Any]] = {}
    published = [*find(copy, shown), loss]
    for w, g in zip(values, grads, strict=True):
        if g is None:
            raise GradientError(f"{w.name!r} does not influence the loss by any differentiable way")
        near = Emitter(copy, e.names, f"{w.name}.step", e.constants)
        if masks is not None and w.name in masks:
            g = near.mul(g, near.constant(masks[str(w.name)].astype(np.float32), w))
        old = {slot: _input(near, f"{w.name}.{slot}", w.shape, w) for slot in optimizer.slots}
        metric = (metrics or {}).get(str(w.name), Metric())
        inverses = [_input(near, f"{w.name}.inverse", ir.Shape(a.shape), w) for a in metric.inverses]
        held.update(zip((str(value.name) for value in inverses), metric.inverses, strict=True))
        decays = len(e.dims(w)) > 1
        new, changed = optimizer.update(near, w, g, old, scalars, decays, (metric, inverses))
        if optimizer.mixes and masks is not None and w.name in masks:
            new = near.where(near.constant(masks[str(w.name)]), new, w)
        pairs = [(w, new), *((old[slot], changed[slot]) for slot in optimizer.slots)]
        for before, after in pairs:
            after.name = e.names.fresh(f"{before.name}.next")
            after.shape, after.type = w.shape, w.type
            carried[after.name] = str(before.name)
            published.append(after)
        slots.update({str(value.name): str(w.name) for value in old.values()})
    make_outputs(copy, published)
    names = {name: str(value.name) for name, value in scalars.items()}
    return StepGraph(copy, str(loss.name), carried, slots, names, held)


def with_loss(model: ir.Model, terms: Sequence[Term]) -> tuple[Emitter, ir.Value]:
    """Append the terms and their weighted sum."""
    names = Names(model)
    parts = []
    for number, term in enumerate(terms):
        name = append_loss(
            model,
            term.loss,
            term.output,
            names.fresh(f"loss.{number}"),
            names.fresh(term.target),
            term.factors,
            term.axis,
        )
        parts.append((find(model, [name])[0], term.weight))
    e = Emitter(model, Names(model), "step")
    total: ir.Value | None = None
    for value, weight in parts:
        part = value if weight == 1.0 else e.mul(value, weight)
        total = part if total is None else e.add(total, part)
    assert total is not None
    loss = e.op("Identity", total)
    loss.name = e.names.fresh("loss")
    return e, loss


def _mask(e: Emitter, weight: ir.Value, mask: NDArray[np.bool_]) -> None:
    """Let all readers of ``weight`` read its product with ``mask``."""
    readers = list(weight.uses())
    assert weight.const_value is not None
    factor = Emitter(e.model, e.names, f"{weight.name}.mask").constant(
        mask.astype(weight.const_value.dtype.numpy())
    )
    node = ir.Node("", "Mul", [weight, factor], name=e.names.fresh(f"{weight.name}.masked"))
    (product,) = node.outputs
    product.name = e.names.fresh(str(node.name))
    product.shape, product.type = ir.Shape(mask.shape), ir.TensorType(weight.const_value.dtype)
    e.model.graph.insert_before(e.model.graph[0], node)
    for reader, index in readers:
        reader.replace_input_with(index, product)


def become_inputs(model: ir.Model, weights: Sequence[str]) -> None:
    for name in weights:
        value = model.graph.initializers.pop(name)
        tensor = value.const_value
        assert tensor is not None
        value.const_value = None
        value.shape, value.type = ir.Shape(tensor.shape.numpy()), ir.TensorType(tensor.dtype)
        if not value.is_graph_input():
            model.graph.inputs.append(value)


def make_outputs(model: ir.Model, values: Sequence[ir.Value]) -> None:
    model.graph.outputs.clear()
    model.graph.outputs.extend(dict.fromkeys(values))


def _input(e: Emitter, name: str, shape: ir.Shape | None, like: ir.Value) -> ir.Value:
    value = ir.Value(name=e.names.fresh(name), shape=shape, type=like.type)
    e.model.graph.inputs.append(value)
    return value
