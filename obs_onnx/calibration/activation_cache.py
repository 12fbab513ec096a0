"""ActivationCache at one boundary of a graph, kept within a memory budget.

Carrying a data set through a network stage by stage needs the values at the current boundary only. They
stay in memory as long as the budget allows; what goes beyond it lies in unnamed temporary files.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

__all__ = ["ActivationCache"]

Values = dict[str, NDArray[np.generic]]


class ActivationCache:
    """Batches of named arrays.

    Args:
        budget: bytes that may be held in memory.
    """

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._batches: list[Values] = []
        self._held = 0

    def append(self, values: Mapping[str, NDArray[np.generic]]) -> None:
        """Add a batch."""
        self._batches.append({name: self._keep(array) for name, array in values.items()})

    def replace(self, index: int, values: Mapping[str, NDArray[np.generic]]) -> None:
        """Put other values in the place of a batch; arrays that it already held stay where they are."""
        old = self._batches[index]
        new: Values = {}
        for name, array in old.items():
            if values.get(name) is not array:
                self._forget(array)
        for name, array in values.items():
            new[name] = array if old.get(name) is array else self._keep(array)
        self._batches[index] = new

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> Values:
        return self._batches[index]

    def __iter__(self) -> Iterator[Values]:
        return iter(self._batches)

    def _keep(self, array: NDArray[np.generic]) -> NDArray[np.generic]:
        if self._held + array.nbytes <= self._budget or array.nbytes == 0 or array.dtype.hasobject:
            self._held += array.nbytes
            return array
        with tempfile.TemporaryFile() as file:
            mapped = np.memmap(file, dtype=array.dtype, mode="w+", shape=array.shape or (1,))
        mapped[...] = array
        return mapped.reshape(array.shape)

    def _forget(self, array: NDArray[np.generic]) -> None:
        if not isinstance(array, np.memmap):
            self._held -= array.nbytes
