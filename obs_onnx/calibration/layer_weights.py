"""What a model holds of a layer: numbers as they are, or integers with scales, which the numbers follow from.

New weights of a layer that is stored as integers are rounded to a grid of the same kind: as many scales, for
the same runs of weights, and as many integers. Zeros of the weight are zeros of the integers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.passes.layers.find_layers import find_layers
from obs_onnx.passes.layers.layer import Layer, Use
from obs_onnx.passes.traits.linear import Integers
from obs_onnx.solvers.grids import Grid, GridKind, choose_grid

__all__ = [
    "LayerWeights",
    "Scattered",
    "Tensors",
    "bias_of",
    "is_feedable",
    "names_of",
    "regrouped",
    "stored",
    "weight_of",
]

Tensors = dict[str, NDArray[Any]]

_EIGHT_BITS = 255
_SAME = 1e-3  # of a step, that weights on a grid may be off


def bias_of(layer: Layer) -> str | None:
    """The initializer of the layer's bias, if it can move with the weights."""
    use = layer.uses[0]
    return use.bias if len(layer.uses) == 1 and use.bias_scale != 0 else None


def names_of(layer: Layer) -> list[str]:
    """All initializers that change with the layer."""
    found = list(layer.integers.names if layer.integers is not None else (layer.name,))
    for use in layer.uses:
        if use.bias is not None and (use.input_scale is not None or use.bias == bias_of(layer)):
            found += [use.bias] if use.bias_integers is None else use.bias_integers.names
    return list(dict.fromkeys(found))


def is_feedable(layer: Layer) -> bool:
    """Whether runtimes take the layer's initializers as inputs: there are none for integers within a byte."""
    form = layer.integers
    return form is None or not (form.bits or form.highest - form.lowest < _EIGHT_BITS)


def stored(model: ir.Model, name: str) -> NDArray[Any]:
    """Contents of an initializer."""
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None, name
    return tensor.numpy()


def weight_of(model: ir.Model, layer: Layer) -> NDArray[np.float64]:
    """``w_GOI`` of a layer of ``model``."""
    return LayerWeights.of(model, layer).w_GOI


def regrouped(model: ir.Model, but: Collection[str] = ()) -> Tensors:
    """New scales where inputs that are to have one in common have others, since some between them have gone.

    The weights are rounded to the nearest.

    Args:
        model: holds them.
        but: names of layers that will be rounded later on.
    """
    found: Tensors = {}
    for layer in find_layers(model)[0]:
        if layer.integers is not None and layer.integers.run and layer.name not in but:
            held = LayerWeights.of(model, layer)
            if not held.is_alike:
                found |= held.tensors(held.w_GOI)
    return found


@dataclass(frozen=True)
class Scattered:
    """Grids whose scales hold for weights of several outputs, or for others that are no run of inputs.

    Attributes:
        kind: of the integers and the zero points.
        place: (G, O, I) number of the scale of each weight.
    """

    kind: GridKind
    place: NDArray[np.int64]

    def choose(self, w_GOI: NDArray[np.float64]) -> Grid:
        """The best one for nearest rounding."""
        order = np.argsort(self.place, axis=None, kind="stable")
        counts = np.bincount(self.place.reshape(-1))
        rows = np.zeros((1, len(counts), counts.max()))
        rows[0, np.arange(counts.max()) < counts[:, None]] = w_GOI.reshape(-1)[order]
        found = choose_grid(rows, self.kind)
        scale, zero = found.scale[0, :, 0][self.place], found.zero[0, :, 0][self.place]
        return Grid(scale, zero, found.lowest, found.highest, 1)


