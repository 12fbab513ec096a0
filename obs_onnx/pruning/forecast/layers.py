"""Seconds that the array work of a layer takes: its moments, its damping, its solutions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from obs_onnx.calibration.convolution_lags import lag_plan
from obs_onnx.calibration.sequential_moments import one_in
from obs_onnx.calibration.unfold import axes_of
from obs_onnx.passes.layers.layer import Layer
from obs_onnx.passes.traits.linear import ConvGeometry
from obs_onnx.pruning.forecast.rates import Rates

__all__ = ["LayerWork"]

_FLOAT, _DOUBLE = 4, 8  # bytes
_LINE = 256  # positions from which a product runs at full speed
_FEW = 16  # channels below which a convolution is unfolded
_SLICE = 16 << 20  # bytes that are multiplied at a time
_JUDGED = 128  # outputs by which damping is chosen
_WIDE = 2048  # columns from which fewer dampings are tried
_STEP = 160  # operations that take a channel out of a layer
_TRIED = 3  # dampings until the error rises
_LOOKS = 6  # times that a square matrix is copied, added up or looked at once it is gathered


@dataclass(frozen=True)
class LayerWork:
    """The sizes of a layer that count.

    Attributes:
        groups, rows, columns: of its weight.
        offsets: of its kernel.
        positions: of a sample, where the weight is applied.
        pixels: of a sample.
        line: pixels along the last axis.
        cells: products that a moment is made of; 0 where the input is unfolded.
        lags: of them, how often they take the whole image.
        spatial: it is a convolution.
        uses: of the weight.
    """

    groups: int
    rows: int
    columns: int
    offsets: int
    positions: float
    pixels: float
    line: int
    cells: int
    lags: float
    spatial: bool
    uses: int

    @classmethod
    def of(cls, layer: Layer, shape: Sequence[int]) -> LayerWork:
        """Of a layer with an input of this shape, a sample's."""
        groups, rows, columns = layer.layout.goi
        geometry = layer.uses[0].geometry
        if not isinstance(geometry, ConvGeometry):
            positions = max(math.prod(shape) / max(groups * columns, 1), 1.0)
            return cls(groups, rows, columns, 1, positions, positions, 1, 0, 0, False, len(layer.uses))
        axes = axes_of(geometry, shape[2:])
        positions, pixels = math.prod(axis.out for axis in axes), math.prod(shape[2:])
        offsets = math.prod(geometry.kernel)
        channels = columns // offsets
        plain = all(a.starts == (0,) and a.stride == a.up == 1 and a.out == a.size for a in axes)
        strided = any(axis.stride > 1 for axis in axes)
        unfolded = strided or (1 < channels < _FEW and all(axis.up == 1 for axis in axes))
        cells, lags = (1, 1.0) if plain else (0, 0.0)
        if not plain and not unfolded:
            plan = lag_plan(axes)
            cells, lags = sum(len(lag.cells) for lag in plan), float(len(plan))
        return cls(
            groups, rows, columns, offsets, float(positions), float(pixels), shape[-1], cells, lags, True,
            len(layer.uses),
        )  # fmt: skip

    @property
    def square(self) -> float:
        """Elements of its second moment."""
        return float(self.groups * self.columns**2)

    def smaller(self, share: float) -> LayerWork:
        """With such a share of its weights, rows and columns alike."""
        side = math.sqrt(share)
        if self.columns <= self.offsets:  # one channel for each output
            groups = max(round(self.groups * side), 1)
            return LayerWork(groups, *list(self.__dict__.values())[1:])
        offsets = self.offsets
        columns = max(round(self.columns / offsets * side), 1) * offsets
        values = {**self.__dict__, "rows": max(round(self.rows * side), 1), "columns": columns}
        return LayerWork(**values)

    def moments(self, rates: Rates, samples: float, batches: float, targeted: bool, times: int = 1) -> float:
        """Gathering moments.

        Args:
            rates: of this machine.
            samples, batches: that are gone through.
            targeted: with a target.
            times: that all is gathered apart, for halves.
        """
        channels = self.columns / self.offsets
        step = one_in(samples, samples * self.positions, self.columns) if self.spatial else 1
        some = samples / step * self.uses
        inputs = some * self.groups * channels * self.pixels * _FLOAT
        parts = max(batches * self.uses, inputs / _SLICE)  # products of their own
        moved, taken = 0.0, inputs
        if not self.spatial:
            macs, side, calls = some * self.positions * self.square / 2, self.columns, parts * 4 * self.groups
            moved += parts * 2 * _DOUBLE * self.square
        elif not self.cells:
            unfolded = some * self.positions * self.groups * self.columns
            macs, side = unfolded * self.columns / 2, self.columns
            parts = max(parts, unfolded * _FLOAT / _SLICE)
            moved += 3 * _FLOAT * unfolded + parts * 2 * _DOUBLE * self.square
            calls = parts * (4 + self.groups)
        elif channels == 1:
            macs, side, calls = 0.0, 1, parts * self.cells * 4
            moved += self.lags * 2 * inputs
        else:
            macs, side = some * self.pixels * self.groups * channels**2 * self.lags, round(channels)
            lines = 1.0
            if self.line > 1 and self.lags > 1:
                lines = max(self.pixels / self.line, 1.0) if some / parts * self.line >= _LINE else 1.0
            calls = parts * self.cells * (2 + 4 * lines / math.sqrt(self.cells / self.lags))
            moved += calls / 2 * _DOUBLE * self.groups * channels**2 + self.lags * inputs
        seconds = macs * rates.product(side) + moved * rates.byte + taken * rates.gather + calls * rates.call
        seconds += times * _LOOKS * _DOUBLE * self.square * rates.byte * (2 if self.cells > 1 else 1)
        return seconds + (self._targets(rates, some, parts) if targeted else 0.0) + 20 * parts * rates.call

    def _targets(self, rates: Rates, some: float, parts: float) -> float:
        """Cross moments of inputs and targets."""
        outputs = some * self.groups * self.rows * self.positions
        channels = self.columns / self.offsets
        macs = outputs * self.columns
        side = math.sqrt(max(min(channels, self.rows), 1) * max(channels, self.rows))
        lines = max(self.positions / max(self.line, 1), 1.0) if self.spatial else 1.0
        taken = _FLOAT * outputs * rates.gather
        moved = self.offsets * _FLOAT * (outputs + some * self.groups * channels * self.pixels)
        moved += parts * self.offsets * lines * _DOUBLE * self.groups * channels * self.rows
        calls = parts * self.offsets * lines * 4
        if channels == 1:
            return taken + moved * rates.byte + calls * rates.call
        return taken + macs * rates.product(side) + moved * rates.byte + calls * rates.call

    def damping(self, rates: Rates) -> float:
        """Choosing it by two halves of the data, in 32 bits."""
        judged = min(self.rows, _JUDGED)
        solved = self.groups * self.columns**3 / 6 * rates.factor(self.columns) / 2
        products = 2 * self.groups * judged * self.columns**2 * rates.product(min(judged, self.columns))
        moved = 8 * _FLOAT * self.square * rates.byte
        tried = _TRIED if self.columns < _WIDE else _TRIED - 1
        return 2 * (tried * (solved + products + self.groups * 12 * rates.call) + 2 * moved)

    def posed(self, rates: Rates, inverted: bool) -> float:
        """Setting up its problem, and finding its best weights; with the inverse of its moments."""
        cube = self.groups * self.columns**3
        macs = cube / 6 + (cube / 3 if inverted else 0.0)
        products = 3 * self.groups * self.rows * self.columns**2
        seconds = macs * rates.factor(self.columns) + products * rates.exact(min(self.rows, self.columns))
        return seconds + (8 if inverted else 5) * _DOUBLE * self.square * rates.byte + 60 * rates.call

    def ordered(self, rates: Rates, channels: int) -> float:
        """Putting so many channels that it reads in order of removal."""
        width = min(self.rows, self.columns)
        macs = self.groups * (self.columns**3 / 2 + width * self.columns**2)
        each = max(self.columns / max(channels, 1), 1.0)
        steps = min(channels, 2 * 64 + channels)
        moved = (
            self.groups * self.columns**2 * each * _DOUBLE * 2 + steps * width * self.columns * _DOUBLE * 2
        )
        return macs * rates.factor(self.columns) + moved * rates.byte + steps * _STEP * rates.call

    def without(self, rates: Rates, share: float) -> float:
        """Refitting it with such a share of its columns gone."""
        kept, gone = (1 - share) * self.columns, share * self.columns
        if self.columns <= 48:
            cube, products = self.columns**3 / 3, 1.0 * self.rows * self.columns**2
        elif kept <= gone:
            cube, products = kept**3 / 6, self.rows * kept**2
        else:
            cube, products = gone**3 / 6, self.rows * gone * (gone + self.columns)
        moved = 6 * _DOUBLE * self.groups * self.rows * self.columns + 2 * _DOUBLE * self.square * share
        macs = cube * rates.factor(min(kept, gone)) + products * rates.exact(min(self.rows, self.columns))
        return self.groups * macs + moved * rates.byte + (40 + 20 * self.groups) * rates.call
