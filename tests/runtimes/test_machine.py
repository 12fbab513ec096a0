"""The machine described, and threads pinned to its cores."""

from __future__ import annotations

import os

import pytest

from obs_onnx.runtimes import open_runtime
from obs_onnx.runtimes.machine import describe_machine, pinned

CORES = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None  # before anything is pinned


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system has no affinity")
def test_pinning_is_undone_after_errors():
    def fail():
        with pinned(1) as cores:
            assert set(cores) == os.sched_getaffinity(0)
            assert len(cores) == 1
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert os.sched_getaffinity(0) == CORES
    with pinned(10**6) as cores:
        assert cores is None


def test_the_machine_is_described():
    machine = describe_machine()
    assert machine["logical_cores"] == os.cpu_count()
    assert machine["os"]
    assert open_runtime(threads=1).environment().keys() == {"runtime", "version", "provider", "threads"}
