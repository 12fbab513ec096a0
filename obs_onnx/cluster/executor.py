"""Who does tasks, and the one that needs nobody else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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

    def run(self, tasks: dict[str, Callable[[], T]]) -> Iterator[tuple[str, T]]:
        """What each task gives, with its name, as it is done; in any order.

        Args:
            tasks: by name. They hold plain data that can be pickled, and are taken out as they are begun.
        """


class _InTurn:
    """One after the other, in this thread."""

    def run(self, tasks: dict[str, Callable[[], T]]) -> Iterator[tuple[str, T]]:
        while tasks:
            name = next(iter(tasks))
            yield name, tasks.pop(name)()


IN_TURN: Executor = _InTurn()
"""Does tasks in order, in the thread that asks."""
