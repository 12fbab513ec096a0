"""Gradients of the operator tests that come with ``onnx``."""

from __future__ import annotations

import warnings
from collections import Counter

import numpy as np
import pytest
from operator_gradients import outcomes


@pytest.mark.slow
def test_every_gradient_is_right_or_refused_with_a_reason() -> None:
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = list(outcomes())
    wrong = {one.name: one.reason for one in found if one.verdict == "wrong"}
    assert not wrong
    assert all(one.reason for one in found if one.verdict != "right")
    counts = Counter(one.verdict for one in found)
    assert counts["right"] > counts["refused"]
    assert counts["right"] > 600
