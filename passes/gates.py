"""Gates of one behind activations: the gradient with respect to a gate is the worth of its channel."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from obs_onnx.passes.emitter import Emitter
from obs_onnx.passes.errors import GradientError
from obs_onnx.passes.gradient import find
from obs_onnx.passes.names import Names

__all__ = ["insert_gate"]


def insert_gate(model: ir.Model, value: str, axis: int = 1, per_example: bool = False) -> str:
    """Multiply an activation with ones, one for each index of ``axis``, in front of everything that reads it.

    Args:
        model: canonical, with inferred shapes; changed in place. Its outputs keep their names.
        value: name of an activation or an input whose length along ``axis`` is static.
        axis: where the channels are.
        per_example: give each example (index of axis 0) gates of its own: the gate is then computed from the
            batch size, and its gradient has shape (N, channels).

    Returns:
        Name of the gate (``<value>.gate``), which serves as ``wrt`` of a gradient: an initializer
        (channels,), or a value (N, channels) inside the graph.

    Raises:
        GradientError: no such value, a name is taken, or the number of channels is unknown.
    """
    (x,) = find(model, [value])
    emitter = Emitter(model, Names(model), value)
    dims = emitter.dims(x)
    axis %= len(dims)
    length = dims[axis]
    if length is None:
        raise GradientError(f"axis {axis} of {value!r} has no static length")
    if per_example and axis == 0:
        raise GradientError(f"axis 0 of {value!r} counts examples and cannot be gated for each of them")
    uses = list(x.uses())
    gate = _ones(emitter, x, length, per_example)
    if gate.name != f"{value}.gate":
        raise GradientError(f"the name {value}.gate is taken in the model")
    if per_example:
        spread = emitter.unsqueeze(gate, [i for i in range(1, len(dims)) if i != axis])
    else:
        spread = emitter.reshape(gate, [-1, *[1] * (len(dims) - 1 - axis)])
    gated = emitter.shaped(emitter.mul(x, spread), x)
    if x.is_graph_output():
        gated.name, x.name = x.name, emitter.names.fresh(f"{value}.ungated")
        model.graph.outputs[list(model.graph.outputs).index(x)] = gated
    for node, index in uses:
        node.replace_input_with(index, gated)
    model.graph.sort()
    return f"{value}.gate"


def _ones(emitter: Emitter, x: ir.Value, length: int, per_example: bool) -> ir.Value:
    """Ones of shape (length,), an initializer, or (N, length), made while the graph runs."""
    assert x.dtype is not None
    if not per_example:
        ones = ir.Tensor(np.ones(length, x.dtype.numpy()), dtype=x.dtype)
        return emitter.names.initializer(f"{emitter.near}.gate", ones)
    one = ir.Tensor(np.ones(1, x.dtype.numpy()), dtype=x.dtype)
    shape = emitter.op("Concat", emitter.size_of(x, 0), emitter.ints([length]), axis=0)
    gate = emitter.op("ConstantOfShape", shape, value=one)
    gate.shape = ir.Shape([None if x.shape is None else x.shape[0], length])
    gate.name = emitter.names.fresh(f"{emitter.near}.gate")
    return gate
