"""Who does tasks, and the one that needs nobody else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Generic, Protocol, TypeVar

__all__ = ["IN_TURN", "Executor", "Held"]

T = TypeVar("T")


class Held(Generic[T]):
    """A value of a task that nothing else needs: whoever takes it holds it alone.

    Args:
        value: which.
    """

    def __init__(self, value: T) -> None:
        self._value = [value]

    def take(self) -> T:
        """The value, once."""
        return self._value.pop()


class Executor(Protocol):
    """Does tasks that do not depend on each other."""

    def run(self, tasks: Iterable[Callable[[], T]]) -> Iterator[T]:
        """What the tasks give, in order.

        Args:
            tasks: they hold plain data that can be pickled, and are asked for as they can be begun.
        """


class _InTurn:
    """One after the other, in this thread."""

    def run(self, tasks: Iterable[Callable[[], T]]) -> Iterator[T]:
        for task in tasks:
            found = task()
            del task
            yield found


IN_TURN: Executor = _InTurn()
"""Does tasks as they are asked for, in the thread that asks."""
