"""Losses, appended to a forward graph as plain operators that can be differentiated twice.

With logits z of class c, all losses are means over examples (and over the positions behind the class axis):

* ``cross_entropy``: ``-log softmax(z)[label]``, labels are integers;
* ``kl``: ``sum_c p (log p - log softmax(z))`` with ``p = softmax(teacher)``;
* ``logits``: ``mean_c d^2 / 2`` where ``d = z - teacher`` less its mean over the classes, which no softmax
  sees: what ``T^2 kl`` at temperature T approaches as T grows (Hinton et al. 2015, section 2.1);
* ``mse``: the mean over elements of ``(y - label)^2``, or of ``(f (y - label))^2`` with factors ``f``;
* ``relative_error``: ``|y - label|^2 / |label|^2`` over all elements;
* ``sum_of_squares``: ``sum y^2 / 2``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from obs_onnx.passes.autodiff.gradient import find
from obs_onnx.passes.errors import GradientError
from obs_onnx.passes.graph.emitter import Emitter
from obs_onnx.passes.graph.names import Names

__all__ = ["LOSSES", "append_loss"]


def append_loss(
    model: ir.Model,
    kind: str,
    output: str | None = None,
    name: str = "loss",
    target: str | None = None,
    factors: Sequence[float] = (),
    axis: int = 0,
) -> str:
    """Append a loss to ``model`` and make it an output.

    Args:
        model: canonical, with inferred shapes; changed in place.
        kind: one of :data:`LOSSES`, or the name of a scalar of the model, which is then the loss itself.
        output: what is compared, the first output of the model by default. For ``cross_entropy``,
            ``kl`` and ``logits`` it has shape (N, C) or (N, C, d1, ...).
        name: of the new output.
        target: name of the new input; by default ``teacher`` for ``kl`` and ``logits``, else ``labels``.
        factors: of the differences in ``mse``, one for each element of an axis, or one for all.
        axis: of the output, along which they lie.

    Returns:
        The name of the loss. The new input is for ``cross_entropy`` integers (N, d1, ...), for ``kl`` and
        ``logits`` logits, for ``mse`` and ``relative_error`` numbers of the shape of the output.

    Raises:
        GradientError: no such value or loss, a name is taken, or the output does not fit.
    """
    if kind not in LOSSES:
        values = {str(y.name) for node in model.graph for y in node.outputs}
        if kind not in values:
            raise GradientError(f"there is no loss and no value {kind!r}; losses are: {', '.join(LOSSES)}")
        (loss,) = find(model, [kind])
        if not loss.is_graph_output():
            model.graph.outputs.append(loss)
        return kind
    emitter = Emitter(model, Names(model), "loss")
    (y,) = find(model, [output or str(model.graph.outputs[0].name)])
    target = target or ("teacher" if kind in _TAUGHT else "labels")
    if kind == "mse" and len(factors):
        loss = emitter.op("Identity", _mse(emitter, y, target, factors, axis))
    else:
        loss = emitter.op("Identity", LOSSES[kind](emitter, y, target))
    if (taken := emitter.names.fresh(name)) != name:
        raise GradientError(f"the name {name!r} is taken in the model")
    loss.name = taken
    model.graph.outputs.append(loss)
    return name


def _input(emitter: Emitter, name: str, shape: ir.Shape | None, dtype: ir.DataType | None) -> ir.Value:
    if emitter.names.fresh(name) != name:
        raise GradientError(f"the name {name!r}, which the loss needs for an input, is taken in the model")
    assert dtype is not None
    value = ir.Value(name=name, shape=shape, type=ir.TensorType(dtype))
    emitter.model.graph.inputs.append(value)
    return value


def _classes_last(emitter: Emitter, logits: ir.Value) -> ir.Value:
    """Axis 1 moved to the end."""
    rank = emitter.rank(logits)
    if rank < 2:
        raise GradientError(f"{logits.name!r} has {rank} axes, but logits are (N, C) or (N, C, d1, ...)")
    return emitter.transpose(logits, [0, *range(2, rank), 1])


def _cross_entropy(e: Emitter, y: ir.Value, target: str) -> ir.Value:
    logits = _classes_last(e, y)
    shape = None if logits.shape is None else ir.Shape(list(logits.shape)[:-1])
    labels = _input(e, target, shape, ir.DataType.INT64)
    log_p = e.op("LogSoftmax", logits, axis=-1)
    chosen = e.op("OneHot", labels, e.squeeze(e.size_of(y, 1), [0]), e.ints([0, 1]), axis=-1)
    return e.neg(e.mean(e.sum(e.mul(log_p, e.cast(chosen, y)), [-1])))


def _kl(e: Emitter, y: ir.Value, target: str) -> ir.Value:
    teacher = _input(e, target, y.shape, y.dtype)
    log_p = e.op("LogSoftmax", _classes_last(e, teacher), axis=-1)
    log_q = e.op("LogSoftmax", _classes_last(e, y), axis=-1)
    return e.mean(e.sum(e.mul(e.op("Exp", log_p), e.sub(log_p, log_q)), [-1]))


def _logits(e: Emitter, y: ir.Value, target: str) -> ir.Value:
    difference = _classes_last(e, e.sub(y, _input(e, target, y.shape, y.dtype)))
    centred = e.sub(difference, e.mean(difference, [-1], keepdims=True))
    return e.mul(e.mean(e.mul(centred, centred)), 0.5)


def _mse(e: Emitter, y: ir.Value, target: str, factors: Sequence[float] = (), axis: int = 0) -> ir.Value:
    difference = e.sub(y, _input(e, target, y.shape, y.dtype))
    if len(factors):
        shape = [-1] + [1] * (e.rank(y) - 1 - axis) if len(factors) > 1 else []
        difference = e.mul(difference, e.constant(np.reshape(factors, shape), y))
    return e.mean(e.mul(difference, difference))


def _relative_error(e: Emitter, y: ir.Value, target: str) -> ir.Value:
    labels = _input(e, target, y.shape, y.dtype)
    difference = e.sub(y, labels)
    return e.div(e.sum(e.mul(difference, difference)), e.sum(e.mul(labels, labels)))


def _sum_of_squares(e: Emitter, y: ir.Value, target: str) -> ir.Value:
    return e.mul(e.sum(e.mul(y, y)), 0.5)


_TAUGHT = ("kl", "logits")
LOSSES: dict[str, Callable[[Emitter, ir.Value, str], ir.Value]] = {
    "cross_entropy": _cross_entropy,
    "mse": _mse,
    "sum_of_squares": _sum_of_squares,
    "kl": _kl,
    "logits": _logits,
    "relative_error": _relative_error,
}
