"""Tasks on the workers of a dask scheduler.

A task travels as one pickle that only a worker opens; the scheduler keeps it until the task is done, and
gives it to another worker where one is lost. Two tasks for each thread are under way at a time.
"""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, TypeVar

from obs_onnx.cluster.executor import merged_in_pairs
from obs_onnx.cluster.remote import Outcome, merging_function, worker_function
from obs_onnx.cluster.versions import differences, refused
from obs_onnx.passes.errors import OptionError, boundary, named

__all__ = ["DaskExecutor"]

T = TypeVar("T")

_RETRIES = 3  # of a task for which memory or a file is wanting
_AHEAD = 2  # tasks under way for each thread


@dataclass(frozen=True)
class DaskExecutor:
    """Does tasks on the workers of a scheduler.

    Attributes:
        client: of it, connected.
        cluster: how the user names it.
        wanted: versions that workers have to have, those that come later too.
    """

    client: Any
    cluster: str
    wanted: Mapping[str, str]

    def run(self, tasks: Iterable[Callable[[], T]]) -> Iterator[T]:
        """See :class:`~obs_onnx.cluster.executor.Executor`.

        Raises:
            OptionError: the cluster is gone, or cannot do a task.
        """
        work, wanted, rest = worker_function(), dict(self.wanted), iter(tasks)
        most = _AHEAD * self.width
        begun: deque[Any] = deque()
        try:
            while True:
                for task in islice(rest, most - len(begun)):
                    content = _pickled(task)
                    del task
                    with self._trouble():
                        begun.append(self.client.submit(work, content, wanted, pure=False, retries=_RETRIES))
                if not begun:
                    return
                found = self._result(begun[0])
                begun.popleft()
                yield found
        finally:
            if begun:
                self.client.cancel(list(begun), force=True)

    @property
    def width(self) -> int:
        """See :class:`~obs_onnx.cluster.executor.Executor`."""
        return max(1, sum(map(int, self.client.nthreads().values())))

    def reduce(self, tasks: Sequence[Callable[[], T]], merge: Callable[[T, T], T]) -> T:
        """See :class:`~obs_onnx.cluster.executor.Executor`; what is merged goes from worker to worker.

        Raises:
            OptionError: the cluster is gone, or cannot do a task.
        """
        work, both, content = worker_function(), merging_function(), _pickled(merge)
        submit = partial(self.client.submit, pure=False, retries=_RETRIES)
        begun = list[Any]()
        try:
            with self._trouble():
                for task in tasks:
                    begun.append(submit(work, _pickled(task), dict(self.wanted)))

            def merged(first: Any, second: Any) -> Any:
                begun.append(submit(both, content, first, second))
                return begun[-1]

            with self._trouble():
                last = merged_in_pairs(list(begun), merged)
            found: T = self._result(last)
            return found
        finally:
            self.client.cancel(begun, force=True)

    def _result(self, future: Any) -> Any:
        with self._trouble():
            outcome: Outcome = future.result()
        how, value = outcome
        if how == "refused":
            host, found = value
            raise refused(self.cluster, f"on {host}", differences(self.wanted, found))
        if how == "raised":
            raise value
        return value

    def _trouble(self) -> AbstractContextManager[None]:
        return boundary(f"{named('cluster', self.cluster)} failed", OptionError)


def _pickled(value: object) -> bytes:
    return pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
