"""Removal on the operator tests of onnx equals the silenced model, and not because everything is frozen."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from operator_removals import Removal, removals
from operator_suite import first_of_each

pytestmark = pytest.mark.filterwarnings("ignore")

OFTEN = {
    "Attention": 900,
    "BatchNormalization": 16,
    "Concat": 90,
    "ConvTranspose": 20,
    "CumSum": 6,
    "Dropout": 90,
    "Einsum": 25,
    "Flatten": 60,
    "GRU": 40,
    "Gather": 32,
    "Gemm": 75,
    "GroupNormalization": 20,
    "LSTM": 40,
    "LayerNormalization": 140,
    "MatMul": 45,
    "Pad": 30,
    "RMSNormalization": 140,
    "RNN": 40,
    "ReduceMax": 60,
    "ReduceMean": 50,
    "ReduceSum": 75,
    "Reshape": 55,
    "RotaryEmbedding": 16,
    "Shape": 70,
    "Slice": 55,
    "SpaceToDepth": 8,
    "Split": 90,
    "Transpose": 45,
    "Unsqueeze": 45,
}
"""Operator -> how many removals at least are possible and right."""

ALL = 4200  # removals that are possible and right


def faults(found: list[Removal]) -> list[Removal]:
    return [one for one in found if one.verdict in ("wrong", "failed")]


def test_the_first_case_of_each_operator() -> None:
    with np.errstate(all="ignore"):
        found = list(removals(first_of_each()))
    assert not faults(found)
    assert sum(one.verdict == "equal" for one in found) > 350


@pytest.mark.slow
def test_all_cases() -> None:
    with np.errstate(all="ignore"):
        found = list(removals())
    assert not faults(found)
    equal = [one for one in found if one.verdict == "equal"]
    assert len(equal) > ALL
    count = Counter(operator for one in equal for operator in one.operators)
    assert {operator: count[operator] for operator, least in OFTEN.items() if count[operator] < least} == {}
