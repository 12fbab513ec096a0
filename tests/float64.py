"""Models in double precision: a copy of a graph in float64, and an evaluator that computes in it.

onnx's reference evaluator serves for most operators. Those which it computes in single precision, element by
element or not at all are written here with numpy, each in the plainest way.
"""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from onnx.reference.ops.op_conv_transpose import ConvTranspose as SlowConvTranspose
from onnx.reference.ops.op_grid_sample import GridSample as SlowGridSample
from onnx.reference.ops.op_pad import Pad_18 as SlowPad
from onnx.reference.ops.op_resize import Resize as SlowResize
from scipy.special import erf

__all__ = ["double", "evaluator", "feeds_in_double"]

SINGLE = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)


def double(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which every float tensor, type and attribute that names a type is float64."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    _double_graph(copy.graph)
    return copy


def _double_tensor(tensor: onnx.TensorProto) -> None:
    if tensor.data_type in SINGLE:
        array = numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def _double_graph(graph: onnx.GraphProto) -> None:
    for tensor in graph.initializer:
        _double_tensor(tensor)
    for info in (*graph.input, *graph.output, *graph.value_info):
        if info.type.tensor_type.elem_type in SINGLE:
            info.type.tensor_type.elem_type = TensorProto.DOUBLE
    for node in graph.node:
        if node.op_type == "ConstantOfShape" and not node.attribute:
            zero = numpy_helper.from_array(np.zeros(1, np.float32))
            node.attribute.append(helper.make_attribute("value", zero))
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                _double_tensor(attribute.t)
            elif attribute.type == onnx.AttributeProto.GRAPH:
                _double_graph(attribute.g)
            elif attribute.name in ("to", "dtype") and attribute.i in SINGLE:
                attribute.i = TensorProto.DOUBLE


def feeds_in_double(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same arrays, floats in float64."""
    return {
        name: array.astype(np.float64) if array.dtype.kind == "f" else array for name, array in feeds.items()
    }


def evaluator(model: onnx.ModelProto) -> ReferenceEvaluator:
    """Evaluator of ``model`` with the kernels of this file."""
    return ReferenceEvaluator(model, new_ops=KERNELS)


class _Windows:
    """Where the windows of a convolution or pooling stand: one slice of the padded input for each offset."""

    def __init__(self, lengths, kernel, strides, dilations, pads, auto_pad="NOTSET", ceil=0):
        n = len(lengths)
        self.kernel = kernel
        self.strides = list(strides or (1,) * n)
        self.dilations = list(dilations or (1,) * n)
        reach = [(k - 1) * d + 1 for k, d in zip(kernel, self.dilations, strict=True)]
        self.pads = list(pads or (0,) * 2 * n)
        if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            self.out = [-(-length // s) for length, s in zip(lengths, self.strides, strict=True)]
            total = [
                max(0, (o - 1) * s + r - length)
                for o, s, r, length in zip(self.out, self.strides, reach, lengths, strict=True)
            ]
            less = [t // 2 for t in total]
            more = [t - b for t, b in zip(total, less, strict=True)]
            self.pads = less + more if auto_pad == "SAME_UPPER" else more + less
        else:
            self.out = []
            for i in range(n):
                room = lengths[i] + self.pads[i] + self.pads[n + i] - reach[i]
                o = (-(-room // self.strides[i]) if ceil else room // self.strides[i]) + 1
                if ceil and (o - 1) * self.strides[i] >= lengths[i] + self.pads[i]:
                    o -= 1
                self.out.append(o)
        self.padded = [
            max(length + b + e, (o - 1) * s + r)
            for length, b, e, o, s, r in zip(
                lengths, self.pads[:n], self.pads[n:], self.out, self.strides, reach, strict=True
            )
        ]
        self.inside = tuple(slice(b, b + length) for b, length in zip(self.pads[:n], lengths, strict=True))

    def pad(self, x, value=0.0):
        padded = np.full((*x.shape[:2], *self.padded), value, x.dtype)
        padded[(..., *self.inside)] = x
        return padded

    def offsets(self):
        for offset in product(*(range(k) for k in self.kernel)):
            yield (
                offset,
                (
                    ...,
                    *(
                        slice(o * d, o * d + (n - 1) * s + 1, s)
                        for o, d, n, s in zip(offset, self.dilations, self.out, self.strides, strict=True)
                    ),
                ),
            )


def _grouped(w_OI, x_NC, group):
    """``w`` (O, I/g) times ``x`` (N, I, places) in groups: (N, O, places)."""
    n, c, places = x_NC.shape[0], x_NC.shape[1], x_NC.shape[2:]
    x = x_NC.reshape(n, group, c // group, -1)
    y = np.matmul(w_OI.reshape(group, -1, c // group), x)
    return y.reshape(n, -1, *places)


class Conv(OpRun):
    def _run(
        self,
        x,
        w,
        b=None,
        auto_pad=None,
        dilations=None,
        group=None,
        kernel_shape=None,
        pads=None,
        strides=None,
    ):
        windows = _Windows(x.shape[2:], w.shape[2:], strides, dilations, pads, auto_pad or "NOTSET")
        padded, y = windows.pad(x), 0.0
        for offset, places in windows.offsets():
            y = y + _grouped(w[(..., *offset)], padded[places], group or 1)
        return (y if b is None else y + b.reshape(-1, *(1,) * (x.ndim - 2)),)


class ConvTranspose(SlowConvTranspose):
    def _run(
        self, x, w, b=None, auto_pad=None, dilations=None, group=None, kernel_shape=None, output_padding=None,
        output_shape=None, pads=None, strides=None,
    ):  # fmt: skip
        n, group = x.ndim - 2, group or 1
        if auto_pad not in (None, "NOTSET") or output_shape is not None:
            return SlowConvTranspose._run(
                self, x, w, b, auto_pad=auto_pad, dilations=dilations, group=group, strides=strides,
                pads=pads, kernel_shape=kernel_shape, output_padding=output_padding,
                output_shape=output_shape,
            )  # fmt: skip
        strides, dilations = strides or [1] * n, dilations or [1] * n
        pads, extra = pads or [0] * 2 * n, output_padding or [0] * n
        full = [
            (x.shape[2 + i] - 1) * strides[i] + (w.shape[2 + i] - 1) * dilations[i] + 1 + extra[i]
            for i in range(n)
        ]
        y = np.zeros((x.shape[0], w.shape[1] * group, *full), x.dtype)
        for offset in product(*(range(k) for k in w.shape[2:])):
            kernel = w[(..., *offset)].reshape(group, w.shape[0] // group, w.shape[1])
            places = tuple(
                slice(
                    offset[i] * dilations[i],
                    offset[i] * dilations[i] + (x.shape[2 + i] - 1) * strides[i] + 1,
                    strides[i],
                )
                for i in range(n)
            )
            y[(..., *places)] += _grouped(kernel.transpose(0, 2, 1).reshape(-1, kernel.shape[1]), x, group)
        y = y[(..., *(slice(pads[i], full[i] - pads[n + i]) for i in range(n)))]
        return (y if b is None else y + b.reshape(-1, *(1,) * n),)


class MaxPool(OpRun):
    def _run(
        self, x, auto_pad=None, ceil_mode=None, dilations=None, kernel_shape=None, pads=None,
        storage_order=None, strides=None,
    ):  # fmt: skip
        windows = _Windows(
            x.shape[2:], kernel_shape, strides, dilations, pads, auto_pad or "NOTSET", ceil_mode or 0
        )
        padded = windows.pad(x, -np.inf)
        places_of = windows.pad(np.arange(x.size).reshape(x.shape), -1)
        y = None
        for _, places in windows.offsets():
            if y is None:
                y, index = padded[places].copy(), places_of[places].copy()
            else:
                higher = padded[places] > y
                y, index = np.where(higher, padded[places], y), np.where(higher, places_of[places], index)
        return (y, index) if len(self.onnx_node.output) > 1 else (y,)


class AveragePool(OpRun):
    def _run(
        self, x, auto_pad=None, ceil_mode=None, count_include_pad=None, dilations=None, kernel_shape=None,
        pads=None, strides=None,
    ):  # fmt: skip
        windows = _Windows(
            x.shape[2:], kernel_shape, strides, dilations, pads, auto_pad or "NOTSET", ceil_mode or 0
        )
        padded, counted = windows.pad(x), windows.pad(np.ones((1, 1, *x.shape[2:])))
        if count_include_pad:
            counted[:] = 0
            n = x.ndim - 2
            lengths = [x.shape[2 + i] + windows.pads[i] + windows.pads[n + i] for i in range(n)]
            counted[(..., *(slice(0, length) for length in lengths))] = 1
        total = sum(padded[places] for _, places in windows.offsets())
        return (total / sum(counted[places] for _, places in windows.offsets()),)


class Erf(OpRun):
    def _run(self, x):
        return (erf(x).astype(x.dtype),)


class Gelu(OpRun):
    def _run(self, x, approximate=None):
        if approximate == "tanh":
            return (0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),)
        return (0.5 * x * (1 + erf(x / math.sqrt(2))),)


class Resize(SlowResize):
    """One axis after the other: each is a product with what the slow code makes of the identity."""

    def _run(self, x, *operands, **attributes):
        operands = [*operands, None, None, None][:3]
        if self.onnx_node.op_type == "Resize" and len(self.onnx_node.input) == 2:
            operands = [None, operands[0], None]
        scales, sizes = operands[1:]
        scales, sizes = (None if v is None or not len(v) else v for v in (scales, sizes))
        axes = attributes.get("axes") or range(x.ndim)
        policy = attributes.get("keep_aspect_ratio_policy") or "stretch"
        if attributes.get("coordinate_transformation_mode") == "tf_crop_and_resize" or policy != "stretch":
            return SlowResize._run(self, x, *operands, **attributes)
        for i, axis in enumerate(axes):
            length = x.shape[axis]
            if (scales is None or scales[i] == 1) and (sizes is None or sizes[i] == length):
                continue
            one = {**attributes, "axes": None}
            scale = None if scales is None else np.array([1, scales[i]], np.float32)
            size = None if sizes is None else np.array([length, sizes[i]])
            (matrix,) = SlowResize._run(self, np.eye(length), None, scale, size, **one)
            x = np.moveaxis(np.moveaxis(x, axis, -1) @ matrix, -1, axis)
        return (x,)


class LpPool(OpRun):
    def _run(
        self,
        x,
        auto_pad=None,
        ceil_mode=None,
        dilations=None,
        kernel_shape=None,
        p=None,
        pads=None,
        strides=None,
    ):
        windows = _Windows(
            x.shape[2:], kernel_shape, strides, dilations, pads, auto_pad or "NOTSET", ceil_mode or 0
        )
        padded, p = windows.pad(np.abs(x) ** (p or 2)), p or 2
        return (sum(padded[places] for _, places in windows.offsets()) ** (1 / p),)


class GlobalLpPool(OpRun):
    def _run(self, x, p=None):
        p = p or 2
        return ((np.abs(x) ** p).sum(tuple(range(2, x.ndim)), keepdims=True) ** (1 / p),)


class MeanVarianceNormalization(OpRun):
    def _run(self, x, axes=None):
        axes = tuple(axes or (0, 2, 3))
        return ((x - x.mean(axes, keepdims=True)) / (x.std(axes, keepdims=True) + 1e-9),)


class LpNormalization(OpRun):
    def _run(self, x, axis=None, p=None):
        axis = -1 if axis is None else axis
        norm = np.linalg.norm(x, p or 2, axis, keepdims=True)
        return (np.where(norm == 0, 0.0, x / np.where(norm == 0, 1.0, norm)),)


class Pad(SlowPad):
    """Negative pads cut off."""

    def _run(self, x, pads, value=None, axes=None, mode=None):
        axes = range(x.ndim) if axes is None else axes
        cut = [slice(None)] * x.ndim
        for axis, before, after in zip(axes, pads[: len(pads) // 2], pads[len(pads) // 2 :], strict=True):
            cut[axis] = slice(max(0, -before), x.shape[axis] + min(0, after))
        return SlowPad._run(self, x[tuple(cut)], np.maximum(pads, 0), value, np.array(axes), mode=mode)


class BatchNormalization(OpRun):
    def _run(self, x, scale, shift, mean, variance, epsilon=None, momentum=None, training_mode=None):
        scale, shift, mean, variance = (
            p.reshape(-1, *(1,) * (x.ndim - 2)) for p in (scale, shift, mean, variance)
        )
        return ((x - mean) / np.sqrt(variance + epsilon) * scale + shift,)


class LRN(OpRun):
    def _run(self, x, alpha=None, beta=None, bias=None, size=None):
        squares, c = np.zeros_like(x), x.shape[1]
        for i in range(c):
            near = x[:, max(0, i - (size - 1) // 2) : i + size // 2 + 1]
            squares[:, i] = (near**2).sum(1)
        return (x * (bias + alpha / size * squares) ** -beta,)


class _Softmax(OpRun):
    """Before opset 13 all axes from ``axis`` on are one."""

    def _run(self, x, axis=None):
        old = self.run_params["opsets"][""] < 13
        axis = (1 if old else -1) if axis is None else axis
        axes = tuple(range(axis % x.ndim, x.ndim)) if old else (axis,)
        shifted = x - x.max(axes, keepdims=True)
        return (self._finish(shifted, np.log(np.exp(shifted).sum(axes, keepdims=True))),)


class Softmax(_Softmax):
    def _finish(self, x, log_total):
        return np.exp(x - log_total)


class LogSoftmax(_Softmax):
    def _finish(self, x, log_total):
        return x - log_total


def _places(index, axis, shape):
    """Coordinates of the elements that ``index`` names along ``axis``."""
    places = list(np.indices(index.shape, sparse=True))
    places[axis] = np.where(index < 0, index + shape[axis], index)
    return tuple(places)


_SCATTERED = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}


class GatherElements(OpRun):
    def _run(self, x, index, axis=None):
        return (x[_places(index, axis or 0, x.shape)],)


class ScatterElements(OpRun):
    def _run(self, x, index, updates, axis=None, reduction=None):
        y = x.copy()
        places = _places(index, axis or 0, x.shape)
        if reduction in _SCATTERED:
            _SCATTERED[reduction].at(y, places, updates)
        else:
            assert reduction in (None, "none")
            y[places] = updates
        return (y,)


class ScatterND(OpRun):
    def _run(self, x, index, updates, reduction=None):
        y = x.copy()
        places = tuple(np.moveaxis(index, -1, 0))
        if reduction in _SCATTERED:
            _SCATTERED[reduction].at(y, places, updates)
        else:
            assert reduction in (None, "none")
            y[places] = updates
        return (y,)


class GridSample(SlowGridSample):
    """Every place of an axis has a hat of width two, or takes the element next to it."""

    def _run(self, x, grid, align_corners=None, mode=None, padding_mode=None):
        if mode not in ("linear", "bilinear", "nearest"):
            return SlowGridSample._run(self, x, grid, mode, padding_mode, align_corners)
        rank, letters = x.ndim - 2, "hij"
        hats = []
        for axis, size in enumerate(x.shape[2:]):
            place = (grid.reshape(len(x), -1, rank)[..., rank - 1 - axis] + 1) / 2
            place = place * (size - 1) if align_corners else place * size - 0.5
            if padding_mode == "reflection":
                edge, span = (0, max(size - 1, 1)) if align_corners else (-0.5, size)
                place = edge + span - np.abs((place - edge) % (2 * span) - span)
            if padding_mode in ("border", "reflection"):
                place = np.clip(place, 0, size - 1)
            place = np.rint(place) if mode == "nearest" else place
            hats.append(np.maximum(0, 1 - np.abs(place[..., None] - np.arange(size))))
        letters = letters[:rank]
        y = np.einsum(f"nc{letters}," + ",".join(f"np{c}" for c in letters) + "->ncp", x, *hats)
        return (y.reshape(*x.shape[:2], *grid.shape[1:-1]),)


class _Iterated(OpRun):
    def need_context(self):
        return True

    def _step(self, context, inputs):
        known = {k: a for k, a in (context or {}).items() if k not in inputs}
        return self.body.run(None, {**known, **inputs})


class Scan(_Iterated):
    def _run(
        self, *args, context=None, body=None, num_scan_inputs=None, scan_input_axes=None, attributes=None,
        scan_input_directions=None, scan_output_axes=None, scan_output_directions=None, bindings=None,
    ):  # fmt: skip
        n, names = len(args) - num_scan_inputs, self.body.input_names
        states, columns = list(args[:n]), args[n:]
        columns = [
            np.moveaxis(x, (scan_input_axes or [0] * len(columns))[i], 0) for i, x in enumerate(columns)
        ]
        back = scan_input_directions or [0] * len(columns)
        rows = []
        for t in range(len(columns[0])):
            slices = [x[-1 - t] if back[i] else x[t] for i, x in enumerate(columns)]
            found = self._step(context, dict(zip(names, [*states, *slices], strict=True)))
            states = found[:n]
            rows.append(found[n:])
        stacks = []
        for i, row in enumerate(zip(*rows, strict=True)):
            row = row[::-1] if scan_output_directions and scan_output_directions[i] else row
            stacks.append(np.stack(row, scan_output_axes[i] if scan_output_axes else 0))
        return (*states, *stacks)


class Loop(_Iterated):
    def _run(self, m, go, *args, context=None, body=None, attributes=None, bindings=None):
        names, states, rows, t = self.body.input_names, list(args), [], 0
        while (m is None or t < m) and (go is None or go):
            here = [np.array(t), np.array(True if go is None else go), *states]
            go, *found = self._step(context, dict(zip(names, here, strict=True)))
            states = found[: len(args)]
            rows.append(found[len(args) :])
            t += 1
        return (*states, *(np.stack(row) for row in zip(*rows, strict=True)))


class FusedMatMul(OpRun):
    op_domain = "com.microsoft"

    def _run(self, a, b, alpha=1.0, transA=0, transB=0, transBatchA=0, transBatchB=0):
        a = np.swapaxes(a, -1, -2) if transA else a
        b = np.swapaxes(b, -1, -2) if transB else b
        return ((1.0 if alpha is None else alpha) * (a @ b),)


class FusedGemm(OpRun):
    op_domain = "com.microsoft"

    def _run(self, a, b, c=None, alpha=1.0, beta=1.0, transA=0, transB=0, activation=None, **_):
        y = (1.0 if alpha is None else alpha) * ((a.T if transA else a) @ (b.T if transB else b))
        y = y if c is None else y + (1.0 if beta is None else beta) * c
        return ({"Relu": lambda v: np.maximum(v, 0), "Tanh": np.tanh}[activation](y),)


class SkipLayerNormalization(OpRun):
    op_domain = "com.microsoft"

    def _run(self, x, skip, gamma, beta=None, bias=None, epsilon=1e-12):
        total = x + skip + (0.0 if bias is None else bias)
        centred = total - total.mean(-1, keepdims=True)
        rest = np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon)
        y = centred / rest * gamma + (0.0 if beta is None else beta)
        return (y, total.mean(-1, keepdims=True), 1 / rest, total)[: len(self.onnx_node.output)]


class BiasGelu(OpRun):
    op_domain = "com.microsoft"

    def _run(self, x, bias):
        x = x + bias
        return (x * 0.5 * (1 + erf(x / math.sqrt(2))),)


class FastGelu(OpRun):
    op_domain = "com.microsoft"

    def _run(self, x, bias=None):
        x = x if bias is None else x + bias
        return (0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),)


def _is_kernel(kind):
    return issubclass(kind, OpRun) and kind.__module__ == __name__ and not kind.__name__.startswith("_")


KERNELS = [kernel for kernel in list(globals().values()) if isinstance(kernel, type) and _is_kernel(kernel)]
