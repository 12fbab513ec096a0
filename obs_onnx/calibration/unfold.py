"""Unfold a layer's input into the positions and columns that its weight sees.

``x`` in the model's layout becomes ``x_GNI`` (groups, positions, inputs per group) such that
``y_GNO = x_GNI w_GOI^T``; :func:`outputs` puts the layer's output into the same order of positions.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from obs_onnx.passes.errors import DataError
from obs_onnx.passes.traits.linear import ConvGeometry, MatmulGeometry

__all__ = [
    "ALL",
    "Array",
    "Axis",
    "Geometry",
    "Slice",
    "axes_of",
    "computable",
    "materialise",
    "matmul_positions",
    "outputs",
    "take",
    "transposed",
    "unfold",
    "unfolded_rows",
]

Array: TypeAlias = NDArray[np.floating]
Geometry: TypeAlias = ConvGeometry | MatmulGeometry
Slice: TypeAlias = "slice[Any, Any, Any]"

ALL = slice(None)


def take(a: Array, index: tuple[Any, ...]) -> Array:
    """``a[index]`` as an array, whatever the types of the index."""
    return np.asarray(a[index])


@dataclass(frozen=True)
class Axis:
    """One spatial axis: kernel offset k meets, for output o, the input at (starts[k] + o * stride) / up.

    Inputs outside [0, size) and positions that ``up`` does not divide are zero.
    """

    size: int
    out: int
    starts: tuple[int, ...]
    stride: int = 1
    up: int = 1

    def window(self, k: int) -> tuple[Slice, Slice]:
        """Inputs and the outputs they meet at kernel offset k, without the zeros."""
        start = self.starts[k]
        if self.up > 1:
            first = max(0, -(-start // self.up))
            last = min(self.size, (start + self.out - 1) // self.up + 1)
            low = first * self.up - start
            count = max(0, last - first)
            return slice(first, first + count), slice(low, low + max(0, (count - 1) * self.up + 1), self.up)
        low = max(0, (self.stride - 1 - start) // self.stride)
        high = min(self.out, (self.size - 1 - start) // self.stride + 1)
        count = max(0, high - low)
        first = start + low * self.stride
        return slice(first, first + max(0, (count - 1) * self.stride + 1), self.stride), slice(
            low, low + count
        )


def _split(total: int, more_at_end: bool) -> int:
    """Padding at the beginning."""
    return total // 2 if more_at_end else total - total // 2


def axes_of(geometry: ConvGeometry, spatial: Sequence[int]) -> tuple[Axis, ...]:
    """How a (transposed) convolution meets each spatial axis of an input of these sizes."""
    rank = len(spatial)
    if len(geometry.kernel) != rank:
        raise DataError(f"an input with {rank} spatial axes does not fit the kernel {geometry.kernel}")
    strides = geometry.strides or (1,) * rank
    dilations = geometry.dilations or (1,) * rank
    pads = geometry.pads if geometry.pads and geometry.auto_pad == "NOTSET" else (0,) * (2 * rank)
    extra = geometry.output_padding or (0,) * rank
    same = geometry.auto_pad in ("SAME_UPPER", "SAME_LOWER")
    upper = geometry.auto_pad == "SAME_UPPER"
    axes = []
    for axis, size in enumerate(spatial):
        kernel, stride, dilation = geometry.kernel[axis], strides[axis], dilations[axis]
        extent = (kernel - 1) * dilation + 1
        begin, end = pads[axis], pads[rank + axis]
        if geometry.transposed:
            full = (size - 1) * stride + extra[axis] + extent
            wanted = size * stride if same else None
            if geometry.output_shape is not None:
                wanted = geometry.output_shape[axis]
            if wanted is not None:
                total = max(0, full - wanted)
                begin = _split(total, upper)
                end = total - begin
            out = full - begin - end if geometry.output_shape is None else geometry.output_shape[axis]
            starts = tuple(begin - k * dilation for k in range(kernel))
            axes.append(Axis(size, out, starts, 1, stride))
        else:
            if same:
                total = max(0, (-(-size // stride) - 1) * stride + extent - size)
                begin = _split(total, upper)
                end = total - begin
            out = (size + begin + end - extent) // stride + 1
            starts = tuple(k * dilation - begin for k in range(kernel))
            axes.append(Axis(size, out, starts, stride))
        if out < 1:
            raise DataError(f"an input of spatial shape {tuple(spatial)} is smaller than the layer's kernel")
    return tuple(axes)


def computable(x: NDArray[np.generic]) -> Array:
    """``x`` in float64 if it is, else in float32: half types are no good for products."""
    return np.asarray(x, dtype=np.float64 if x.dtype == np.float64 else np.float32)


def materialise(x: Array, axes: Sequence[Axis]) -> tuple[Array, tuple[Axis, ...]]:
    """``x`` (N, C, *spatial) with its zeros written out, and the axes of the result."""
    shape, source, target, padded = list(x.shape), [ALL] * 2, [ALL] * 2, []
    for number, axis in enumerate(axes):
        begin = min(axis.starts)
        end = max(axis.starts) + (axis.out - 1) * axis.stride + 1
        first = max(0, -(-begin // axis.up))
        last = max(first, min(axis.size, (end - 1) // axis.up + 1))
        shape[2 + number] = end - begin
        source.append(slice(first, last))
        low = first * axis.up - begin
        target.append(slice(low, low + max(0, (last - first - 1) * axis.up + 1), axis.up))
        padded.append(Axis(end - begin, axis.out, tuple(s - begin for s in axis.starts), axis.stride))
    result = np.zeros(shape, x.dtype)
    result[tuple(target)] = x[tuple(source)]
    return result, tuple(padded)


def matmul_positions(a: Array, axis: int, groups: int) -> Array:
    """(..., rows, columns) -> (G, N, columns), or (..., columns, rows) if ``axis`` is -2."""
    if a.ndim == 1:
        a = a[None] if axis == -1 else a[:, None]
    if axis == -2:
        a = a.swapaxes(-1, -2)
    if groups == 1:
        return a.reshape(1, -1, a.shape[-1])
    lead = math.prod(a.shape[:-2])
    if lead % groups:
        raise DataError(f"an input of shape {a.shape} does not fit a weight with {groups} leading matrices")
    stacked = a.reshape(lead // groups, groups, *a.shape[-2:]).swapaxes(0, 1)
    return np.asarray(stacked.reshape(groups, -1, a.shape[-1]))


def unfold(x: NDArray[np.generic], geometry: Geometry) -> Array:
    """Explicit unfolding: one row per position where the weight is applied.

    Args:
        x: the layer's input in the model's layout.
        geometry: how the weight lies over it.

    Returns:
        ``x_GNI`` in the precision of ``x`` (float32 for half types), so that ``x_GNI @ w_GOI^T`` is the
        layer's output (without bias) in the order of :func:`outputs`. Samples are slower than space.

    Raises:
        DataError: the shape of ``x`` does not fit the geometry.
    """
    x = computable(x)
    if isinstance(geometry, MatmulGeometry):
        return matmul_positions(x, geometry.input_axis, geometry.groups)
    padded, axes = materialise(x, axes_of(geometry, x.shape[2:]))
    samples, channels, groups = x.shape[0], x.shape[1], geometry.groups
    out = tuple(axis.out for axis in axes)
    x_GNKI = np.empty((groups, samples, *out, math.prod(geometry.kernel), channels // groups), x.dtype)
    for k, offset in enumerate(itertools.product(*(axis.starts for axis in axes))):
        window = tuple(
            slice(s, s + (a.out - 1) * a.stride + 1, a.stride) for s, a in zip(offset, axes, strict=True)
        )
        view = take(padded, (ALL, ALL, *window)).reshape(samples, groups, -1, *out)
        x_GNKI[..., k, :] = np.moveaxis(view, (0, 1, 2), (1, 0, -1))
    return x_GNKI.reshape(groups, samples * math.prod(out), -1)


def outputs(y: NDArray[np.generic], geometry: Geometry, goi: tuple[int, int, int]) -> Array:
    """The layer's output ``y`` (model layout) as ``y_GNO``, positions in the order of :func:`unfold`.

    Raises:
        DataError: the shape of ``y`` does not fit ``goi`` (groups, outputs per group, inputs per group).
    """
    y = computable(y)
    groups, rows, _ = goi
    if isinstance(geometry, MatmulGeometry):
        if rows == 1 and groups == 1:
            return y.reshape(1, -1, 1)
        return matmul_positions(y, geometry.output_axis, geometry.groups)
    if y.shape[1] != groups * rows:
        raise DataError(f"an output of shape {y.shape} does not have {groups * rows} channels")
    y_NGOS = y.reshape(y.shape[0], groups, rows, -1)
    return np.ascontiguousarray(y_NGOS.transpose(1, 0, 3, 2)).reshape(groups, -1, rows)


def transposed(a: Array, groups: int) -> Array:
    """(N, G * C, *spatial) -> contiguous (G, C, *spatial, N), copied in blocks that stay in the cache."""
    flat = a.reshape(a.shape[0], -1)
    result = np.empty(flat.shape[::-1], a.dtype)
    for i in range(0, flat.shape[1], 1024):
        for j in range(0, flat.shape[0], 16):
            result[i : i + 1024, j : j + 16] = flat[j : j + 16, i : i + 1024].T
    return result.reshape(groups, -1, *a.shape[2:], a.shape[0])


def unfolded_rows(x_GCSN: Array, axes: tuple[Axis, ...], most: int) -> Iterator[Array]:
    """What the weight sees, some output rows at a time: (G, I, M) with samples as the last of the positions.

    Args:
        x_GCSN: (G, C, *spatial, N) the layer's input, see :func:`transposed`.
        axes: of a convolution that is not transposed.
        most: bytes at a time, unless a single row takes more.
    """
    groups, channels, samples = x_GCSN.shape[0], x_GCSN.shape[1], x_GCSN.shape[-1]
    kernel, last = [range(len(axis.starts)) for axis in axes], axes[-1]
    offsets = math.prod(map(len, kernel))
    lines = list(itertools.product(*(range(axis.out) for axis in axes[:-1])))
    line_bytes = groups * offsets * channels * last.out * samples * x_GCSN.itemsize
    step = max(1, min(len(lines), most // max(1, line_bytes)))
    for first in range(0, len(lines), step):
        chosen = lines[first : first + step]
        buffer = np.zeros((groups, offsets, channels, len(chosen), last.out, samples), x_GCSN.dtype)
        for k, ks in enumerate(itertools.product(*kernel)):
            source, target = last.window(ks[-1])
            for row, line in enumerate(chosen):
                at = [a.starts[j] + o * a.stride for a, j, o in zip(axes, ks, line, strict=False)]
                if all(0 <= p < a.size for p, a in zip(at, axes, strict=False)):
                    buffer[:, k, :, row, target] = take(x_GCSN, (ALL, ALL, *at, source))
        yield buffer.reshape(groups, offsets * channels, -1)
