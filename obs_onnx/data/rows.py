"""Rows: arrays on disk, or made on demand, of which only the rows asked for are ever in memory."""

from __future__ import annotations

import bisect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from obs_onnx.data.array_files import open_npy
from obs_onnx.data.feeds import Array, Feed, TensorSpec, is_float
from obs_onnx.data.language.filled_inputs import Filling, find_filling, is_token_ids
from obs_onnx.data.limits import check_batch
from obs_onnx.passes.errors import DataError

__all__ = [
    "ArrayRows",
    "FileRows",
    "RandomRows",
    "Rows",
    "concrete_shape",
    "free_sizes",
    "natural",
    "random_feed",
]


class Rows(Protocol):
    """Something with rows along its first axis."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of rows, then the shape of one."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the values."""

    def take(self, indices: NDArray[np.int64]) -> Array:
        """The rows at ``indices`` (ascending), stacked along the first axis."""


@dataclass(frozen=True)
class ArrayRows:
    """Rows of an array in memory or memory-mapped."""

    array: Array

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array."""
        return self.array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the array."""
        return self.array.dtype

    def take(self, indices: NDArray[np.int64]) -> Array:
        """A slice where the rows are neighbours, else a copy."""
        first, last = int(indices[0]), int(indices[-1])
        if last - first + 1 == len(indices):
            return np.asarray(self.array[first : last + 1])
        return np.asarray(self.array[indices])

    def whole(self) -> ArrayRows:
        """The whole array as the only row."""
        return ArrayRows(self.array[None])


class FileRows:
    """Rows in npy files: a file holds one row (rank ``row_rank``) or many (one axis more).

    Raises:
        DataError: a file of another rank, or rows of different shape or type.
    """

    def __init__(self, files: Sequence[Path], row_rank: int) -> None:
        self._files = list(files)
        self._single: list[bool] = []
        self._starts = [0]
        first: tuple[tuple[int, ...], np.dtype[Any]] | None = None
        for path in self._files:
            array = open_npy(path)
            if array.ndim not in (row_rank, row_rank + 1):
                raise DataError(
                    f"{path}: array has {array.ndim} axes; one sample has {row_rank}, a batch {row_rank + 1}"
                )
            single = array.ndim == row_rank
            row = (array.shape if single else array.shape[1:], array.dtype)
            first = first or row
            if row != first:
                raise DataError(
                    f"{path}: samples are {row[1]} {row[0]}, those of {self._files[0].name} are "
                    f"{first[1]} {first[0]}: all files must agree"
                )
            self._single.append(single)
            self._starts.append(self._starts[-1] + (1 if single else len(array)))
        assert first is not None
        self._row_shape, self._dtype = first

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows of all files, then the shape of one."""
        return (self._starts[-1], *self._row_shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Common to all files."""
        return self._dtype

    def take(self, indices: NDArray[np.int64]) -> Array:
        """The rows at ``indices``; each file is opened once per call."""
        result = np.empty((len(indices), *self._row_shape), self._dtype)
        number, array = -1, np.empty(0)
        for row, index in enumerate(indices.tolist()):
            found = bisect.bisect_right(self._starts, index) - 1
            if found != number:
                number, array = found, open_npy(self._files[found])
            result[row] = array if self._single[number] else array[index - self._starts[number]]
        return result


