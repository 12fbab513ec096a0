"""Numbers that are stored as integers: ``scale (q - zero)``, with scales for runs of elements.

A scale and a zero point hold for the whole tensor, for what lies at one place of an axis, or for a block of
places. How the integers lie in the file, one by one or several in a byte, is a matter of the form alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Arrays", "Integers", "packed", "unpacked"]

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
