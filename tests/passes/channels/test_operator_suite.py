"""Removal on the operator tests of onnx: right or nothing to remove, and not because all is frozen."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from operator_removals import Removal, removals
from operator_suite import OperatorCase

pytestmark = pytest.mark.filterwarnings("ignore")

OFTEN = {
    "Attention": 700,
    "Add": 30,
    "BatchNormalization": 20,
    "Concat": 70,
    "Conv": 20,
    "ConvTranspose": 60,
    "CumSum": 8,
    "Dropout": 40,
    "Einsum": 25,
    "Gather": 20,
    "Gemm": 90,
    "GroupNormalization": 8,
    "GRU": 40,
    "LayerNormalization": 250,
    "LSTM": 60,
    "MatMul": 50,
    "ReduceMax": 40,
    "ReduceMean": 40,
    "ReduceSum": 40,
    "Reshape": 40,
    "RMSNormalization": 180,
    "RNN": 30,
    "RotaryEmbedding": 20,
    "Slice": 25,
    "Split": 40,
    "Transpose": 50,
    "Where": 10,
}
"""Operator -> how many removals at least are possible and right."""

ALL = 4300  # removals that are possible and right


def faults(found: list[Removal]) -> list[Removal]:
    return [one for one in found if one.verdict in ("wrong", "failed")]


def test_the_first_case_of_each_operator() -> None:
    seen: set[str] = set()

    def select(case: OperatorCase) -> bool:
        node = case.model.graph.node[-1]
        new = node.op_type not in seen
        seen.add(node.op_type)
        return new

    with np.errstate(all="ignore"):
        found = list(removals(select))
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