@dataclass(frozen=True)
class RandomRows:
    """Seeded random rows for an input: normal floats, small whole numbers, masks of ones.

    Attributes:
        spec: the input.
        row_shape: shape of one row, all sizes known.
        count: number of rows.
        seed: row ``i`` depends on the seed, the input's name and ``i`` only.
    """

    spec: TensorSpec
    row_shape: tuple[int, ...]
    count: int
    seed: int
    _key: tuple[int, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_key", (self.seed, *self.spec.name.encode()))

    @property
    def shape(self) -> tuple[int, ...]:
        """``count`` rows."""
        return (self.count, *self.row_shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the input."""
        return self.spec.dtype

    def take(self, indices: NDArray[np.int64]) -> Array:
        """The rows at ``indices``."""
        return np.stack([self._row(index) for index in indices.tolist()])

    def _row(self, index: int) -> Array:
        name, dtype = self.spec.name.lower(), self.spec.dtype
        if "mask" in name or dtype == np.dtype(bool):
            return np.ones(self.row_shape, dtype)
        rng = np.random.default_rng((*self._key, index))
        if is_float(dtype):
            return rng.standard_normal(self.row_shape, np.float32).astype(dtype)
        if dtype == np.dtype(object):
            raise DataError(f"input {self.spec.name!r} takes strings: random data cannot stand in for them")
        if "position" in name and self.row_shape:
            return np.broadcast_to(np.arange(self.row_shape[-1]), self.row_shape).astype(dtype)
        high = 256 if dtype == np.dtype(np.uint8) else 2 if "type" in name or "segment" in name else 10
        return rng.integers(0, high, self.row_shape).astype(dtype)


def free_sizes(specs: Sequence[TensorSpec], sizes: Mapping[str, int], batch: int = 1) -> dict[str, int]:
    """A size for every named axis, the same wherever the name stands.

    ``sizes`` come first; the name of a first axis counts ``batch`` samples; other names are 32 where only
    inputs of four axes or more have them, and 16 otherwise.
    """
    found: dict[str, int] = {}
    for spec in specs:
        for size in (spec.shape or ())[1:]:
            if isinstance(size, str):
                found[size] = min(found.get(size, 32), _guess(spec))
    firsts = {spec.shape[0]: batch for spec in specs if spec.shape and isinstance(spec.shape[0], str)}
    return {**found, **firsts, **sizes}


def _guess(spec: TensorSpec) -> int:
    return 32 if len(spec.shape or ()) >= 4 else 16


def concrete_shape(spec: TensorSpec, sizes: Mapping[str, int], batch: int = 1) -> tuple[int, ...]:
    """The input's shape with every free size filled in.

    The first axis becomes ``batch``, named ones what ``sizes`` says, else 32 for images and 16 otherwise.

    Raises:
        DataError: an input of unknown rank.
    """
    if spec.shape is None:
        raise DataError(f"input {spec.name!r} has no rank in the model: give data instead of random:N")
    return tuple(
        size if isinstance(size, int) else sizes.get(size or "", batch if axis == 0 else _guess(spec))
        for axis, size in enumerate(spec.shape)
    )


def random_feed(
    specs: Sequence[TensorSpec], batch: int = 1, sizes: Mapping[str, int] | None = None, seed: int = 0
) -> Feed:
    """One complete random feed with ``batch`` samples where the batch is free.

    Args:
        specs: the model's inputs.
        batch: size of a free first axis.
        sizes: values of named free sizes.
        seed: the same seed gives the same feed.

    Raises:
        DataError: an input of unknown rank, or of strings.
    """
    filling = _filling(specs, sizes or {})
    if filling is not None:
        return filling(random_feed(filling.asked, batch, sizes, seed))
    check_batch(specs, batch)
    known = free_sizes(specs, sizes or {}, batch)
    shapes = {spec.name: concrete_shape(spec, known, batch) for spec in specs}
    return {
        spec.name: RandomRows(spec, shapes[spec.name], 1, seed).take(np.arange(1))[0, ...] for spec in specs
    }


def _filling(specs: Sequence[TensorSpec], sizes: Mapping[str, int]) -> Filling | None:
    """How a feed is completed from random token ids; None where nothing is, or ``sizes`` say how long a cache
    is."""
    ids = [spec.name for spec in specs if is_token_ids(spec)]
    filling = find_filling(specs, ids, sizes)
    return None if filling is None or not filling.kinds or filling.sized else filling


def natural(path: Path) -> list[Any]:
    """Sort key with numbers in their order: ``x2.npy`` before ``x10.npy``."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]
