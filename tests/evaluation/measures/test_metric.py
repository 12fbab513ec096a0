"""Metrics of the user's own: what they are given, their direction, what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from obs_onnx.evaluation.measures.metric import ACCURACY, MIOU, Collected, Metric, open_metric
from obs_onnx.passes.errors import DataError


def largest(outputs, labels):
    return outputs["y"].max()


def test_without_one_the_task_says_it() -> None:
    assert open_metric(None, False, "auto") is open_metric(None, False, "classification") is ACCURACY
    assert open_metric(None, False, "segmentation") is MIOU


def test_a_function_is_named_or_given(tmp_path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "def off(outputs, labels, inputs):\n    return inputs['x'].sum()\noff.lower_is_better = True\n"
    )
    found = open_metric(f"{file}:off", False, "auto")
    assert (found.name, found.lower_is_better, found.reads_inputs) == ("off", True, True)
    assert (found.lost(1.0, 3.0), Metric("up").lost(1.0, 3.0)) == (2, -2)
    given = open_metric(largest, True, "segmentation")
    assert (given.name, given.lower_is_better, given.reads_inputs) == ("largest", True, False)
    with pytest.raises(DataError, match="cannot import"):
        open_metric("nothing.at.all:here", False, "auto")


def test_it_sees_all_of_the_data_in_order() -> None:
    seen = {}

    def look(outputs, labels, inputs):
        seen.update(outputs=outputs, labels=labels, inputs=inputs)
        return 0.5

    collected, metric = Collected(), open_metric(look, False, "auto")
    for rows in (np.arange(3.0), np.arange(3.0, 5.0)):
        collected.add({"y": rows[:, None], "z": np.ones((2, len(rows)))}, rows.astype(int), {"x": rows})
    assert metric.value(collected) == 0.5
    np.testing.assert_array_equal(seen["outputs"]["y"][:, 0], np.arange(5))
    np.testing.assert_array_equal(seen["labels"], np.arange(5))
    np.testing.assert_array_equal(seen["inputs"]["x"], np.arange(5))
    assert [one.shape for one in seen["outputs"]["z"]] == [(2, 3), (2, 2)]  # of varying sizes: one per batch


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda outputs, labels: outputs["missing"], "metric <lambda> fails"),
        (lambda outputs, labels: float("nan"), "gives nan: return a finite number"),
        (lambda outputs, labels: None, "metric <lambda> fails"),
    ],
)
def test_what_gives_no_number_is_refused(function, message) -> None:
    collected = Collected()
    collected.add({"y": np.ones(2)}, None)
    with pytest.raises(DataError, match=message):
        open_metric(function, False, "auto").value(collected)
