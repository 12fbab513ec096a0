"""Accuracy, agreement and output error against numbers counted by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from linear_scores import linear, scores

from obs_onnx.data.open_source import open_source
from obs_onnx.entrypoints.evaluate import evaluate
from obs_onnx.evaluation.measures.yardstick import yardstick_of
from obs_onnx.evaluation.quality import Evaluation, Tally, evaluate_sessions
from obs_onnx.runtimes import open_runtime


def test_sessions_and_progress():
    runtime = open_runtime(threads=1)
    session, other = runtime.session(linear(np.eye(4))), runtime.session(linear(2 * np.eye(4)))
    x = scores(200, 4)
    source = open_source({"x": x}, session.inputs, batch_size=80)
    done: list[int] = []
    result = evaluate_sessions(session, source, other, progress=done.append)
    assert done == [1, 2, 3]
    assert (result.samples, result.task, result.agreement) == (200, "auto", None)
    assert result.output_error == pytest.approx(
        np.linalg.norm(x) / np.linalg.norm(2 * (x - x.mean(0))), rel=1e-5
    )
    assert evaluate(session, source, against=other) == result


def test_the_worst_of_several_outputs_counts():
    small, large = scores(10, 3), 1000 * scores(10, 3, seed=1)
    reference = {"small": small, "large": large, "index": np.arange(3)}
    tally = Tally(yardstick_of([reference]))
    for rows in (slice(0, 4), slice(4, 10)):
        mine, theirs = small[rows], large[rows]
        tally.add(
            {"small": 1.3 * mine, "large": theirs, "index": np.arange(3)},
            reference={"small": mine, "large": theirs, "index": np.arange(3)},
        )
    result = tally.result()
    error = 0.3 * np.linalg.norm(small) / np.linalg.norm(small - small.mean(0))
    assert result.output_errors == {"small": pytest.approx(error, rel=1e-5), "large": 0.0}
    assert result.output_error == pytest.approx(error, rel=1e-5)
    assert [part.name for part in result.parts] == ["small", "large"]
    assert set(result.to_json()) == {"samples", "output_error", "output_errors", "parts"}


def test_numbers_that_are_not_finite():
    y = scores(4, 3)
    masked = y.copy()
    masked[:, 0] = -np.inf
    broken = y.copy()
    broken[1, 2] = np.nan

    def against(output, reference):
        tally = Tally(yardstick_of([{"y": reference}], task="classification"))
        tally.add({"y": output}, np.full(4, 1), {"y": reference})
        return tally.result()

    assert against(masked, masked).output_error == 0
    assert against(masked, y).output_error == math.inf
    result = against(broken, y)
    assert result.output_error == math.inf
    assert result.agreement == 0.75
    assert against(y, np.zeros_like(y)).output_error == math.inf
    assert against(0 * y, 0 * y).output_error == 0


def test_scores_with_trailing_ones_and_class_outputs():
    y = scores(6, 3)
    for output in (y[:, :, None, None], y.argmax(1), y.argmax(1)[:, None]):
        tally = Tally(yardstick_of([{"y": output}], labelled=({"y": output}, y.argmax(1))))
        tally.add({"y": output}, y.argmax(1))
        result = tally.result()
        assert (result.samples, result.accuracy, result.output_error) == (6, 1.0, None)
    maps = {"map": np.zeros((6, 3, 2, 2), np.float32)}
    tally = Tally(yardstick_of([maps], labelled=(maps, np.zeros(6, np.int64))))
    tally.add(maps, np.zeros(6, np.int64))
    assert tally.result() == Evaluation(samples=1)


def test_cosines_of_embeddings():
    y = scores(30, 8)
    turned = y.copy()
    turned[0] = -turned[0]
    tally = Tally(yardstick_of([{"y": y}], task="embedding"))
    tally.add({"y": 5 * turned}, reference={"y": y})
    result = tally.result()
    assert result.measures == {"cosine": pytest.approx(28 / 30), "least_cosine": pytest.approx(-1)}
    assert result.agreement is None


def test_names_of_another_model():
    x = scores(40, 3) * np.array([1, 1, 100], np.float32)
    result = evaluate(linear(np.eye(3), y="z"), {"x": x}, against=linear(np.eye(3)))
    assert [part.name for part in result.parts] == ["z[2]", "z[0:2]"]
