from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cluster_tasks import end_always, end_once, fail, lack_once, square

from obs_onnx.cluster.dask_executor import DaskExecutor
from obs_onnx.cluster.opening import opened
from obs_onnx.passes.errors import OptionError


@pytest.fixture(scope="module")
def executor(scheduler) -> Iterator[DaskExecutor]:
    with opened(scheduler.scheduler_address) as found:
        yield found


def test_tasks_are_done_by_other_processes_under_their_names(executor) -> None:
    tasks: dict[str, Any] = {str(number): partial(square, number) for number in range(20)}
    found = dict(executor.run(tasks))
    assert found == {str(number): number**2 for number in range(20)}
    assert not tasks
    assert os.getpid() not in dict(executor.run({"pid": os.getpid})).values()


def test_large_arrays_come_back_as_they_went(executor) -> None:
    array = np.random.default_rng(0).standard_normal((1200, 1200))
    ((_, found),) = executor.run({"a": partial(np.negative, array)})
    np.testing.assert_array_equal(found, -array)


def test_an_error_of_a_task_is_its_own(executor) -> None:
    with pytest.raises(ValueError, match="no luck"):
        dict(executor.run({"a": partial(square, 1), "b": partial(fail, "no luck"), "c": partial(square, 2)}))
    assert dict(executor.run({"a": partial(square, 3)})) == {"a": 9}


def test_a_worker_that_is_lost_costs_no_result(executor, tmp_path: Path) -> None:
    tasks: dict[str, Any] = {str(number): partial(square, number) for number in range(6)}
    tasks["ends"] = partial(end_once, tmp_path / "mark")
    expected = {**{str(number): number**2 for number in range(6)}, "ends": "done"}
    assert dict(executor.run(tasks)) == expected


def test_a_lack_of_memory_is_met_with_another_try(executor, tmp_path: Path) -> None:
    assert dict(executor.run({"a": partial(lack_once, tmp_path / "mark")})) == {"a": "done"}


def test_a_task_that_ends_every_worker_is_told(executor) -> None:
    with pytest.raises(OptionError, match=r"cluster='tcp.*' failed: .*workers died") as caught:
        dict(executor.run({"a": end_always}))
    assert "\n" not in str(caught.value)


def test_a_worker_that_comes_later_with_other_versions_is_refused(executor) -> None:
    other = replace(executor, wanted={**executor.wanted, "numpy": "0.1"})
    with pytest.raises(OptionError, match=r"worker on .* has numpy [\d.]+ instead of 0\.1: start workers in"):
        dict(other.run({"a": partial(square, 1)}))
