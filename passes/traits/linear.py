"""How an operator multiplies by a constant: where weight, data and bias are, and how the weight is stored.

Numbers may be stored as integers, ``scale (q - zero)``. A scale and a zero point hold for the whole tensor,
for what lies at one place of an axis, or for a block of places.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Arrays",
    "ConvGeometry",
    "Integers",
    "Linear",
    "MatmulGeometry",
    "WeightLayout",
    "packed",
    "unpacked",
]


Arrays = Mapping[str, NDArray[Any]]

_BYTE = 8


def unpacked(bytes_: NDArray[np.uint8], bits: int, n: int) -> NDArray[np.uint8]:
    """The first ``n`` numbers of ``bits`` bits along the last axis, the lowest bits of a byte first."""
    places = np.unpackbits(bytes_, axis=-1, bitorder="little").reshape(*bytes_.shape[:-1], -1, bits)
    return np.packbits(places[..., :n, :], axis=-1, bitorder="little")[..., 0]


def packed(numbers: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Inverse of :func:`unpacked`; what is left of the last byte is zero."""
    places = np.unpackbits(numbers[..., None], axis=-1, count=bits, bitorder="little")
    return np.packbits(places.reshape(*numbers.shape[:-1], -1), axis=-1, bitorder="little")


@dataclass(frozen=True)
class Integers:
    """How a tensor is stored.

    Attributes:
        q, scale: names of initializers.
        zero: likewise of the zero points, or None: they are all ``middle``.
        shape: of the tensor.
        grid: shape of the scales, an axis for each of the tensor: 1, all of its places, or its blocks.
        block: places of the blocked axis that share a scale, of which the last may have fewer; 0: no blocks.
        lowest, highest: integers of the type.
        middle: the integer that stands for 0 where the numbers lie evenly around it.
        bits: of an integer, where several lie in a byte along the last axis, block by block; 0: each by
            itself.
        run: inputs in a row that are to have scales and zero points in common, though each has its own.
    """

    q: str
    scale: str
    zero: str | None
    shape: tuple[int, ...]
    grid: tuple[int, ...]
    block: int
    lowest: int
    highest: int
    middle: int
    bits: int = 0
    run: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """Initializers that hold the tensor."""
        return (self.q, self.scale) if self.zero is None else (self.q, self.scale, self.zero)

    def values(self, arrays: Arrays) -> NDArray[np.float64]:
        """The tensor."""
        scale, zero = self.steps(arrays)
        return np.asarray((self.integers(arrays) - self.spread(zero)) * self.spread(scale))

    def integers(self, arrays: Arrays) -> NDArray[np.int64]:
        """The integers, in the shape of the tensor."""
        q = arrays[self.q]
        if self.bits:
            inside = self.block if self.block else self.shape[-1]
            q = unpacked(np.asarray(q, np.uint8), self.bits, inside)
            q = q.reshape(*self.shape[:-1], -1)[..., : self.shape[-1]]
        return np.asarray(q.astype(np.int64).reshape(self.shape))

    def steps(self, arrays: Arrays) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Scales and zero points, in the shape of the grid."""
        scale = arrays[self.scale].astype(np.float64).reshape(self.grid)
        if self.zero is None:
            return scale, np.full(self.grid, self.middle, np.int64)
        return scale, np.broadcast_to(self._zero(arrays[self.zero]), self.grid)

    def _zero(self, array: NDArray[Any]) -> NDArray[np.int64]:
        if self.bits:
            rows = array.reshape(math.prod(self.grid[:-1]), -1)
            array = unpacked(np.asarray(rows, np.uint8), self.bits, self.grid[-1])
        found = array.astype(np.int64)
        return np.asarray(found.reshape(self.grid if found.size > 1 else ()))

    def spread(self, grid: NDArray[Any]) -> NDArray[Any]:
        """Numbers of the grid, for each element of the tensor."""
        for axis, (count, n) in enumerate(zip(self.grid, self.shape, strict=True)):
            if count not in (1, n):
                grid = np.repeat(grid, self.block, axis=axis).take(np.arange(n), axis=axis)
        return np.broadcast_to(grid, self.shape)

    def stored(
        self, arrays: Arrays, q: NDArray[np.integer], scale: NDArray[np.floating], zero: NDArray[np.integer]
    ) -> dict[str, NDArray[Any]]:
        """Contents of the initializers.

        Args:
            arrays: what they hold now, whose types and shapes stay.
            q: integers, in the shape of the tensor.
            scale, zero: in the shape of the grid; zero points are left out where the form has none.
        """
        was = arrays[self.scale]
        found = {self.q: self._packed(q, arrays), self.scale: scale.reshape(was.shape).astype(was.dtype)}
        if self.zero is not None:
            held = arrays[self.zero]
            if self.bits:
                rows = zero.reshape(math.prod(self.grid[:-1]), -1).astype(np.uint8)
                zero = packed(rows, self.bits)
            found[self.zero] = zero.reshape(-1)[: held.size].reshape(held.shape).astype(held.dtype)
        return found

    def _packed(self, q: NDArray[np.integer], arrays: Arrays) -> NDArray[Any]:
        held = arrays[self.q]
        if not self.bits:
            return np.asarray(q.reshape(held.shape).astype(held.dtype))
        inside = self.block if self.block else self.shape[-1]
        missing = self.grid[-1] * inside - self.shape[-1]
        q = np.pad(q, [(0, 0)] * (q.ndim - 1) + [(0, missing)])
        numbers = q.reshape(*self.shape[:-1], self.grid[-1], inside).astype(np.uint8)
        return packed(numbers, self.bits).reshape(held.shape)

    def opened(self, array: NDArray[Any]) -> NDArray[Any]:
        """Numbers of the tensor, with the axes that the integers are stored in: those of a block are one."""
        if not self.bits:
            return array
        inside = self.block if self.block else self.shape[-1]
        missing = self.grid[-1] * inside - self.shape[-1]
        array = np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, missing)])
        return array.reshape(*self.shape[:-1], self.grid[-1], inside)


@dataclass(frozen=True)
class ConvGeometry:
    """How a (transposed) convolution lays its kernel over ``x`` of shape (N, G * I, *spatial).

    Attributes:
        kernel, strides, dilations: one entry per spatial axis.
        pads: begin of every axis, then end of every axis (ONNX order); ignored unless ``auto_pad`` is NOTSET.
        auto_pad: NOTSET, VALID, SAME_UPPER or SAME_LOWER.
        groups: number of groups.
        transposed: True for ConvTranspose.
        output_padding: ConvTranspose only, one entry per spatial axis.
        output_shape: ConvTranspose only; the requested spatial shape, or None.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    auto_pad: str = "NOTSET"
    groups: int = 1
    transposed: bool = False
    output_padding: tuple[int, ...] = ()
    output_shape: tuple[int, ...] | None = None

    @property
    def uniform(self) -> bool:
        """Whether a constant input gives the same everywhere: nothing is padded."""
        padded = any(self.pads) if self.auto_pad == "NOTSET" else self.auto_pad != "VALID"
        return not (self.transposed or padded)


