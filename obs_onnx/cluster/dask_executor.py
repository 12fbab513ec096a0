"""Tasks on the workers of a dask scheduler.

A task travels as one pickle that only a worker opens; the scheduler keeps it until the task is done, and
gives it to another worker where one is lost. Two tasks for each thread are under way at a time.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

from obs_onnx.cluster.remote import Outcome, worker_function
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

    def run(self, tasks: dict[str, Callable[[], T]]) -> Iterator[tuple[str, T]]:
        """See :class:`~obs_onnx.cluster.executor.Executor`.

        Raises:
            OptionError: the cluster is gone, or cannot do a task.
        """
        from distributed import as_completed

        most = _AHEAD * max(1, sum(self.client.nthreads().values()))
        work, wanted = worker_function(), dict(self.wanted)
        names: dict[Any, str] = {}
        done = as_completed(loop=self.client.loop)
        try:
            while tasks or names:
                while tasks and len(names) < most:
                    name = next(iter(tasks))
                    content = pickle.dumps(tasks.pop(name), protocol=pickle.HIGHEST_PROTOCOL)
                    with self._trouble():
                        future = self.client.submit(work, content, wanted, pure=False, retries=_RETRIES)
                    names[future] = name
                    done.add(future)
                future = next(done)
                yield names.pop(future), self._result(future)
        finally:
            if names:
                self.client.cancel(list(names), force=True)

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
