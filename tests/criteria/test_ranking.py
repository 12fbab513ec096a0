"""Scores where removals can be measured: the oracle is what was measured, others do not look at it."""

from __future__ import annotations

import nets
import numpy as np
import pytest
from channel_helpers import opened

from obs_onnx.criteria.channels import CRITERIA
from obs_onnx.criteria.ranking import ranking


def test_the_oracle_is_the_damage_of_each_channel_alone() -> None:
    _, coupling, _, evidence = opened(nets.mlp(), nets.data(0, 20, 12))
    group = coupling.groups[0]
    worth = np.random.default_rng(0).random(group.n)

    def damage(keep: np.ndarray) -> float:
        assert (~keep).sum() == 1
        return float(worth[~keep].sum())

    np.testing.assert_array_equal(ranking("oracle", evidence)(group, damage), worth)


@pytest.mark.parametrize("name", ["magnitude", "l1", "std", "obs"])
def test_other_criteria_judge_by_what_they_know(name: str) -> None:
    _, coupling, _, evidence = opened(nets.mlp(), nets.data(0, 60, 12))
    group = coupling.groups[0]

    def never(keep: np.ndarray) -> float:
        raise AssertionError("a removal was measured")

    np.testing.assert_array_equal(ranking(name, evidence)(group, never), CRITERIA[name](evidence, group))
