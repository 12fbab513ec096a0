"""Tasks for workers, which import them from here."""

from __future__ import annotations

import os
from pathlib import Path


def square(number: int) -> int:
    return number * number


def fail(text: str) -> None:
    raise ValueError(text)


def end_once(mark: Path) -> str:
    """End the process, unless that was done before."""
    if not mark.exists():
        mark.touch()
        os._exit(1)
    return "done"


def end_always() -> None:
    os._exit(1)


def lack_once(mark: Path) -> str:
    if not mark.exists():
        mark.touch()
        raise MemoryError
    return "done"


def len_of_mark(mark: Path) -> int:
    """Ends the process once."""
    return len(end_once(mark))
