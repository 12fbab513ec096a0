from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(scope="session")
def scheduler() -> Iterator[Any]:
    """A scheduler on this machine with two workers, for all tests."""
    dask = pytest.importorskip("dask", reason="needs obs-onnx[dask]")
    distributed = pytest.importorskip("distributed", reason="needs obs-onnx[dask]")
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            memory_limit=0,
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,
        ) as cluster,
    ):
        yield cluster
