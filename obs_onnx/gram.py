"""Second moments of layer inputs, streamed: the Hessian of the layer-wise squared error.

For a layer ``y_GNO = x_GNI w_GOI^T`` (see :mod:`obs_onnx.passes.layers`) the error of changed weights is
quadratic with Hessian ``xx = sum_n x_n x_n^T`` (Dong et al. 2017, eq. 4, up to a factor). With a target ``t``
the least-squares weights also need ``xt = sum_n x_n t_n^T``.

Convolutions never store their unfolded input. Two kernel offsets d and e see the same image shifted by
the lag l = e - d, so the block (d, e) of ``xx`` is the sum of ``x[p] x[p + l]^T`` over the window of d. For
each lag the image is cut at the borders of all windows into cells; a cell's product is computed once and
belongs to every block whose window covers it. Half of the lags follow from symmetry. This is exact for
any padding, dilation and output size of stride 1, and for transposed convolutions of any stride, where
only lags and positions that are multiples of the stride meet non-zeros. Other strides unfold some output
rows at a time.

Products run in the precision of the input (float32 for half types), one slice of a batch at a time, and
add up in float64. Where means are large against deviations, an offset is subtracted before the product
and put back in float64, so that centring does not cancel.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from obs_onnx.passes.errors import DataError
from obs_onnx.passes.layers import ConvGeometry, MatmulGeometry

__all__ = ["LayerMoments", "Moments", "conv_output_shape", "outputs", "unfold"]

Array: TypeAlias = NDArray[np.floating]
Geometry: TypeAlias = ConvGeometry | MatmulGeometry

_Slice: TypeAlias = "slice[Any, Any, Any]"
_ALL = slice(None)
_SLICE_BYTES = 64 << 20
_MIN_LAG_CHANNELS = 16
_SHIFT_RATIO = 25.0


def _take(a: Array, index: tuple[Any, ...]) -> Array:
    return np.asarray(a[index])


@dataclass(frozen=True)
class _Axis:
    """One spatial axis: kernel offset k meets, for output o, the input at (starts[k] + o * stride) / up.

    Inputs outside [0, size) and positions that ``up`` does not divide are zero.
    """

    size: int
    out: int
    starts: tuple[int, ...]
    stride: int = 1
    up: int = 1

    def window(self, k: int) -> tuple[_Slice, _Slice]:
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


def _axes(geometry: ConvGeometry, spatial: Sequence[int]) -> tuple[_Axis, ...]:
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
            axes.append(_Axis(size, out, starts, 1, stride))
        else:
            if same:
                total = max(0, (-(-size // stride) - 1) * stride + extent - size)
                begin = _split(total, upper)
                end = total - begin
            out = (size + begin + end - extent) // stride + 1
            starts = tuple(k * dilation - begin for k in range(kernel))
            axes.append(_Axis(size, out, starts, stride))
        if out < 1:
            raise DataError(f"an input of spatial shape {tuple(spatial)} is smaller than the layer's kernel")
    return tuple(axes)


def conv_output_shape(geometry: ConvGeometry, spatial: Sequence[int]) -> tuple[int, ...]:
    """Spatial shape of the output for an input of spatial shape ``spatial``."""
    return tuple(axis.out for axis in _axes(geometry, spatial))


def _computable(x: NDArray[np.generic]) -> Array:
    return np.asarray(x, dtype=np.float64 if x.dtype == np.float64 else np.float32)


def _materialise(x: Array, axes: Sequence[_Axis]) -> tuple[Array, tuple[_Axis, ...]]:
    """``x`` (N, C, *spatial) with its zeros written out, and the axes of the result."""
    shape, source, target, padded = list(x.shape), [_ALL] * 2, [_ALL] * 2, []
    for number, axis in enumerate(axes):
        begin = min(axis.starts)
        end = max(axis.starts) + (axis.out - 1) * axis.stride + 1
        first = max(0, -(-begin // axis.up))
        last = max(first, min(axis.size, (end - 1) // axis.up + 1))
        shape[2 + number] = end - begin
        source.append(slice(first, last))
        low = first * axis.up - begin
        target.append(slice(low, low + max(0, (last - first - 1) * axis.up + 1), axis.up))
        padded.append(_Axis(end - begin, axis.out, tuple(s - begin for s in axis.starts), axis.stride))
    result = np.zeros(shape, x.dtype)
    result[tuple(target)] = x[tuple(source)]
    return result, tuple(padded)


def _matmul_positions(a: Array, axis: int, groups: int) -> Array:
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
    x = _computable(x)
    if isinstance(geometry, MatmulGeometry):
        return _matmul_positions(x, geometry.input_axis, geometry.groups)
    padded, axes = _materialise(x, _axes(geometry, x.shape[2:]))
    samples, channels, groups = x.shape[0], x.shape[1], geometry.groups
    out = tuple(axis.out for axis in axes)
    x_GNKI = np.empty((groups, samples, *out, math.prod(geometry.kernel), channels // groups), x.dtype)
    for k, offset in enumerate(itertools.product(*(axis.starts for axis in axes))):
        window = tuple(
            slice(s, s + (a.out - 1) * a.stride + 1, a.stride) for s, a in zip(offset, axes, strict=True)
        )
        view = _take(padded, (_ALL, _ALL, *window)).reshape(samples, groups, -1, *out)
        x_GNKI[..., k, :] = np.moveaxis(view, (0, 1, 2), (1, 0, -1))
    return x_GNKI.reshape(groups, samples * math.prod(out), -1)


def outputs(y: NDArray[np.generic], geometry: Geometry, goi: tuple[int, int, int]) -> Array:
    """The layer's output ``y`` (model layout) as ``y_GNO``, positions in the order of :func:`unfold`.

    Raises:
        DataError: the shape of ``y`` does not fit ``goi`` (groups, outputs per group, inputs per group).
    """
    y = _computable(y)
    groups, rows, _ = goi
    if isinstance(geometry, MatmulGeometry):
        if rows == 1 and groups == 1:
            return y.reshape(1, -1, 1)
        return _matmul_positions(y, geometry.output_axis, geometry.groups)
    if y.shape[1] != groups * rows:
        raise DataError(f"an output of shape {y.shape} does not have {groups * rows} channels")
    y_NGOS = y.reshape(y.shape[0], groups, rows, -1)
    return np.ascontiguousarray(y_NGOS.transpose(1, 0, 3, 2)).reshape(groups, -1, rows)


@dataclass(frozen=True)
class LayerMoments:
    """A layer's least-squares problem, in float64; sums over ``count`` positions.

    Attributes:
        h: (G, I, I) second moments of the inputs.
        c: (G, I, O) cross moments of inputs and target, or None if the target is the dense layer itself.
        energy: (G, O) sums of squares of the target, or None.
        count: number of positions.
        mean_x, mean_t: (G, I) and (G, O), what was subtracted (zeros for a layer without bias; mean_t is
            None without target).
    """

    h: NDArray[np.float64]
    c: NDArray[np.float64] | None
    energy: NDArray[np.float64] | None
    count: int
    mean_x: NDArray[np.float64]
    mean_t: NDArray[np.float64] | None

    def bias(self, w_GOI: Array, dense_GOI: Array, dense_bias_GO: Array) -> NDArray[np.float64]:
        """Best bias (G, O) for new weights: the mean of the target minus that of the layer without bias.

        Without a target the mean output of the dense layer is kept.
        """
        shift = np.einsum("goi,gi->go", w_GOI, self.mean_x)
        if self.mean_t is not None:
            return np.asarray(self.mean_t - shift)
        return np.asarray(dense_bias_GO + np.einsum("goi,gi->go", dense_GOI, self.mean_x) - shift)


def _transposed(a: Array, groups: int) -> Array:
    """(N, G * C, *spatial) -> contiguous (G, C, *spatial, N), copied in blocks that stay in the cache."""
    flat = a.reshape(a.shape[0], -1)
    result = np.empty(flat.shape[::-1], a.dtype)
    for i in range(0, flat.shape[1], 1024):
        for j in range(0, flat.shape[0], 16):
            result[i : i + 1024, j : j + 16] = flat[j : j + 16, i : i + 1024].T
    return result.reshape(groups, -1, *a.shape[2:], a.shape[0])


@dataclass(frozen=True)
class _Lag:
    """Products to compute for one lag: cells of the input, and the kernel offset pairs each belongs to."""

    shift: tuple[int, ...]
    cells: tuple[tuple[_Slice, ...], ...]
    pairs: tuple[tuple[tuple[int, int], ...], ...]


def _axis_lag(axis: _Axis, lag: int) -> list[tuple[_Slice, list[tuple[int, int]]]]:
    where = {start: k for k, start in enumerate(axis.starts)}
    pairs = [(k, where[s + lag]) for s, k in where.items() if s + lag in where]
    cuts = sorted({axis.starts[k] + edge for k, _ in pairs for edge in (0, axis.out)})
    shift = lag // axis.up
    cells = []
    for low, high in itertools.pairwise(cuts):
        first = max(-(-low // axis.up), 0, -shift)
        last = min(-(-high // axis.up), axis.size, axis.size - shift)
        inside = [(k, e) for k, e in pairs if axis.starts[k] <= low and high <= axis.starts[k] + axis.out]
        if first < last and inside:
            cells.append((slice(first, last), inside))
    return cells


@lru_cache(maxsize=256)
def _plan(axes: tuple[_Axis, ...]) -> tuple[_Lag, ...]:
    """All lags up to symmetry with their cells."""
    sizes = [len(axis.starts) for axis in axes]
    spread = [
        sorted({e - d for d in axis.starts for e in axis.starts if (e - d) % axis.up == 0}) for axis in axes
    ]
    plan = []
    for lag in itertools.product(*spread):
        if lag < (0,) * len(axes):
            continue
        cells, pairs = [], []
        per_axis = [_axis_lag(axis, step) for axis, step in zip(axes, lag, strict=True)]
        for combination in itertools.product(*per_axis):
            cells.append(tuple(cell for cell, _ in combination))
            members = []
            for chosen in itertools.product(*(inside for _, inside in combination)):
                d = np.ravel_multi_index([k for k, _ in chosen], sizes)
                e = np.ravel_multi_index([k for _, k in chosen], sizes)
                members.append((int(d), int(e)))
            pairs.append(tuple(members))
        shift = tuple(step // axis.up for step, axis in zip(lag, axes, strict=True))
        plan.append(_Lag(shift, tuple(cells), tuple(pairs)))
    return tuple(plan)


def _moved(cell: Sequence[_Slice], shift: Sequence[int]) -> tuple[_Slice, ...]:
    return tuple(slice(c.start + s, c.stop + s, c.step) for c, s in zip(cell, shift, strict=True))


def _lines(cell: Sequence[_Slice]) -> Iterator[tuple[int, ...]]:
    """Indices of a cell along all axes but the last."""
    return itertools.product(*(range(c.start, c.stop, c.step or 1) for c in cell[:-1]))


def _product(a: Array, b: Array, a_cell: Sequence[_Slice], b_cell: Sequence[_Slice]) -> NDArray[np.float64]:
    """(G, C, D): ``a`` (G, C, *spatial, N) times ``b`` (G, D, *spatial, N), summed over equal cells."""
    groups, rows, columns = a.shape[0], a.shape[1], b.shape[1]
    if rows == columns == 1:
        a_view, b_view = _take(a, (_ALL, 0, *a_cell)), _take(b, (_ALL, 0, *b_cell))
        letters = "bcdefh"[: len(a_cell)]
        line = np.einsum(f"a{letters}n,a{letters}n->ab", a_view, b_view)
        return np.asarray(line.sum(axis=1, dtype=np.float64).reshape(groups, 1, 1))
    total = np.zeros((groups, rows, columns))
    for a_line, b_line in zip(_lines(a_cell), _lines(b_cell), strict=True):
        left = _take(a, (_ALL, _ALL, *a_line, a_cell[-1])).reshape(groups, rows, -1)
        right = _take(b, (_ALL, _ALL, *b_line, b_cell[-1])).reshape(groups, columns, -1)
        if groups == 1:
            total[0] += left[0] @ right[0].T
        else:
            total += left @ right.swapaxes(1, 2)
    return total


@dataclass
class Moments:
    """Streaming second moments of one layer's inputs, optionally crossed with a target; all in float64.

    Attributes:
        goi: groups, outputs per group, inputs per group.
        targeted: True if every update brings a target.
        count: positions seen.
        sum_x: (G, I) sums of the inputs.
        sum_t, xt, tt: (G, O) sums, (G, I, O) cross moments, (G, O) sums of squares of the target.
    """

    goi: tuple[int, int, int]
    targeted: bool = False
    count: int = 0
    sum_x: NDArray[np.float64] = field(init=False, repr=False)
    sum_t: NDArray[np.float64] = field(init=False, repr=False)
    xt: NDArray[np.float64] = field(init=False, repr=False)
    tt: NDArray[np.float64] = field(init=False, repr=False)
    _xx: NDArray[np.float64] = field(init=False, repr=False)
    _pending: dict[tuple[tuple[_Axis, ...], int, int], NDArray[np.float64]] = field(
        init=False, repr=False, default_factory=dict
    )

    def __post_init__(self) -> None:
        groups, rows, columns = self.goi
        self.sum_x = np.zeros((groups, columns))
        self._xx = np.zeros((groups, columns, columns))
        self.sum_t = np.zeros((groups, rows))
        self.tt = np.zeros((groups, rows))
        self.xt = np.zeros((groups, columns, rows) if self.targeted else (groups, columns, 0))

    @property
    def xx(self) -> NDArray[np.float64]:
        """(G, I, I) second moments of the inputs, not centred."""
        self._flush()
        return self._xx

    def update(
        self, x: NDArray[np.generic], geometry: Geometry, target_y: NDArray[np.generic] | None = None
    ) -> None:
        """Add one batch.

        Args:
            x: the layer's input in the model's layout.
            geometry: how the weight lies over it.
            target_y: wanted output (bias included) in the model's layout; given exactly if ``targeted``.

        Raises:
            DataError: shapes do not fit, or a target is missing or unexpected.
        """
        if (target_y is not None) != self.targeted:
            raise DataError("a target must come with every batch or with none")
        if isinstance(geometry, MatmulGeometry):
            x_GNI = unfold(x, geometry)
            self._check(x_GNI.shape[2] == self.goi[2] and x_GNI.shape[0] == self.goi[0], x)
            t_GNO = None if target_y is None else outputs(target_y, geometry, self.goi)
            if t_GNO is not None:
                self._check(t_GNO.shape == (self.goi[0], x_GNI.shape[1], self.goi[1]), x)
            self._update_matmul(x_GNI, t_GNO)
            return
        x = _computable(x)
        axes = _axes(geometry, x.shape[2:])
        groups, rows, columns = self.goi
        self._check(geometry.groups == groups, x)
        self._check(x.shape[1] * math.prod(geometry.kernel) == groups * columns, x)
        y = None if target_y is None else _computable(target_y)
        if y is not None:
            self._check(y.shape == (x.shape[0], groups * rows, *(axis.out for axis in axes)), x)
        if all(a.starts == (0,) and a.stride == a.up == 1 and a.out == a.size for a in axes):
            pixels = math.prod(x.shape[2:])
            x = x.reshape(*x.shape[:2], pixels)
            y = None if y is None else y.reshape(*y.shape[:2], pixels)
            axes = (_Axis(pixels, pixels, (0,)),)
        sample_bytes = max(1, x[:1].nbytes)
        step = max(1, min(x.shape[0], _SLICE_BYTES // sample_bytes))
        for first in range(0, x.shape[0], step):
            part = slice(first, first + step)
            self._update_conv(x[part], axes, None if y is None else y[part])

    def merge(self, other: Moments) -> None:
        """Add the moments of another use of the same weight.

        Raises:
            DataError: the layers differ in shape, or only one of them has a target.
        """
        if self.goi != other.goi or self.targeted != other.targeted:
            raise DataError(f"moments of shape {other.goi} do not add up with those of shape {self.goi}")
        self.count += other.count
        self.sum_x += other.sum_x
        self.xx[...] += other.xx
        self.sum_t += other.sum_t
        self.tt += other.tt
        self.xt += other.xt

    def raw(self) -> LayerMoments:
        """The problem of a layer without bias. The arrays are shared with this object."""
        mean_t = np.zeros(self.goi[:2]) if self.targeted else None
        c, energy = (self.xt, self.tt) if self.targeted else (None, None)
        return LayerMoments(self.xx, c, energy, self.count, np.zeros_like(self.sum_x), mean_t)

    def centred(self) -> LayerMoments:
        """The problem of a layer with bias: the bias is the weight of an input that is always one.

        Eliminating it leaves the moments about the mean, and the bias mean(t) - W mean(x).
        """
        count = max(1, self.count)
        mean_x, mean_t = self.sum_x / count, self.sum_t / count
        h = self.xx - self.sum_x[:, :, None] * mean_x[:, None, :]
        diagonal = np.einsum("gii->gi", h)
        np.maximum(diagonal, 0.0, out=diagonal)
        if not self.targeted:
            return LayerMoments(h, None, None, self.count, mean_x, None)
        c = self.xt - self.sum_x[:, :, None] * mean_t[:, None, :]
        energy = np.maximum(self.tt - self.sum_t * mean_t, 0.0)
        return LayerMoments(h, c, energy, self.count, mean_x, mean_t)

    def _check(self, fits: bool, x: NDArray[np.generic]) -> None:
        if not fits:
            raise DataError(
                f"an input of shape {x.shape} or its target does not fit a layer of shape {self.goi}"
            )

    def _unshift(self, o_GI: NDArray[np.float64], sum_GI: NDArray[np.float64], count: int) -> None:
        """Moments of x from those of x - o, whose sums are ``sum_GI``."""
        cross = sum_GI[:, :, None] * o_GI[:, None, :]
        self._xx += cross
        self._xx += cross.swapaxes(1, 2)
        self._xx += count * o_GI[:, :, None] * o_GI[:, None, :]

    def _update_matmul(self, x_GNI: Array, t_GNO: Array | None) -> None:
        count = x_GNI.shape[1]
        self.count += count
        sum_x = x_GNI.sum(axis=1, dtype=np.float64)
        mean = sum_x / max(1, count)
        shifted = _needs_shift(mean, np.einsum("gni,gni->gi", x_GNI, x_GNI) / max(1, count))
        o_GI = mean if shifted else np.zeros_like(mean)
        sum_t = None if t_GNO is None else t_GNO.sum(axis=1, dtype=np.float64)
        step = max(1, _SLICE_BYTES // max(1, x_GNI[:, :1].nbytes))
        rest_x, rest_t = np.zeros_like(sum_x), np.zeros_like(self.sum_t)
        for first in range(0, count, step):
            part = x_GNI[:, first : first + step]
            if shifted:
                part = part - o_GI.astype(part.dtype)[:, None]
                rest_x += part.sum(axis=1, dtype=np.float64)
            for group in range(part.shape[0]):
                self._xx[group] += part[group].T @ part[group]
            if t_GNO is not None and sum_t is not None:
                o_GO = (sum_t / count).astype(part.dtype)
                t_part = t_GNO[:, first : first + step] - o_GO[:, None]
                rest_t += t_part.sum(axis=1, dtype=np.float64)
                self.tt += np.einsum("gno,gno->go", t_part, t_part)
                for group in range(part.shape[0]):
                    self.xt[group] += part[group].T @ t_part[group]
        if shifted:
            o_GI = o_GI.astype(x_GNI.dtype).astype(np.float64)
            self._unshift(o_GI, rest_x, count)
            sum_x = rest_x + count * o_GI
        self.sum_x += sum_x
        if sum_t is not None and t_GNO is not None:
            o_GO = (sum_t / count).astype(t_GNO.dtype)
            self._untarget(o_GO.astype(np.float64), rest_t, o_GI, sum_x, count)

    def _untarget(
        self,
        o_GO: NDArray[np.float64],
        rest_GO: NDArray[np.float64],
        o_GI: NDArray[np.float64],
        sum_x: NDArray[np.float64],
        count: int,
    ) -> None:
        """Moments of t from those of t - o_GO, whose sums are ``rest_GO``."""
        self.xt += o_GI[:, :, None] * rest_GO[:, None, :] + sum_x[:, :, None] * o_GO[:, None, :]
        self.tt += 2 * o_GO * rest_GO + count * o_GO**2
        self.sum_t += rest_GO + count * o_GO

    def _update_conv(self, x: Array, axes: tuple[_Axis, ...], y: Array | None) -> None:
        groups, rows, columns = self.goi
        count = x.shape[0] * math.prod(axis.out for axis in axes)
        self.count += count
        pixels = max(1, x.shape[0] * math.prod(x.shape[2:]))
        mean_C = x.sum(axis=0, dtype=np.float64).reshape(x.shape[1], -1).sum(axis=1) / pixels
        power_C = np.einsum("ncs,ncs->c", *[x.reshape(*x.shape[:2], -1)] * 2) / pixels
        o_GI = np.zeros((groups, columns))
        shifted = _needs_shift(mean_C, power_C)
        if shifted:
            x, axes = _materialise(x, axes)
            o_C = mean_C.astype(x.dtype)
            x -= o_C.reshape(-1, *(1,) * len(axes))
            o_GI[...] = np.tile(o_C.reshape(groups, -1), (1, columns * groups // o_C.size))
        sums = x.sum(axis=0, dtype=np.float64).reshape(groups, -1, *x.shape[2:])
        windows = [
            tuple(axis.window(k) for axis, k in zip(axes, ks, strict=True))
            for ks in itertools.product(*(range(len(axis.starts)) for axis in axes))
        ]
        spatial = tuple(range(2, sums.ndim))
        sum_x = np.concatenate(
            [_take(sums, (..., *(w[0] for w in ws))).sum(axis=spatial) for ws in windows], axis=1
        )
        x_GCSN = _transposed(x, groups)
        if any(axis.stride > 1 for axis in axes) or (
            1 < x_GCSN.shape[1] < _MIN_LAG_CHANNELS and all(axis.up == 1 for axis in axes)
        ):
            self._add_rows(x_GCSN, axes)
        else:
            self._add_lags(x_GCSN, axes)
        if shifted:
            self._unshift(o_GI, sum_x, count)
            sum_x += count * o_GI
        self.sum_x += sum_x
        if y is not None:
            t_GOSN = _transposed(y, groups)
            sum_t = t_GOSN.reshape(groups, rows, -1).sum(axis=2, dtype=np.float64)
            o_GO = (sum_t / count).astype(t_GOSN.dtype)
            t_GOSN -= o_GO.reshape(groups, rows, *(1,) * (len(axes) + 1))
            lines = t_GOSN.reshape(groups, rows, -1, t_GOSN.shape[-2] * t_GOSN.shape[-1])
            self.tt += np.einsum("gosn,gosn->gos", lines, lines).sum(axis=2, dtype=np.float64)
            rest = lines.sum(axis=3, dtype=np.float64).sum(axis=2)
            channels = x_GCSN.shape[1]
            for k, ws in enumerate(windows):
                block = _product(x_GCSN, t_GOSN, [w[0] for w in ws], [w[1] for w in ws])
                self.xt[:, k * channels : (k + 1) * channels] += block
            self._untarget(o_GO.astype(np.float64), rest, o_GI, sum_x, count)

    def _add_lags(self, x_GCSN: Array, axes: tuple[_Axis, ...]) -> None:
        groups, channels = x_GCSN.shape[:2]
        if self._pending and next(iter(self._pending))[0] != axes:
            self._flush()
        for number, lag in enumerate(_plan(axes)):
            for index, cell in enumerate(lag.cells):
                key = (axes, number, index)
                if key not in self._pending:
                    self._pending[key] = np.zeros((groups, channels, channels))
                self._pending[key] += _product(x_GCSN, x_GCSN, cell, _moved(cell, lag.shift))

    def _flush(self) -> None:
        """Put the products of all cells where they belong."""
        mirrored = np.zeros_like(self._xx) if self._pending else None
        for (axes, number, index), block in self._pending.items():
            channels = block.shape[1]
            for d, e in _plan(axes)[number].pairs[index]:
                row = slice(d * channels, (d + 1) * channels)
                column = slice(e * channels, (e + 1) * channels)
                self._xx[:, row, column] += block
                if d != e and mirrored is not None:
                    mirrored[:, column, row] += block.swapaxes(1, 2)
        if mirrored is not None:
            self._xx += mirrored
        self._pending.clear()

    def _add_rows(self, x_GCSN: Array, axes: tuple[_Axis, ...]) -> None:
        """Unfold a few output rows at a time and multiply."""
        groups, channels, samples = x_GCSN.shape[0], x_GCSN.shape[1], x_GCSN.shape[-1]
        kernel = [range(len(axis.starts)) for axis in axes]
        columns, last = self.goi[2], axes[-1]
        lines = list(itertools.product(*(range(axis.out) for axis in axes[:-1])))
        line_bytes = groups * columns * last.out * samples * x_GCSN.itemsize
        step = max(1, min(len(lines), _SLICE_BYTES // max(1, line_bytes)))
        for first in range(0, len(lines), step):
            chosen = lines[first : first + step]
            buffer = np.zeros(
                (groups, columns // channels, channels, len(chosen), last.out, samples), x_GCSN.dtype
            )
            for k, ks in enumerate(itertools.product(*kernel)):
                source, target = last.window(ks[-1])
                for row, line in enumerate(chosen):
                    at = [a.starts[j] + o * a.stride for a, j, o in zip(axes, ks, line, strict=False)]
                    if all(0 <= p < a.size for p, a in zip(at, axes, strict=False)):
                        buffer[:, k, :, row, target] = _take(x_GCSN, (_ALL, _ALL, *at, source))
            u_GIM = buffer.reshape(groups, columns, -1)
            for group in range(groups):
                self._xx[group] += u_GIM[group] @ u_GIM[group].T


def _needs_shift(mean: NDArray[np.float64], power: Array) -> bool:
    """Whether means are so large that float32 products would spoil the centred moments."""
    variance = np.maximum(power - mean**2, 0.0)
    return bool((mean**2).max(initial=0.0) > _SHIFT_RATIO * variance.mean()) if mean.size else False
