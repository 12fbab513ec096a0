"""Threads of the linear algebra: one for loops of small products, all cores for large ones.

The runtime and the linear algebra library have a pool of threads each. On small products the hand-over
costs more than it gains, and on a busy machine it slows them tenfold: threads of the library wait for each
other in loops. Rows of a product that is repeated often are therefore shared out by a pool whose threads
sleep (:func:`row_threads`), each with a product of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

__all__ = ["RowThreads", "row_threads", "threads_for"]

S = TypeVar("S")
T = TypeVar("T")

_LARGE = 2048
_FEWEST = 32  # rows of a thread


@cache
def _controller() -> Any:
    return ThreadpoolController()


@contextmanager
def threads_for(columns: int) -> Iterator[None]:
    """Limit linear algebra, inside the ``with`` block, to what matrices with so many columns deserve."""
    with _controller().limit(limits=1 if columns < _LARGE else None, user_api="blas"):
        yield


@dataclass(frozen=True)
class RowThreads:
    """Shares rows out; see :func:`row_threads`.

    Attributes:
        pool: of threads; None: all is done in the caller's.
        size: how many threads there are.
    """

    pool: ThreadPoolExecutor | None
    size: int

    def each(self, rows: int, function: Callable[[slice], object]) -> None:
        """Call a function with consecutive parts of so many rows."""
        step = max(-(-rows // self.size), _FEWEST)
        parts = [slice(first, first + step) for first in range(0, rows, step)]
        self.map(function, parts)

    def map(self, function: Callable[[S], T], items: Sequence[S]) -> list[T]:
        """What a function gives for each item."""
        if self.pool is None or len(items) == 1:
            return [function(item) for item in items]
        return list(self.pool.map(function, items))

    def product(self, x: NDArray[Any], a: NDArray[Any]) -> NDArray[Any]:
        """``x @ a`` of matrices."""
        found = np.empty((len(x), a.shape[1]), np.result_type(x, a))
        self.each(len(x), lambda part: np.matmul(x[part], a, out=found[part]))
        return found


@contextmanager
def row_threads(columns: int) -> Iterator[RowThreads]:
    """Threads for rows of so many columns, as many as linear algebra may have; each has one of it.

    Narrow rows stay in the caller's thread, with what linear algebra has there.
    """
    if columns < _LARGE:
        yield RowThreads(None, 1)
        return
    libraries = _controller().select(user_api="blas").lib_controllers
    size = max((library.num_threads for library in libraries), default=1)
    with _controller().limit(limits=1, user_api="blas"):
        if size == 1:
            yield RowThreads(None, 1)
            return
        with ThreadPoolExecutor(size) as pool:
            yield RowThreads(pool, size)
