"""Second moments of layer inputs, streamed: the Hessian of the layer-wise squared error.

For a layer ``y_GNO = x_GNI w_GOI^T`` (see :mod:`obs_onnx.passes.layers.find_layers`) the error of changed
weights is quadratic with Hessian ``xx = sum_n x_n x_n^T`` (Dong et al. 2017, eq. 4, up to a factor). With a
target ``t`` the least-squares weights also need ``xt = sum_n x_n t_n^T``.

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
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from obs_onnx.calibration.convolution_lags import cell_product, lag_plan, moved
from obs_onnx.calibration.unfold import (
    Array,
    Axis,
    Geometry,
    axes_of,
    computable,
    materialise,
    outputs,
    take,
    transposed,
    unfold,
    unfolded_rows,
)
from obs_onnx.passes.errors import DataError
from obs_onnx.passes.traits.linear import MatmulGeometry

__all__ = ["LayerMoments", "Moments"]

Outer = tuple[NDArray[np.float64], NDArray[np.float64]]

_SLICE_BYTES = 16 << 20
_MIN_LAG_CHANNELS = 16
_SHIFT_RATIO = 25.0
_ROUNDING = 1e-9  # of the second moment: a variance that float32 gives a constant


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

    @property
    def means(self) -> LayerMoments:
        """The same without the moments themselves, which are large: what :meth:`bias` takes."""
        return replace(self, h=np.zeros((0, 0, 0)), c=None, energy=None)

    def bias(self, w_GOI: Array, dense_GOI: Array, dense_bias_GO: Array) -> NDArray[np.float64]:
        """Best bias (G, O) for new weights: the mean of the target minus that of the layer without bias.

        Without a target the mean output of the dense layer is kept.
        """
        shift = np.einsum("goi,gi->go", w_GOI, self.mean_x)
        if self.mean_t is not None:
            return np.asarray(self.mean_t - shift)
        return np.asarray(dense_bias_GO + np.einsum("goi,gi->go", dense_GOI, self.mean_x) - shift)


@dataclass
class Moments:
    """Streaming second moments of one layer's inputs, optionally crossed with a target; all in float64.

    Attributes:
        goi: groups, outputs per group, inputs per group.
        targeted: True if every update brings a target.
        count: positions seen.
        sum_x: (G, I) sums of the inputs.
        sum_t, tt: (G, O) sums and sums of squares of the target.
    """

    goi: tuple[int, int, int]
    targeted: bool = False
    count: int = 0
    sum_x: NDArray[np.float64] = field(init=False, repr=False)
    sum_t: NDArray[np.float64] = field(init=False, repr=False)
    tt: NDArray[np.float64] = field(init=False, repr=False)
    _xx: NDArray[np.float64] = field(init=False, repr=False)
    _xt: NDArray[np.float64] = field(init=False, repr=False)
    _pending: dict[tuple[tuple[Axis, ...], int, int], NDArray[np.float64]] = field(
        init=False, repr=False, default_factory=dict
    )
    _offsets: list[Outer] = field(init=False, repr=False, default_factory=list)
    _target_offsets: list[Outer] = field(init=False, repr=False, default_factory=list)

    def __post_init__(self) -> None:
        groups, rows, columns = self.goi
        self.sum_x = np.zeros((groups, columns))
        self._xx = np.zeros((groups, columns, columns))
        self.sum_t = np.zeros((groups, rows))
        self.tt = np.zeros((groups, rows))
        self._xt = np.zeros((groups, columns, rows) if self.targeted else (groups, columns, 0))

    def arrays(self) -> list[NDArray[Any]]:
        """All there is, for :meth:`of`; shared with this object."""
        numbers = np.array([*self.goi, self.targeted, self.count], np.int64)
        return [numbers, self.sum_x, self.sum_t, self.xt, self.tt, self.xx]

    @classmethod
    def of(cls, arrays: Sequence[NDArray[Any]]) -> Moments:
        """Moments that :meth:`arrays` took apart; the arrays are shared."""
        groups, rows, columns, targeted, count = arrays[0].tolist()
        found = object.__new__(cls)
        found.goi, found.targeted, found.count = (groups, rows, columns), bool(targeted), count
        found.sum_x, found.sum_t, found._xt, found.tt, found._xx = arrays[1:]
        found._pending, found._offsets, found._target_offsets = {}, [], []
        return found

    @property
    def xx(self) -> NDArray[np.float64]:
        """(G, I, I) second moments of the inputs, not centred."""
        self._flush()
        return self._xx

    @property
    def xt(self) -> NDArray[np.float64]:
        """(G, I, O) cross moments of inputs and target, not centred; (G, I, 0) without target."""
        if self._target_offsets:
            self._xt += _summed(self._target_offsets)
            self._target_offsets.clear()
        return self._xt

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
        x = computable(x)
        axes = axes_of(geometry, x.shape[2:])
        groups, rows, columns = self.goi
        self._check(geometry.groups == groups, x)
        self._check(x.shape[1] * math.prod(geometry.kernel) == groups * columns, x)
        y = None if target_y is None else computable(target_y)
        if y is not None:
            self._check(y.shape == (x.shape[0], groups * rows, *(axis.out for axis in axes)), x)
        if all(a.starts == (0,) and a.stride == a.up == 1 and a.out == a.size for a in axes):
            pixels = math.prod(x.shape[2:])
            x = x.reshape(*x.shape[:2], pixels)
            y = None if y is None else y.reshape(*y.shape[:2], pixels)
            axes = (Axis(pixels, pixels, (0,)),)
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
        self.xt[...] += other.xt

    def raw(self) -> LayerMoments:
        """The problem of a layer without bias. The arrays are shared with this object."""
        mean_t = np.zeros(self.goi[:2]) if self.targeted else None
        c, energy = (self.xt, self.tt) if self.targeted else (None, None)
        return LayerMoments(self.xx, c, energy, self.count, np.zeros_like(self.sum_x), mean_t)

    def centred(self) -> LayerMoments:
        """The problem of a layer with bias: the bias is the weight of an input that is always one.

        Eliminating it leaves the moments about the mean, and the bias mean(t) - W mean(x). Inputs that only
        vary by rounding count as constant, or their weights would be fitted to noise.
        """
        count = max(1, self.count)
        mean_x, mean_t = self.sum_x / count, self.sum_t / count
        h = self.sum_x[:, :, None] * mean_x[:, None, :]
        np.subtract(self.xx, h, out=h)
        diagonal = np.einsum("gii->gi", h)
        np.maximum(diagonal, 0.0, out=diagonal)
        constant = diagonal <= _ROUNDING * np.einsum("gii->gi", self.xx)
        if constant.any():
            h[constant[:, :, None] | constant[:, None, :]] = 0.0
        if not self.targeted:
            return LayerMoments(h, None, None, self.count, mean_x, None)
        c = self.sum_x[:, :, None] * mean_t[:, None, :]
        np.subtract(self.xt, c, out=c)
        c[constant] = 0.0
        energy = np.maximum(self.tt - self.sum_t * mean_t, 0.0)
        return LayerMoments(h, c, energy, self.count, mean_x, mean_t)

    def _check(self, fits: bool, x: NDArray[np.generic]) -> None:
        if not fits:
            raise DataError(
                f"an input of shape {x.shape} or its target does not fit a layer of shape {self.goi}"
            )

    def _unshift(self, o_GI: NDArray[np.float64], sum_GI: NDArray[np.float64], count: int) -> None:
        """Moments of x from those of x - o, whose sums are ``sum_GI``; added to many at once."""
        self._offsets.append((o_GI, sum_GI + count / 2 * o_GI))

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
                    self._xt[group] += part[group].T @ t_part[group]
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
        self._target_offsets += [(o_GI, rest_GO), (sum_x, o_GO)]
        self.tt += 2 * o_GO * rest_GO + count * o_GO**2
        self.sum_t += rest_GO + count * o_GO

    def _update_conv(self, x: Array, axes: tuple[Axis, ...], y: Array | None) -> None:
        groups, rows, columns = self.goi
        count = x.shape[0] * math.prod(axis.out for axis in axes)
        self.count += count
        pixels = max(1, x.shape[0] * math.prod(x.shape[2:]))
        mean_C = x.sum(axis=0, dtype=np.float64).reshape(x.shape[1], -1).sum(axis=1) / pixels
        power_C = np.einsum("ncs,ncs->c", *[x.reshape(*x.shape[:2], -1)] * 2) / pixels
        o_GI = np.zeros((groups, columns))
        shifted = _needs_shift(mean_C, power_C)
        if shifted:
            x, axes = materialise(x, axes)
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
            [take(sums, (..., *(w[0] for w in ws))).sum(axis=spatial) for ws in windows], axis=1
        )
        x_GCSN = transposed(x, groups)
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
            t_GOSN = transposed(y, groups)
            sum_t = t_GOSN.reshape(groups, rows, -1).sum(axis=2, dtype=np.float64)
            o_GO = (sum_t / count).astype(t_GOSN.dtype)
            t_GOSN -= o_GO.reshape(groups, rows, *(1,) * (len(axes) + 1))
            lines = t_GOSN.reshape(groups, rows, -1, t_GOSN.shape[-2] * t_GOSN.shape[-1])
            self.tt += np.einsum("gosn,gosn->gos", lines, lines).sum(axis=2, dtype=np.float64)
            rest = lines.sum(axis=3, dtype=np.float64).sum(axis=2)
            channels = x_GCSN.shape[1]
            for k, ws in enumerate(windows):
                block = cell_product(x_GCSN, t_GOSN, [w[0] for w in ws], [w[1] for w in ws])
                self._xt[:, k * channels : (k + 1) * channels] += block
            self._untarget(o_GO.astype(np.float64), rest, o_GI, sum_x, count)

    def _add_lags(self, x_GCSN: Array, axes: tuple[Axis, ...]) -> None:
        groups, channels = x_GCSN.shape[:2]
        if self._pending and next(iter(self._pending))[0] != axes:
            self._flush()
        for number, lag in enumerate(lag_plan(axes)):
            for index, cell in enumerate(lag.cells):
                key = (axes, number, index)
                if key not in self._pending:
                    self._pending[key] = np.zeros((groups, channels, channels))
                self._pending[key] += cell_product(x_GCSN, x_GCSN, cell, moved(cell, lag.shift))

    def _flush(self) -> None:
        """Put the products of all cells, and of offsets, where they belong."""
        if self._offsets:
            cross = _summed(self._offsets)
            self._xx += cross
            self._xx += cross.swapaxes(1, 2)
            self._offsets.clear()
        mirrored = np.zeros_like(self._xx) if self._pending else None
        for (axes, number, index), block in self._pending.items():
            channels = block.shape[1]
            for d, e in lag_plan(axes)[number].pairs[index]:
                row = slice(d * channels, (d + 1) * channels)
                column = slice(e * channels, (e + 1) * channels)
                self._xx[:, row, column] += block
                if d != e and mirrored is not None:
                    mirrored[:, column, row] += block.swapaxes(1, 2)
        if mirrored is not None:
            self._xx += mirrored
        self._pending.clear()

    def _add_rows(self, x_GCSN: Array, axes: tuple[Axis, ...]) -> None:
        """Unfold a few output rows at a time and multiply."""
        for u_GIM in unfolded_rows(x_GCSN, axes, _SLICE_BYTES):
            for xx, u_IM in zip(self._xx, u_GIM, strict=True):
                xx += u_IM @ u_IM.T


def _summed(pairs: Iterable[Outer]) -> NDArray[np.float64]:
    """Sum of the outer products of vectors (G, I) and (G, J): (G, I, J)."""
    left_BGI, right_BGJ = (np.stack(vectors) for vectors in zip(*pairs, strict=True))
    return np.asarray(left_BGI.transpose(1, 2, 0) @ right_BGJ.transpose(1, 0, 2))


def _needs_shift(mean: NDArray[np.float64], power: Array) -> bool:
    """Whether means are so large that float32 products would spoil the centred moments."""
    variance = np.maximum(power - mean**2, 0.0)
    return bool((mean**2).max(initial=0.0) > _SHIFT_RATIO * variance.mean()) if mean.size else False
