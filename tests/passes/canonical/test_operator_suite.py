"""Every operator test of onnx loads, and the form in which channels are looked for gives what it expects."""

from __future__ import annotations

import numpy as np
import pytest
from operator_forms import Form, forms
from operator_suite import first_of_each

pytestmark = pytest.mark.filterwarnings("ignore")

LEAST = 1600  # cases whose outputs are compared

REFUSED = ("opset 1; convert it",)
"""What the refusals of models say that nobody needs to load."""


def faults(found: list[Form]) -> list[Form]:
    return [
        one
        for one in found
        if one.verdict in ("wrong", "failed")
        or (one.verdict == "refused" and not any(text in one.reason for text in REFUSED))
    ]


def test_the_first_case_of_each_operator() -> None:
    with np.errstate(all="ignore"):
        found = list(forms(first_of_each()))
    assert not faults(found)
    assert sum(one.verdict == "equal" for one in found) > 150


@pytest.mark.slow
def test_all_cases() -> None:
    with np.errstate(all="ignore"):
        found = list(forms())
    assert not faults(found)
    assert sum(one.verdict == "equal" for one in found) > LEAST
