"""Operators written out in terms of plainer ones, for runtimes that differentiate those only."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.passes.errors import GradientError
from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.graph.names import Names
from obs_onnx.passes.graph.writer import Writer, take_over

__all__ = ["Elementary"]

_WINDOWS = ("Conv", "MaxPool", "AveragePool")


class Elementary(ir.passes.InPlacePass):
    """Write out what follows; the model computes the same.

    1. ``auto_pad`` of Conv, MaxPool and AveragePool becomes ``pads``.
    2. AveragePool becomes a Conv of each channel with equal weights; where a window reaches into padding that
       does not count, its result is divided by the share of it that does.
    3. BatchNormalization with stored statistics becomes ``(x - mean) (scale / sqrt(var + epsilon)) + shift``.
    4. LayerNormalization gets a shift, and its optional outputs.

    The shapes must be inferred.

    Raises:
        GradientError: a padding or a count depends on a shape that is only known at run time.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass on ``model``."""
        modified = False
        for node in list(model.graph):
            if node.domain != "":
                continue
            if node.op_type in _WINDOWS:
                modified |= _explicit(node)  # 1.
            if node.op_type == "AveragePool":
                _average_pool(model, node)  # 2.
                modified = True
            elif node.op_type == "BatchNormalization":
                _batch_normalization(model, node)  # 3.
                modified = True
            elif node.op_type == "LayerNormalization":
                modified |= _layer_normalization(model, node)  # 4.
        return ir.passes.PassResult(model, modified)


def _explicit(node: ir.Node) -> bool:
    auto = node_facts.text_attribute(node, "auto_pad", "NOTSET")
    node.attributes.pop("auto_pad", None)
    if auto == "NOTSET":
        return False
    kernel = _kernel(node)
    pads = [0] * (2 * len(kernel))
    if auto != "VALID":
        for i, (n, m) in enumerate(zip(_spatial(node.inputs[0]), _spatial(node.outputs[0]), strict=True)):
            total = _total(node, i, kernel[i], n, m)
            less, more = total // 2, total - total // 2
            pads[i], pads[len(kernel) + i] = (less, more) if auto == "SAME_UPPER" else (more, less)
    node.attributes["pads"] = ir.AttrInt64s("pads", pads)
    return True


def _total(node: ir.Node, i: int, kernel: int, n: int | None, m: int | None) -> int:
    stride = node_facts.ints_attribute(node, "strides", (1,) * (i + 1))[i]
    reach = (kernel - 1) * node_facts.ints_attribute(node, "dilations", (1,) * (i + 1))[i]
    if stride == 1:
        return reach
    if n is None or m is None:
        raise _unknown(node)
    return max((m - 1) * stride + reach + 1 - n, 0)


def _average_pool(model: ir.Model, node: ir.Node) -> None:
    x = node.inputs[0]
    dims = node_facts.dims(x)
    if x is None or x.dtype is None or dims is None or dims[1] is None:
        raise _unknown(node)
    if node_facts.int_attribute(node, "ceil_mode"):
        raise GradientError(f"node {node.name!r} (AveragePool) with ceil_mode has no plainer form")
    kernel, write = _kernel(node), Writer(Names(model), node)
    weight = np.full((dims[1], 1, *kernel), 1 / math.prod(kernel))
    kept = [node.attributes[k] for k in ("strides", "pads", "dilations") if k in node.attributes]
    attributes = (*kept, ir.AttrInt64("group", dims[1]), ir.AttrInt64s("kernel_shape", kernel))
    y = write.op("Conv", [x, write.constant(weight, x.dtype)], *attributes)
    y.shape = node.outputs[0].shape
    counts = node_facts.int_attribute(node, "count_include_pad")
    if not counts and any(node_facts.ints_attribute(node, "pads")):
        y = write.op("Div", [y, write.constant(_shares(node, kernel), x.dtype)])
        y.shape = node.outputs[0].shape
    take_over(write.names, node.outputs[0], y)
    model.graph.remove(node, safe=True)


def _shares(node: ir.Node, kernel: tuple[int, ...]) -> NDArray[np.float64]:
    """Share of every window that lies inside; shape of the output's spatial axes."""
    rank, shares = len(kernel), np.ones(())
    pads = node_facts.ints_attribute(node, "pads")
    for i, (n, m) in enumerate(zip(_spatial(node.inputs[0]), _spatial(node.outputs[0]), strict=True)):
        if n is None or m is None:
            raise _unknown(node)
        stride = node_facts.ints_attribute(node, "strides", (1,) * rank)[i]
        dilation = node_facts.ints_attribute(node, "dilations", (1,) * rank)[i]
        at = np.arange(m)[:, None] * stride - pads[i] + np.arange(kernel[i]) * dilation
        shares = np.multiply.outer(shares, ((at >= 0) & (at < n)).mean(axis=1))
    return shares


