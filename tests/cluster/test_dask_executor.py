from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cluster_tasks import end_always, end_once, fail, lack_once, len_of_mark, square

from obs_onnx.cluster.dask_executor import DaskExecutor
from obs_onnx.cluster.opening import opened
from obs_onnx.passes.errors import OptionError


@pytest.fixture(scope="module")
def executor(scheduler) -> Iterator[DaskExecutor]:
    with opened(scheduler.scheduler_address) as found:
        yield found


def test_tasks_are_done_by_other_processes_in_order(executor) -> None:
    assert list(executor.run(partial(square, number) for number in range(20))) == [n**2 for n in range(20)]
    assert os.getpid() not in executor.run([os.getpid])
    assert list(executor.run([])) == []


def test_tasks_are_asked_for_as_they_can_be_begun(executor) -> None:
    asked = []
    run = executor.run(asked.append(number) or partial(square, number) for number in range(20))
    assert next(run) == 0
    assert len(asked) <= 2 * 2
    run.close()


def test_large_arrays_come_back_as_they_went(executor) -> None:
    array = np.random.default_rng(0).standard_normal((1200, 1200))
    (found,) = executor.run([partial(np.negative, array)])
    np.testing.assert_array_equal(found, -array)


def test_an_error_of_a_task_is_its_own(executor) -> None:
    with pytest.raises(ValueError, match="no luck"):
        list(executor.run([partial(square, 1), partial(fail, "no luck"), partial(square, 2)]))
    assert list(executor.run([partial(square, 3)])) == [9]


def test_a_worker_that_is_lost_costs_no_result(executor, tmp_path: Path) -> None:
    tasks: list[Any] = [partial(square, number) for number in range(6)]
    tasks.insert(1, partial(end_once, tmp_path / "mark"))
    assert list(executor.run(tasks)) == [0, "done", 1, 4, 9, 16, 25]


def test_a_lack_of_memory_is_met_with_another_try(executor, tmp_path: Path) -> None:
    assert list(executor.run([partial(lack_once, tmp_path / "mark")])) == ["done"]


def test_a_task_that_ends_every_worker_is_told(executor) -> None:
    with pytest.raises(OptionError, match=r"cluster='tcp.*' failed: .*workers died") as caught:
        list(executor.run([end_always]))
    assert "\n" not in str(caught.value)


def test_a_worker_that_comes_later_with_other_versions_is_refused(executor) -> None:
    other = replace(executor, wanted={**executor.wanted, "numpy": "0.1"})
    with pytest.raises(OptionError, match=r"worker on .* has numpy [\d.]+ instead of 0\.1: start workers in"):
        list(other.run([partial(square, 1)]))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_what_tasks_give_is_merged_on_workers(executor, count: int) -> None:
    tasks = [partial(square, number) for number in range(count)]
    assert executor.reduce(tasks, add) == sum(number**2 for number in range(count))
    assert 1 <= executor.width <= 2


def test_an_error_of_a_task_goes_through_all_merges(executor) -> None:
    tasks = [partial(square, 1), partial(square, 2), partial(fail, "no luck")]
    with pytest.raises(ValueError, match="no luck"):
        executor.reduce(tasks, add)
    with pytest.raises(TypeError):
        executor.reduce([partial(square, 1), list], add)


def test_a_worker_that_is_lost_costs_no_merged_result(executor, tmp_path: Path) -> None:
    tasks: list[Any] = [partial(len, "abc"), partial(len_of_mark, tmp_path / "mark"), partial(len, "de")]
    assert executor.reduce(tasks, add) == 3 + 4 + 2
