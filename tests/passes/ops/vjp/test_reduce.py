"""Derivatives of reductions against finite differences."""

from __future__ import annotations

import numpy as np
import pytest
from derivatives import check
from hypothesis import given, settings
from hypothesis import strategies as st

rng = np.random.default_rng(6)

REDUCTIONS = ["Sum", "Mean", "L1", "L2", "SumSquare", "LogSum", "LogSumExp", "Prod", "Max", "Min"]


def spread(*shape):
    """Positive, and no two elements closer than a finite difference reaches."""
    return rng.permutation(np.prod(shape, dtype=int)).reshape(shape) / 10.0 + 0.3


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    st.sampled_from(REDUCTIONS),
    st.lists(st.integers(1, 4), min_size=1, max_size=3),
    st.data(),
    st.booleans(),
    st.integers(0, 1),
    st.sampled_from([11, 13, 18]),
)
def test_reductions(name, shape, data, symbolic, keepdims, opset):
    axes = data.draw(st.none() | st.lists(st.integers(0, len(shape) - 1), min_size=1, unique=True))
    inputs, attributes = [spread(*shape)], {"keepdims": keepdims}
    if axes is not None and opset >= (13 if name == "Sum" else 18):
        inputs.append(np.array(axes, np.int64))
    elif axes is not None:
        attributes["axes"] = axes
    check(f"Reduce{name}", inputs, opset=opset, symbolic=symbolic and opset > 11, **attributes)


def test_no_axes_is_no_reduction():
    check("ReduceSum", [spread(2, 3), np.array([], np.int64)], noop_with_empty_axes=1)


@pytest.mark.parametrize("exclusive", [0, 1])
@pytest.mark.parametrize("reverse", [0, 1])
def test_cumulative_sum(exclusive, reverse):
    check("CumSum", [spread(3, 4), np.array(1, np.int64)], exclusive=exclusive, reverse=reverse)
