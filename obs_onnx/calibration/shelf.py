"""Objects by name, of which those that memory has no room for lie in a temporary file."""

from __future__ import annotations

import os
import pickle
import tempfile
import weakref
from collections.abc import Callable, Iterator, MutableMapping
from typing import Generic, TypeVar

__all__ = ["Shelf"]

T = TypeVar("T")


class Shelf(MutableMapping[str, T], Generic[T]):
    """Objects that are put away once and read as often as they are needed; changes to them are not kept.

    Args:
        budget: bytes that may be held in memory; what goes beyond it lies in an unnamed temporary file.
        size: bytes of an object.
    """

    def __init__(self, budget: int, size: Callable[[T], int]) -> None:
        self._budget, self._size = budget, size
        self._held: dict[str, T] = {}
        self._places: dict[str, int] = {}
        self._sum = 0
        self._file = tempfile.TemporaryFile()  # noqa: SIM115, it lives as long as this
        weakref.finalize(self, self._file.close)

    def __setitem__(self, name: str, found: T) -> None:
        if name in self:
            del self[name]
        if self._sum + self._size(found) <= self._budget:
            self._held[name] = found
            self._sum += self._size(found)
            return
        self._places[name] = self._file.seek(0, os.SEEK_END)
        pickle.dump(found, self._file, protocol=pickle.HIGHEST_PROTOCOL)

    def __getitem__(self, name: str) -> T:
        if name in self._held:
            return self._held[name]
        self._file.seek(self._places[name])
        found: T = pickle.load(self._file)
        return found

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
