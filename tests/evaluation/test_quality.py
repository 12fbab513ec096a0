"""Accuracy, agreement and output error against numbers counted by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from linear_scores import linear, scores

from obs_onnx.data.open_source import open_source
from obs_onnx.entrypoints.evaluate import evaluate
from obs_onnx.evaluation.quality import Evaluation, Tally, evaluate_sessions
from obs_onnx.runtimes import open_runtime


def test_sessions_and_progress():
    runtime = open_runtime(threads=1)
    session, other = runtime.session(linear(np.eye(4))), runtime.session(linear(2 * np.eye(4)))
    source = open_source({"x": scores(20, 4)}, session.inputs, batch_size=8)
    done: list[int] = []
    result = evaluate_sessions(session, source, other, progress=done.append)
    assert done == [1, 2, 3]
    assert result.output_error == pytest.approx(0.5)
    assert evaluate(session, source, against=other) == result


def test_several_outputs_weigh_the_same():
    tally = Tally()
    small, large = scores(10, 3), 1000 * scores(10, 3, seed=1)
    for rows in (slice(0, 4), slice(4, 10)):
        tally.add(
            {"small": 1.3 * small[rows], "large": large[rows], "index": np.arange(3)},
            reference={"small": small[rows], "large": large[rows], "index": np.arange(3)},
        )
    result = tally.result()
    assert result.output_errors == {"small": pytest.approx(0.3, rel=1e-5), "large": 0.0}
    assert result.output_error == pytest.approx(0.3 / math.sqrt(2), rel=1e-5)
    assert set(result.to_json()) == {"samples", "output_error", "output_errors", "agreement"}


def test_numbers_that_are_not_finite():
    y = scores(4, 3)
    masked = y.copy()
    masked[:, 0] = -np.inf
    broken = y.copy()
    broken[1, 2] = np.nan

    def against(output, reference):
        tally = Tally()
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
        tally = Tally()
        tally.add({"y": output}, y.argmax(1))
        assert tally.result() == Evaluation(samples=6, accuracy=1.0)
    tally = Tally()
    tally.add({"map": np.zeros((6, 3, 2, 2), np.float32)}, np.zeros(6, np.int64))
    assert tally.result() == Evaluation(samples=1)
