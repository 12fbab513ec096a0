"""ActivationCache at one boundary of a graph, kept within a memory budget.

Carrying a data set through a network stage by stage needs the values at the current boundary only. They
stay in memory as long as the budget allows; what goes beyond it lies in unnamed temporary files. These are
mapped, and only the pages of the batch that was asked for last stay in memory. What a runtime gives out is
copied: it lies in memory of a session, which would keep all around it.
"""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from obs_onnx.runtimes.on_device import OnDevice

__all__ = ["ActivationCache"]

Values = dict[str, NDArray[np.generic]]

_GIVES_BACK = hasattr(
    mmap, "MADV_DONTNEED"
)  # not on Windows, where the system takes pages when it needs them


class ActivationCache:
    """Batches of named arrays.

    Args:
        budget: bytes that may be held in memory.
    """

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._batches: list[Mapping[str, NDArray[Any]]] = []
        self._held = 0
        self._mapped: dict[int, mmap.mmap] = {}  # of arrays in files, by their identity
        self._last: int | None = None

    def append(self, values: Mapping[str, NDArray[np.generic]]) -> None:
        """Add a batch."""
        self._batches.append({name: self._keep(array) for name, array in values.items()})

    def replace(self, index: int, values: Mapping[str, NDArray[np.generic]]) -> None:
        """Put other values in the place of a batch; arrays that it already held stay where they are.

        So do values on a device, as far as the budget goes.
        """
        old = self._batches[index]
        if isinstance(old, OnDevice):
            self._held -= old.nbytes
            old = {}
        if isinstance(values, OnDevice):
            for array in old.values():
                self._forget(array)
            old = {}
            if self._held + values.nbytes <= self._budget:
                self._held += values.nbytes
                self._batches[index] = values
                return
        new: Values = {}
        for name, array in old.items():
            if values.get(name) is not array:
                self._forget(array)
        for name, array in values.items():
            new[name] = array if old.get(name) is array else self._keep(array)
        self._batches[index] = new

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> Mapping[str, NDArray[Any]]:
        if self._last not in (None, index):
            self._give_back(self._batches[self._last])
        self._last = index
        return self._batches[index]

    def __iter__(self) -> Iterator[Mapping[str, NDArray[Any]]]:
        return map(self.__getitem__, range(len(self._batches)))

    def _keep(self, array: NDArray[np.generic]) -> NDArray[np.generic]:
        if self._held + array.nbytes <= self._budget or array.nbytes == 0 or array.dtype.hasobject:
            self._held += array.nbytes
            return array if array.flags.owndata else array.copy()
        with tempfile.TemporaryFile() as file:
            file.truncate(array.nbytes)
            pages = mmap.mmap(file.fileno(), array.nbytes)
        mapped: NDArray[np.generic] = np.ndarray(array.shape, array.dtype, buffer=pages)
        mapped[...] = array
        self._mapped[id(mapped)] = pages
        self._give_back({"": mapped})
        return mapped

    def _forget(self, array: NDArray[np.generic]) -> None:
        if self._mapped.pop(id(array), None) is None:
            self._held -= array.nbytes

    def _give_back(self, values: Mapping[str, NDArray[Any]]) -> None:
        """Let go of the memory of pages; what is written in them stays in the file."""
        if isinstance(values, OnDevice):
            return
        for array in values.values():
            if _GIVES_BACK and (pages := self._mapped.get(id(array))) is not None:
                pages.madvise(mmap.MADV_DONTNEED)
