"""What a worker does with a task. It needs nothing of this package to begin with.

The function goes along with the task by value: a function inside of another one is pickled so. A scheduler
that reads it, and a worker with other versions, need this package no more than the standard library.
"""

from __future__ import annotations

import pickle
import platform
import socket
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

__all__ = ["Outcome", "merging_function", "worker_function"]

Outcome = tuple[Literal["gave", "raised", "refused"], Any]
"""What a task gave, the exception that it raised, or the host that has other versions, with those."""


def worker_function() -> Callable[[bytes, Mapping[str, str]], Outcome]:
    """A function of a pickled task and of the versions that it needs.

    It raises what another try may mend: a lack of memory, and errors of the system.
    """

    def work(content: bytes, wanted: Mapping[str, str]) -> Outcome:
        found: dict[str, str | None] = {}
        for name in wanted:
            try:
                python = ".".join(platform.python_version_tuple()[:2])
                found[name] = python if name == "Python" else version(name)
            except PackageNotFoundError:
                found[name] = None
        if found != dict(wanted):
            return "refused", (socket.gethostname(), found)
        try:
            return "gave", pickle.loads(content)()
        except (MemoryError, OSError):
            raise
        except Exception as error:
            return "raised", error

    return work


def merging_function() -> Callable[[bytes, Outcome, Outcome], Outcome]:
    """A function of a pickled merge, and of what two tasks gave, which stays on workers meanwhile."""

    def work(content: bytes, first: Outcome, second: Outcome) -> Outcome:
        for how, value in (first, second):
            if how != "gave":
                return how, value
        try:
            return "gave", pickle.loads(content)(first[1], second[1])
        except (MemoryError, OSError):
            raise
        except Exception as error:
            return "raised", error

    return work
