from __future__ import annotations

import gc
import weakref
from functools import partial

import numpy as np
import pytest

from obs_onnx.cluster.executor import IN_TURN, Held


class Large(np.ndarray):
    pass


def test_tasks_are_done_in_turn_and_let_go() -> None:
    made = [np.zeros(3).view(Large) for _ in range(2)]
    alive = [weakref.ref(array) for array in made]
    tasks = {number: partial(len, array) for number, array in enumerate(made)}
    del made
    run = IN_TURN.run(map(tasks.pop, list(tasks)))
    assert next(run) == 3
    gc.collect()
    assert [one() is None for one in alive] == [True, False]
    assert list(run) == [3]


def test_what_is_held_is_taken_once() -> None:
    held = Held(7)
    assert held.take() == 7
    with pytest.raises(IndexError):
        held.take()


@pytest.mark.parametrize("count", range(1, 8))
def test_neighbours_are_merged_first(count: int) -> None:
    tasks = [partial(str, number) for number in range(count)]
    found = IN_TURN.reduce(tasks, lambda first, second: f"({first} {second})")
    assert found.replace("(", "").replace(")", "").split() == [str(number) for number in range(count)]
    if count == 5:
        assert found == "(((0 1) (2 3)) 4)"
