"""Who does tasks, and the one that needs nobody else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

__all__ = ["IN_TURN", "Executor", "Held", "merged_in_pairs"]

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

    @property
    def width(self) -> int:
        """How many tasks are done at a time."""

    def run(self, tasks: Iterable[Callable[[], T]]) -> Iterator[T]:
        """What the tasks give, in order.

        Args:
            tasks: they hold plain data that can be pickled, and are asked for as they can be begun.
        """

    def reduce(self, tasks: Sequence[Callable[[], T]], merge: Callable[[T, T], T]) -> T:
        """What tasks give, merged two by two: neighbours first, in an order that only their number decides.

        Args:
            tasks: at least one; as for :meth:`run`.
            merge: of two neighbours, a function that can be pickled; it changes neither.
        """


class _InTurn:
    """One after the other, in this thread."""

    width = 1

    def run(self, tasks: Iterable[Callable[[], T]]) -> Iterator[T]:
        for task in tasks:
            found = task()
            del task
            yield found

    def reduce(self, tasks: Sequence[Callable[[], T]], merge: Callable[[T, T], T]) -> T:
        return merged_in_pairs(list(self.run(tasks)), merge)


def merged_in_pairs(parts: list[T], merge: Callable[[T, T], T]) -> T:
    """A tree: neighbours are merged, then what they gave, until one is left."""
    while len(parts) > 1:
        pairs = [merge(*parts[at : at + 2]) for at in range(0, len(parts) - 1, 2)]
        parts = pairs + parts[2 * len(pairs) :]
    return parts[0]


IN_TURN: Executor = _InTurn()
"""Does tasks as they are asked for, in the thread that asks."""
