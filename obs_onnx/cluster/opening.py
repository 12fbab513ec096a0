"""A cluster for the time of a run: found or started, and looked at before any work begins."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from obs_onnx.cluster.address import Address, Local, parse_address
from obs_onnx.cluster.dask_executor import DaskExecutor
from obs_onnx.cluster.executor import IN_TURN, Executor
from obs_onnx.cluster.versions import check_workers, here
from obs_onnx.passes.errors import MissingRuntimeError, OptionError, boundary, named

__all__ = ["opened"]

_ANSWER, _WORKERS, _CLOSE = 10, 20, 5  # seconds: for a scheduler to answer, to have a worker, to be left
_LOSSES = 10  # workers that a task may be lost with
_POOLS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@contextmanager
def opened(cluster: str | None) -> Iterator[Executor]:
    """Who does tasks, for the time of the ``with`` block.

    Args:
        cluster: see :mod:`.address`; None for this process alone.

    Raises:
        OptionError: there is no such scheduler, or a worker lacks what it needs.
        MissingRuntimeError: dask is not installed.
    """
    if cluster is None:
        yield IN_TURN
        return
    place = parse_address(cluster)
    try:
        import dask
        from dask.system import CPU_COUNT
        from distributed import Client
        from distributed.utils import silence_logging_cmgr
    except ImportError as error:
        raise MissingRuntimeError(f'{named("cluster")} needs dask: pip install "obs-onnx[dask]"') from error
    spelled = named("cluster", cluster)
    with ExitStack() as stack:
        stack.enter_context(silence_logging_cmgr(logging.CRITICAL))
        stack.enter_context(dask.config.set(_settings(place, CPU_COUNT)))
        with boundary(f"{spelled} cannot be used", OptionError):
            if isinstance(place, Local):
                at: Any = _local(place.workers)
                stack.callback(_leave, at.close)
            else:
                at = place.url
                with boundary(f"{spelled}: no scheduler of dask answers there", OptionError):
                    _check_answer(place)
            client = Client(at, timeout=_ANSWER, set_as_default=False)
            stack.callback(_leave, client.close)
            _wait_for_workers(client, cluster)
            wanted = here()
            check_workers(client, cluster, wanted)
        yield DaskExecutor(client, cluster, wanted)


def _settings(place: Local | Address, cores: int) -> dict[str, object]:
    """Of dask: no word on large tasks, and threads of the linear algebra divided among local workers."""
    found: dict[str, object] = {
        "distributed.admin.large-graph-warning-threshold": "1 TiB",
        "distributed.scheduler.allowed-failures": _LOSSES,
    }
    if isinstance(place, Local):
        threads = max(1, cores // place.workers)
        found |= {f"distributed.nanny.pre-spawn-environ.{pool}": threads for pool in _POOLS}
    return found


def _local(workers: int) -> Any:
    """A scheduler in this process, which nothing but this machine reaches, and its workers."""
    from distributed import LocalCluster

    return LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        processes=True,
        memory_limit=0,
        dashboard_address="127.0.0.1:0",
        scheduler_kwargs={"dashboard": False},
        silence_logs=logging.CRITICAL,
    )


def _check_answer(at: Address) -> None:
    """Ask a scheduler who it is; first of all whether anybody is there, which dask would try for long.

    Raises:
        TimeoutError, OSError: there is none.
    """
    from distributed import Security, rpc

    async def ask() -> None:
        scheduler = rpc(at.url, connection_args=Security().get_connection_args("client"), timeout=_ANSWER)
        try:
            await asyncio.wait_for(scheduler.identity(), _ANSWER)
        finally:
            await scheduler.close_rpc()

    socket.create_connection((at.host, at.port), _ANSWER).close()
    with ThreadPoolExecutor(1) as pool:  # this thread may have a loop that runs
        pool.submit(asyncio.run, ask()).result()


def _wait_for_workers(client: Any, cluster: str) -> None:
    """Raise OptionError where there is none."""
    try:
        client.wait_for_workers(1, timeout=_WORKERS)
    except (TimeoutError, asyncio.TimeoutError) as error:  # two kinds before Python 3.11
        raise OptionError(
            f"{named('cluster', cluster)} has no workers: start some with dask worker {cluster}"
        ) from error


def _leave(close: Callable[[int], object]) -> None:
    """Close what may be gone already; that is no fault of the run."""
    with suppress(Exception):
        close(_CLOSE)
