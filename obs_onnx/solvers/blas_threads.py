"""Threads of the linear algebra: one for loops of small products, all cores for large ones.

The runtime and the linear algebra library have a pool of threads each. On small products the hand-over
costs more than it gains, and on a busy machine it slows them tenfold.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from threadpoolctl import ThreadpoolController

__all__ = ["threads_for"]

_LARGE = 1024


@cache
def _controller() -> Any:
    return ThreadpoolController()


@contextmanager
def threads_for(columns: int) -> Iterator[None]:
    """Limit linear algebra, inside the ``with`` block, to what matrices with so many columns deserve."""
    with _controller().limit(limits=1 if columns < _LARGE else None, user_api="blas"):
        yield
