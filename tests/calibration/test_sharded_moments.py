"""Moments that several processes gather, against those of one."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from layer_runs import FEEDS, LARGE, RUNTIME, planned

from obs_onnx.calibration.sequential_moments import SequentialMoments
from obs_onnx.calibration.sharded_moments import sharded_moments
from obs_onnx.cluster.executor import IN_TURN, Executor
from obs_onnx.io.onnx_file import serialize
from obs_onnx.passes.errors import DataError
from obs_onnx.runtimes import open_runtime


class Pickling:
    """Does tasks in this process, as pickles, and counts them."""

    def __init__(self, width: int = 3) -> None:
        self.width, self.done = width, 0

    def run(self, tasks: Iterable[Callable[[], Any]]) -> Iterator[Any]:
        for task in tasks:
            self.done += 1
            yield pickle.loads(pickle.dumps(task))()

    def reduce(self, tasks: Sequence[Callable[[], Any]], merge: Callable[[Any, Any], Any]) -> Any:
        return IN_TURN.reduce([lambda one=one: one for one in self.run(tasks)], merge)


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("width", [2, 3, 64])
def test_shards_add_up_to_what_one_process_gathers(mlp, apart: bool, width: int) -> None:
    dense, layers, plan = planned(mlp)
    executor = Pickling(width)
    found = sharded_moments(
        RUNTIME, dense, plan, FEEDS, layers, told_apart=apart, executor=executor, memory=LARGE
    )
    assert found is not None
    assert executor.done == min(width, len(FEEDS))
    walk = SequentialMoments(RUNTIME, dense, plan, FEEDS, LARGE, paired=False, halves=apart)
    for stage in plan.stages:
        halves = walk.observe_halves(stage, stage.layers) if apart else [walk.observe(stage)]
        for layer in stage.layers:
            for here, there in zip(halves, found[layer.name], strict=True):
                assert there.count == here[layer.name].count
                np.testing.assert_allclose(there.xx, here[layer.name].xx, rtol=1e-13, atol=1e-12)
                np.testing.assert_allclose(there.sum_x, here[layer.name].sum_x, rtol=1e-13, atol=1e-12)


def test_one_process_does_it_where_that_is_better(mlp) -> None:
    dense, layers, plan = planned(mlp)

    def shared(executor: Executor, memory: int = LARGE, runtime: Any = RUNTIME) -> object:
        return sharded_moments(
            runtime, dense, plan, FEEDS, layers, told_apart=True, executor=executor, memory=memory
        )

    assert shared(IN_TURN) is None
    assert shared(Pickling(), memory=100) is None
    assert shared(Pickling(), runtime=object()) is None


def test_what_is_not_finite_is_refused(mlp) -> None:
    dense, layers, plan = planned(mlp)
    feeds = [{name: array * np.float32(1e30) for name, array in feed.items()} for feed in FEEDS]
    with pytest.raises(DataError, match="not finite"):
        sharded_moments(
            RUNTIME, dense, plan, feeds, layers, told_apart=False, executor=Pickling(), memory=LARGE
        )


def test_a_runtime_goes_to_another_process(mlp) -> None:
    runtime = open_runtime("onnxruntime", 1).unfused()
    again = pickle.loads(pickle.dumps(runtime))
    assert again.environment() == runtime.environment()
    assert again.session(serialize(mlp)).inputs