@dataclass(frozen=True)
class LayerWeights:
    """A layer and what a model holds of it.

    Attributes:
        layer: which one.
        arrays: contents of its initializers, those of a bias only if it can move with the weights.
        input_scales: of the inputs of uses whose bias has a scale that follows from it, by name.
    """

    layer: Layer
    arrays: Mapping[str, NDArray[Any]]
    input_scales: Mapping[str, float]

    @classmethod
    def of(cls, model: ir.Model, layer: Layer) -> LayerWeights:
        """Those of a layer of ``model``."""
        scales = {use.input_scale for use in layer.uses if use.input_scale is not None}
        return cls(
            layer,
            {name: stored(model, name) for name in names_of(layer)},
            {name: float(stored(model, name).astype(np.float64).reshape(())) for name in scales},
        )

    @cached_property
    def weight(self) -> NDArray[Any]:
        """The tensor that is multiplied by."""
        integers = self.layer.integers
        return self.arrays[self.layer.name] if integers is None else integers.values(self.arrays)

    @property
    def w_GOI(self) -> NDArray[np.float64]:  # noqa: N802 - named by its axes
        """The weight in canonical form."""
        return self.layer.layout.to_matrix(self.weight)

    @property
    def bias(self) -> NDArray[Any] | None:
        """The bias that can move with the weights."""
        return None if bias_of(self.layer) is None else self._bias(self.layer.uses[0])

    def _bias(self, use: Use) -> NDArray[Any] | None:
        if use.bias is None or use.bias not in self.arrays:
            return None
        return self.arrays[use.bias] if use.bias_integers is None else use.bias_integers.values(self.arrays)

    def tensors(
        self,
        w_GOI: NDArray[np.floating],
        bias: NDArray[np.floating] | None = None,
    ) -> Tensors:
        """Initializers of a weight, and of a bias in its own shape, if that changes.

        A weight that is stored as integers stays on its grid, if it lies there; otherwise it becomes the
        nearest one on the best grid of the same kind.
        """
        if self.layer.integers is None:
            found: Tensors = {self.layer.name: self.layer.layout.to_tensor(w_GOI)}
            return found | self._biases(bias, None)
        wanted: NDArray[np.float64] = np.asarray(w_GOI, np.float64)
        grid = self.grid
        q = grid.nearest(wanted)
        step = np.broadcast_to(np.abs(grid.scale), wanted.shape)
        if not self.is_alike or (np.abs(grid.values(q) - wanted) > _SAME * step).any():
            grid = self.best_grid(wanted)
            q = grid.nearest(wanted)
        return self.integers(q, grid, bias)

    @property
    def is_alike(self) -> bool:
        """Whether inputs that are to have a scale in common have."""
        run = 0 if self.layer.integers is None else self.layer.integers.run
        if not run:
            return True
        columns = self.layer.layout.goi[2]
        return all(
            np.array_equal(np.repeat(one[:, :, ::run], run, axis=2)[:, :, :columns], one)
            for one in (self.grid.scale, self.grid.zero)
        )

    def integers(
        self, q_GOI: NDArray[np.int64], grid: Grid, bias: NDArray[np.floating] | None = None
    ) -> Tensors:
        """Initializers of a weight that is stored as integers.

        Args:
            q_GOI: the integers.
            grid: what they stand for, of the kind that the layer is stored on.
            bias: in its own shape, if that changes.
        """
        form = self.layer.integers
        assert form is not None
        scale_GOI, zero_GOI = grid.spread(q_GOI.shape[2])
        place_GOI = self._places(form)
        scale, zero = np.zeros(form.grid), np.zeros(form.grid, np.int64)
        scale.reshape(-1)[place_GOI] = scale_GOI / self.layer.layout.scale
        zero.reshape(-1)[place_GOI] = zero_GOI
        q = self._tensor(q_GOI)
        return form.stored(self.arrays, q, scale, zero) | self._biases(bias, scale)

    def _biases(self, bias: NDArray[np.floating] | None, scale: NDArray[np.float64] | None) -> Tensors:
        """Initializers of biases: of the one that changes, and of those whose scales follow the weight's."""
        found: Tensors = {}
        for use in self.layer.uses:
            new = bias if bias is not None and use.bias == bias_of(self.layer) else None
            if new is None and (use.input_scale is None or scale is None):
                continue
            new = self._bias(use) if new is None else new
            if use.bias is None or new is None:
                continue
            if use.bias_integers is None:
                found[use.bias] = new.reshape(self.arrays[use.bias].shape)
                continue
            steps, zero = use.bias_integers.steps(self.arrays)
            if use.input_scale is not None and scale is not None:
                steps = (scale * self.input_scales[use.input_scale]).reshape(use.bias_integers.grid)
                steps = steps.astype(self.arrays[use.bias_integers.scale].dtype).astype(np.float64)
            form = use.bias_integers
            q = np.rint(new.reshape(form.shape) / form.spread(np.where(steps == 0, 1.0, steps)))
            q = np.clip(q + form.spread(zero), form.lowest, form.highest).astype(np.int64)
            found |= form.stored(self.arrays, q, steps, zero)
        return found

    def _tensor(self, array_GOI: NDArray[np.int64]) -> NDArray[np.int64]:
        plain = replace(self.layer.layout, scale=1.0)
        return np.rint(plain.to_tensor(array_GOI.astype(np.float64))).astype(np.int64)

    def _matrix(self, array: NDArray[Any]) -> NDArray[np.int64]:
        plain = replace(self.layer.layout, scale=1.0)
        return np.rint(plain.to_matrix(array)).astype(np.int64)

    def _places(self, form: Integers) -> NDArray[np.int64]:
        """(G, O, I) which scale of the grid each weight has."""
        numbers = np.arange(int(np.prod(form.grid))).reshape(form.grid)
        return self._matrix(form.spread(numbers))

    @cached_property
    def grid(self) -> Grid:
        """The grid that the weight lies on, with a scale for each weight."""
        form = self.layer.integers
        assert form is not None
        scale, zero = form.steps(self.arrays)
        scale_GOI = self.layer.layout.to_matrix(form.spread(scale))
        scale_GOI = np.where(scale_GOI == 0, 1.0, scale_GOI)
        return Grid(scale_GOI, self._matrix(form.spread(zero)), form.lowest, form.highest, 1)

    def best_grid(self, w_GOI: NDArray[np.float64]) -> Grid:
        """The best grid for nearest rounding on which the weight may lie in its place."""
        grid = self.kind.choose(w_GOI) if isinstance(self.kind, Scattered) else choose_grid(w_GOI, self.kind)
        return self.on_type(grid)

    @cached_property
    def kind(self) -> GridKind | Scattered:
        """Grids on which a weight may lie in its place.

        Where all integers have a bit less than the type, so have those of other weights: runtimes may add up
        products in too few bits otherwise. Zero points that are all in the middle, or the same for all
        scales, stay.
        """
        form = self.layer.integers
        assert form is not None
        scale, zero = form.steps(self.arrays)
        lowest, highest = self._range(form)
        middle = form.highest // 2 + 1 if form.lowest == 0 else 0
        own = form.zero is not None and (form.bits > 0 or self.arrays[form.zero].size >= scale.size)
        first = int(zero.reshape(-1)[0])
        given = first if (zero == first).all() and (not own or first == middle) else None
        if given == 0 and lowest == form.lowest < 0:
            lowest = -highest
        kind, place = GridKind(lowest, highest, given), self._places(form)
        if form.run:
            return replace(kind, block=form.run)
        if form.grid == (1,) * len(form.grid):
            return replace(kind, shared=True)
        columns = place.shape[2]
        for block in (columns, form.block or 1):
            starts = place[:, :, ::block]
            alike = np.array_equal(np.repeat(starts, block, axis=2)[:, :, :columns], place)
            if alike and len(np.unique(starts)) == starts.size:
                return kind if block == columns else replace(kind, block=block)
        return Scattered(kind, place)

    def _range(self, form: Integers) -> tuple[int, int]:
        q = form.integers(self.arrays)
        if form.highest - form.lowest == _EIGHT_BITS and q.size:
            quarter = (form.highest + 1) // 2
            low = -quarter if form.lowest < 0 else 0
            high = quarter if form.lowest < 0 else form.highest // 2
            if q.min() >= low and q.max() <= high:
                return low, high
        return form.lowest, form.highest

    def on_type(self, grid: Grid) -> Grid:
        """The grid with scales that the file can hold."""
        form = self.layer.integers
        assert form is not None
        factor = self.layer.layout.scale
        held = (grid.scale / factor).astype(self.arrays[form.scale].dtype).astype(np.float64) * factor
        return replace(grid, scale=np.where(held == 0, grid.scale, held))
