"""What outputs are taken for: tasks, weights, the measure of damage."""

from __future__ import annotations

import numpy as np
import pytest
from layer_runs import normal
from scipy.special import softmax

from obs_onnx.evaluation.measures.yardstick import choose_measure, yardstick_of
from obs_onnx.passes.errors import OptionError

P = softmax(normal(0, 10, 5), axis=1)
IMAGE = softmax(normal(0, 10, 3, 4, 4), axis=1)


@pytest.mark.parametrize(
    ("outputs", "asked", "task", "parts"),
    [
        ({"y": P}, "auto", "classification", ["y"]),
        ({"y": normal(0, 10, 5)}, "auto", "auto", ["y"]),
        ({"y": normal(0, 10, 5)}, "classification", "classification", ["y"]),
        ({"y": P}, "regression", "regression", ["y"]),
        ({"y": IMAGE}, "auto", "segmentation", ["y"]),
        ({"y": normal(0, 10, 7, 5)}, "language", "language", ["y"]),
        ({"y": normal(0, 10, 5), "i": np.arange(10)}, "embedding", "embedding", ["y"]),
        ({"y": normal(0, 10, 5), "p": P}, "auto", "classification", ["y", "p"]),
    ],
)
def test_tasks(outputs, asked, task, parts) -> None:
    found = yardstick_of([outputs], task=asked)
    assert (found.task, [part.output for part in found.parts]) == (task, parts)
    assert (found.scores is not None) == (task in ("classification", "segmentation", "language"))


def test_the_measure_of_damage() -> None:
    def chosen(asked, outputs, **known):
        return choose_measure(asked, yardstick_of([outputs], **known), outputs)

    logits, image = {"y": normal(0, 10, 5)}, {"y": normal(0, 10, 5, 2, 2)}
    assert chosen("auto", {"y": P}) == "kl"
    assert chosen("auto", logits) == chosen("auto", image) == "error"
    assert chosen("auto", logits, task="classification") == "kl"
    assert chosen("auto", logits, labelled=(logits, np.zeros(10, np.int64))) == "kl"
    assert chosen("auto", {"y": P, "z": normal(0, 10, 5)}) == "error"
    assert chosen("auto", {"y": P, "i": np.arange(3)}) == "kl"
    assert chosen("error", {"y": P}) == "error"
    assert chosen("auto", {"i": np.arange(3)}) == chosen("error", {"i": np.arange(3)}) == "changed"
    with pytest.raises(OptionError, match="unknown"):
        chosen("l1", logits)
    for outputs in (logits, image):
        with pytest.raises(OptionError, match="class scores"):
            chosen("kl", outputs)


@pytest.mark.parametrize(
    ("task", "outputs"),
    [
        ("classification", {"y": normal(0, 2, 3, 4, 4)}),
        ("segmentation", {"y": normal(0, 2, 3)}),
        ("language", {"y": normal(0, 20)}),
    ],
)
def test_a_task_that_the_outputs_do_not_fit(task, outputs) -> None:
    with pytest.raises(OptionError, match=f"task {task} needs an output"):
        yardstick_of([outputs], task=task)


def test_many_rows_may_lie_in_many_batches() -> None:
    rows = [{"y": p[None]} for p in P]
    assert yardstick_of(rows).task == "classification"
    assert yardstick_of(rows[:4]).task == "auto"


def test_notes_name_what_is_not_compared_and_what_does_not_vary() -> None:
    y = np.concatenate([normal(0, 20, 2), np.full((20, 1), 3, np.float32)], axis=1)
    assert yardstick_of([{"y": y[:, :2]}]).notes == ()
    (note,) = yardstick_of([{"y": y}]).notes
    assert "in y[2] of the outputs" in note
    (note,) = yardstick_of([{"y": y}], weights={"y[2]": 0}).notes
    assert note == "not compared, as their weight is 0: y[2]"
