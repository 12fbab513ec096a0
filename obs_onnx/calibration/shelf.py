"""Arrays by name, of which those that memory has no room for lie in a temporary file."""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["Shelf"]

T = TypeVar("T")


class Shelf(MutableMapping[str, T], Generic[T]):
    """Objects of arrays that are put away once and read as often as needed; changes to them are not kept.

    Args:
        budget: bytes that may be held in memory; what goes beyond it lies in an unnamed temporary file.
        apart: the arrays of an object.
        together: the object of its arrays.
    """

    def __init__(
        self,
        budget: int,
        apart: Callable[[T], Sequence[NDArray[Any]]],
        together: Callable[[list[NDArray[Any]]], T],
    ) -> None:
        self._budget, self._apart, self._together = budget, apart, together
        self._held: dict[str, T] = {}
        self._places: dict[str, tuple[int, int]] = {}  # where it begins, and how many arrays there are
        self._sum = 0
        self._file = tempfile.TemporaryFile()  # noqa: SIM115, it lives as long as this
        weakref.finalize(self, self._file.close)

    def __setitem__(self, name: str, found: T) -> None:
        if name in self:
            del self[name]
        arrays, size = self._apart(found), self._size(found)
        if self._sum + size <= self._budget:
            self._held[name] = found
            self._sum += size
            return
        self._places[name] = self._file.seek(0, os.SEEK_END), len(arrays)
        for array in arrays:
            np.save(self._file, array, allow_pickle=False)

    def __getitem__(self, name: str) -> T:
        if name in self._held:
            return self._held[name]
        place, count = self._places[name]
        self._file.seek(place)
        return self._together([np.load(self._file, allow_pickle=False) for _ in range(count)])

    def __delitem__(self, name: str) -> None:
        if name in self._held:
            self._sum -= self._size(self._held.pop(name))
        else:
            del self._places[name]

    def __iter__(self) -> Iterator[str]:
        yield from self._held
        yield from self._places

    def __len__(self) -> int:
        return len(self._held) + len(self._places)

    def _size(self, found: T) -> int:
        return sum(array.nbytes for array in self._apart(found))
