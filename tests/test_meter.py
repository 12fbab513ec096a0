"""Costs of nested stages add up; counts belong to the stage that asked."""

from __future__ import annotations

import sys
import time

import numpy as np
import pytest

from obs_onnx.meter import loading, metered, running, span


def work(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_stages_are_without_those_inside_of_them() -> None:
    start = time.perf_counter()
    with metered() as meter:
        with span("refit"):
            with span("moments"):
                work(0.02)
                with running():
                    work(0.02)
            work(0.02)
        with loading():
            pass
        found = {one.name: one for one in meter.costs()}
    assert list(found) == ["open", "refit", "moments", "forward", "sessions"]
    assert all(0.02 <= found[name].cpu_seconds < 0.03 for name in ("refit", "moments", "forward"))
    assert sum(one.seconds for one in found.values()) <= time.perf_counter() - start
    assert {name: (one.runs, one.sessions) for name, one in found.items() if one.runs or one.sessions} == {
        "moments": (1, 0),
        "open": (0, 1),
    }


@pytest.mark.skipif(sys.platform != "linux", reason="the system does not tell")
def test_memory_belongs_to_the_stage_that_took_it() -> None:
    with metered() as meter:
        with span("large"):
            np.ones(1 << 24).sum()
        with span("small"):
            pass
        peaks = {one.name: one.peak_bytes or 0 for one in meter.costs()}
    assert peaks["large"] > peaks["open"] + (100 << 20)
    assert peaks["small"] < peaks["large"] - (100 << 20)


def test_an_inner_block_is_metered_by_the_outer_one_and_nothing_outside_of_both() -> None:
    with metered() as outer, metered() as inner, span("one"):
        pass
    with span("two"), running():
        pass
    assert inner is outer
    assert [one.name for one in outer.costs()] == ["open", "one"]