def _batch_normalization(model: ir.Model, node: ir.Node) -> None:
    x, scale, shift = node.inputs[:3]
    dims, mean, variance = node_facts.dims(x), node_facts.array(node, 3), node_facts.array(node, 4)
    if x is None or x.dtype is None or dims is None or mean is None or variance is None:
        raise _unknown(node)
    if node_facts.int_attribute(node, "training_mode"):
        raise GradientError(f"node {node.name!r} (BatchNormalization) is in training mode")
    write, shape = Writer(Names(model), node), (-1,) + (1,) * (len(dims) - 2)
    spread = write.constant(np.array(shape))
    epsilon = node_facts.float_attribute(node, "epsilon", 1e-5)
    factor = 1 / np.sqrt(variance.astype(np.float64) + epsilon)
    y = write.op("Sub", [x, write.constant(mean.reshape(shape), x.dtype)])
    ratio = write.op("Mul", [scale, write.constant(factor, x.dtype)])
    y = write.op("Mul", [y, write.op("Reshape", [ratio, spread])])
    y = write.op("Add", [y, write.op("Reshape", [shift, spread])])
    y.shape = node.outputs[0].shape
    take_over(write.names, node.outputs[0], y)
    model.graph.remove(node, safe=True)


def _layer_normalization(model: ir.Model, node: ir.Node) -> bool:
    x, scale = node.inputs[:2]
    dims, kept = node_facts.dims(x), node_facts.dims(scale)
    if dims is None or kept is None or None in kept or scale is None or scale.dtype is None:
        raise _unknown(node)
    write, shift = Writer(Names(model), node), node_facts.input_of(node, 2)
    if shift is not None and len(node.outputs) == 3:
        return False
    if shift is None:
        shift = write.constant(np.zeros([n or 0 for n in kept]), scale.dtype)
    new = write.ops("LayerNormalization", [x, scale, shift], *node.attributes.values(), outputs=3)
    for old, value in zip(node.outputs, new, strict=False):
        value.shape, value.type = old.shape, old.type
        take_over(write.names, old, value)
    axis = node_facts.int_attribute(node, "axis", -1) % len(dims)
    for value in new[len(node.outputs) :]:
        value.shape = ir.Shape([*dims[:axis], *(1,) * (len(dims) - axis)])
    model.graph.remove(node, safe=True)
    return True


def _kernel(node: ir.Node) -> tuple[int, ...]:
    given = node_facts.ints_attribute(node, "kernel_shape")
    if given:
        return given
    dims = node_facts.dims(node_facts.input_of(node, 1))
    if dims is None or None in dims:
        raise _unknown(node)
    return tuple(dim for dim in dims[2:] if dim is not None)


def _spatial(value: ir.Value | None) -> tuple[int | None, ...]:
    return (node_facts.dims(value) or ())[2:]


def _unknown(node: ir.Node) -> GradientError:
    return GradientError(
        f"node {node.name!r} ({node.op_type}) has no plainer form: it depends on a shape, or on statistics, "
        "that are only known at run time"
    )