@dataclass(frozen=True)
class MatmulGeometry:
    """Which axis of ``x`` and of ``y`` the weight contracts and makes.

    Attributes:
        input_axis: -1 or -2, axis of ``x`` that is summed over.
        output_axis: -1 or -2, axis of ``y`` that the weight's outputs span.
        groups: product of the weight's own leading (batch) dimensions, which are then also those of ``x``.
    """

    input_axis: int = -1
    output_axis: int = -1
    groups: int = 1

    @property
    def uniform(self) -> bool:
        """Whether a constant input gives the same everywhere."""
        return True


@dataclass(frozen=True)
class WeightLayout:
    """Reversible way from the stored tensor to ``w_GOI``: reshape to ``split``, transpose, reshape.

    Attributes:
        shape: of the stored tensor.
        split: shape after the first reshape.
        perm: axes order that puts groups, then outputs, then inputs.
        goi: (groups, outputs per group, inputs per group).
        scale: factor between the stored tensor and the effective weight (alpha of Gemm).
    """

    shape: tuple[int, ...]
    split: tuple[int, ...]
    perm: tuple[int, ...]
    goi: tuple[int, int, int]
    scale: float = 1.0

    def to_matrix(self, tensor: NDArray[np.generic]) -> NDArray[np.float64]:
        """Effective weight ``w_GOI`` in float64 of the stored ``tensor``."""
        w_GOI = tensor.astype(np.float64).reshape(self.split).transpose(self.perm).reshape(self.goi)
        return np.asarray(w_GOI * self.scale, dtype=np.float64)

    def to_tensor(self, w_GOI: NDArray[np.floating]) -> NDArray[np.float64]:
        """Stored tensor (float64) of the effective weight; inverse of :meth:`to_matrix`."""
        permuted = tuple(self.split[axis] for axis in self.perm)
        inverse = tuple(np.argsort(self.perm))
        tensor = (w_GOI / self.scale).reshape(permuted).transpose(inverse).reshape(self.shape)
        return np.asarray(tensor, dtype=np.float64)


@dataclass(frozen=True)
class Linear:
    """What an operator's table says about one node that multiplies by a constant weight.

    Attributes:
        weight_input, data_input: positions among the node's inputs.
        bias_input: position of a constant per-output bias, or None.
        bias_scale: factor on that bias (beta of Gemm).
        bias_behind: True of an operator without an input for a bias, which is what an Add behind it adds.
        layout, geometry: see there.
        integers: how the weight is stored, where that is not as the node multiplies by it.
        bias_integers: likewise for the bias.
        input_scale: name of the scale of the input, where the scale of the bias is that times the weight's.
    """

    weight_input: int
    data_input: int
    layout: WeightLayout
    geometry: ConvGeometry | MatmulGeometry
    bias_input: int | None = None
    bias_scale: float = 1.0
    bias_behind: bool = False
    integers: Integers | None = None
    bias_integers: Integers | None = None
    input_scale: str | None = None
