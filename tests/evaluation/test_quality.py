"""Accuracy, agreement and output error against numbers counted by hand."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from obs_onnx.data.open_source import open_source
from obs_onnx.entrypoints.evaluate import evaluate
from obs_onnx.evaluation.quality import Evaluation, Tally, evaluate_sessions
from obs_onnx.passes.errors import DataError
from obs_onnx.runtimes import open_runtime


def scores(count: int = 40, classes: int = 7, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, classes)).astype(np.float32)


def linear(weight: np.ndarray, x: str = "x", y: str = "y") -> bytes:
    """A model ``y = x @ weight``."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", [x, "w"], [y])],
        "g",
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, ["N", weight.shape[0]])],
        [helper.make_tensor_value_info(y, TensorProto.FLOAT, ["N", weight.shape[1]])],
        [numpy_helper.from_array(weight.astype(np.float32), "w")],
    )
    model: onnx.ModelProto = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    return model.SerializeToString()


def test_accuracy_over_batches():
    x = scores(50, 7)
    order = np.argsort(-x, axis=1)
    rank = np.arange(50) % 7  # the label is the class of this rank
    labels = order[np.arange(50), rank]
    result = evaluate(linear(np.eye(7)), {"x": x, "labels": labels}, batch_size=8)
    assert result == Evaluation(samples=50, accuracy=np.mean(rank == 0), accuracy_top5=np.mean(rank < 5))


def test_few_classes_have_no_top5_and_no_labels_no_accuracy():
    x = scores(20, 5)
    assert evaluate(linear(np.eye(5)), {"x": x, "labels": x.argmax(1)}) == Evaluation(
        samples=20, accuracy=1.0
    )
    assert evaluate(linear(np.eye(5)), {"x": x}) == Evaluation(samples=20)


def test_against_another_model():
    x = scores(30, 4)
    weight = np.diag([1, 1, 1, 0.5])
    result = evaluate(linear(weight), {"x": x}, against=linear(np.eye(4)), batch_size=7)
    expected = np.linalg.norm(0.5 * x[:, 3]) / np.linalg.norm(x)
    assert result.output_error == pytest.approx(expected, rel=1e-6)
    assert result.output_errors == {"y": result.output_error}
    assert result.agreement == np.mean((x @ weight).argmax(1) == x.argmax(1))
    assert 0.5 < result.agreement < 1


def test_itself_is_equal():
    model = linear(scores(4, 6))
    result = evaluate(model, {"x": scores(30, 4)}, against=model)
    assert (result.output_error, result.agreement) == (0.0, 1.0)


def test_outputs_are_paired_by_name_or_position():
    x = {"x": scores(9, 4)}
    assert evaluate(linear(np.eye(4), y="z"), x, against=linear(np.eye(4))).output_errors == {"z": 0.0}
    with pytest.raises(DataError, match="different inputs"):
        evaluate(linear(np.eye(4)), x, against=linear(np.eye(4), x="image"))
    with pytest.raises(DataError, match=r"output 'y' has shape \(9, 3\), the other model's \(9, 4\)"):
        evaluate(linear(np.eye(4)[:, :3]), x, against=linear(np.eye(4)))


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


def test_labels_that_do_not_fit():
    x = scores(10, 4)
    with pytest.raises(DataError, match="labels go up to 4, the model has 4 classes"):
        evaluate(linear(np.eye(4)), {"x": x, "labels": np.arange(10) % 5})
    with pytest.raises(DataError, match="3 labels for 10 rows"):
        Tally().add({"y": x}, np.zeros(3, np.int64))
    with pytest.raises(DataError, match="no array 'classes'"):
        evaluate(linear(np.eye(4)), {"x": x}, labels_key="classes")
