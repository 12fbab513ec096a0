"""Models evaluated on data, alone and against another one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from linear_scores import linear, scores

from obs_onnx.entrypoints.evaluate import evaluate
from obs_onnx.evaluation.measures.yardstick import yardstick_of
from obs_onnx.evaluation.quality import Evaluation, Tally
from obs_onnx.passes.errors import DataError, ModelError


def test_accuracy_over_batches():
    x = scores(50, 7)
    order = np.argsort(-x, axis=1)
    rank = np.arange(50) % 7  # the label is the class of this rank
    labels = order[np.arange(50), rank]
    result = evaluate(linear(np.eye(7)), {"x": x, "labels": labels}, batch_size=8)
    expected = Evaluation(50, "classification", np.mean(rank == 0), np.mean(rank < 5))
    assert replace(result, alerts=()) == expected


def test_a_model_that_guesses_is_an_alert_and_one_that_is_compared_is_none():
    x = scores(50, 7)
    labels = np.argsort(-x, axis=1)[np.arange(50), np.arange(50) % 7]
    guessing, other = linear(np.eye(7)), linear(np.diag([1, 1, 1, 1, 1, 1, 0.5]))
    result = evaluate(guessing, {"x": x, "labels": labels})
    assert len(result.alerts) == 1
    assert "right for 8 of 50 labelled samples, as often as by guessing one of 7" in result.alerts[0]
    assert result.to_json()["alerts"] == result.alerts
    for right in (
        evaluate(guessing, {"x": x, "labels": x.argmax(1)}),
        evaluate(other, {"x": x, "labels": labels}, against=guessing),
    ):
        assert right.alerts == ()
        assert "alerts" not in right.to_json()


def test_scores_in_front_of_a_choice_of_classes(make_proto, tmp_path):
    x = scores(40, 4)
    for nodes, outputs in (
        ("y = ArgMax <axis = 1> (s)", "int64[N,1] y"),
        ("v, y = TopK <axis = 1> (s, k)", "float[N,2] v, int64[N,2] y"),
    ):
        held = {"k": np.array([2])} if "TopK" in nodes else {}
        text = f"g (float[N,4] x) => ({outputs}) {{ s = MatMul(x, w)  {nodes} }}"
        weights = [np.eye(4), np.diag([1, 1, 1, 0.5])]
        dense, other = (make_proto(text, {"w": w.astype(np.float32), **held}) for w in weights)
        alone = evaluate(dense.SerializeToString(), {"x": x, "labels": x.argmax(1)})
        assert (alone.accuracy, alone.alerts) == (1.0, ())
        wrong = evaluate(dense.SerializeToString(), {"x": x, "labels": (x.argmax(1) + np.arange(40)) % 4})
        assert (wrong.accuracy, len(wrong.alerts)) == (0.25, 1)
        result = evaluate(other.SerializeToString(), {"x": x}, against=dense.SerializeToString())
        assert result.task == "classification"
        assert result.agreement == np.mean((x @ weights[1]).argmax(1) == x.argmax(1))


def test_few_classes_have_no_top5_and_no_labels_no_accuracy():
    x = scores(20, 5)
    assert evaluate(linear(np.eye(5)), {"x": x, "labels": x.argmax(1)}) == Evaluation(
        20, "classification", accuracy=1.0
    )
    assert evaluate(linear(np.eye(5)), {"x": x}) == Evaluation(samples=20)


def test_against_another_model():
    x = scores(30, 4)
    weight = np.diag([1, 1, 1, 0.5])
    options = {"against": linear(np.eye(4)), "batch_size": 7, "task": "classification"}
    result = evaluate(linear(weight), {"x": x}, **options)
    expected = np.linalg.norm(0.5 * x[:, 3]) / np.linalg.norm(x)
    assert result.output_error == pytest.approx(expected, rel=1e-6)
    assert result.output_errors == {"y": result.output_error}
    assert result.agreement == np.mean((x @ weight).argmax(1) == x.argmax(1))
    assert 0.5 < result.agreement < 1


def test_itself_is_equal():
    model = linear(scores(4, 6))
    result = evaluate(model, {"x": scores(30, 4)}, against=model, task="classification")
    assert (result.output_error, result.agreement) == (0.0, 1.0)


def test_outputs_are_paired_by_name_or_position():
    x = {"x": scores(9, 4)}
    assert evaluate(linear(np.eye(4), y="z"), x, against=linear(np.eye(4))).output_errors == {"z": 0.0}
    with pytest.raises(DataError, match="different inputs"):
        evaluate(linear(np.eye(4)), x, against=linear(np.eye(4), x="image"))
    with pytest.raises(DataError, match=r"output 'y' has shape \(9, 3\), the other model's \(9, 4\)"):
        evaluate(linear(np.eye(4)[:, :3]), x, against=linear(np.eye(4)))


def test_models_of_other_tokens_are_told_apart_before_they_run(make_proto):
    """The smaller one has no row for id 7."""
    large, small = (
        make_proto(
            f"g (int64[N,S] ids) => (float[N,S,{n}] logits)"
            " { h = Gather(table, ids) logits = MatMul(h, w) }",
            {"table": scores(n, 4).astype("f4"), "w": scores(4, n).astype("f4")},
        )
        for n in (8, 5)
    )
    ids = {"ids": np.full((3, 2), 7)}
    for model, against, sizes in ((small, large, "5.* 8"), (large, small, "8.* 5")):
        with pytest.raises(DataError, match=f"output 'logits' scores {sizes}: only models with the same"):
            evaluate(model, ids, against=against)


def test_labels_that_do_not_fit():
    x = scores(10, 4)
    with pytest.raises(DataError, match="labels go up to 4, the model has 4 classes"):
        evaluate(linear(np.eye(4)), {"x": x, "labels": np.arange(10) % 5})
    with pytest.raises(DataError, match="3 labels for 10 rows"):
        Tally(yardstick_of([{"y": x}], task="classification")).add({"y": x}, np.zeros(3, np.int64))
    with pytest.raises(DataError, match="no array 'classes'"):
        evaluate(linear(np.eye(4)), {"x": x}, labels="classes")


def test_models_however_they_are_given(make_proto, tmp_path) -> None:
    proto = make_proto(
        "g (float[N,4] x) => (float[N,3] y) { y = MatMul(x, w) }", {"w": np.eye(4, 3, dtype="f4")}
    )
    onnx.save(proto, tmp_path / "m.onnx")
    x = scores(20, 4).astype(np.float32)
    given = [tmp_path / "m.onnx", proto, ir.from_proto(proto), proto.SerializeToString()]
    for model in given:
        for against in given:
            found = evaluate(model, x, against=against, threads=1)
            assert (found.samples, found.output_error) == (20, 0.0)
    assert evaluate(model=proto, data=x).samples == 20
    with pytest.raises(ModelError, match="does not exist"):
        evaluate("none.onnx", x)
    with pytest.warns(DeprecationWarning, match="labels_key is now called labels"):
        assert evaluate(proto, {"x": x, "c": x.argmax(1) % 3}, labels_key="c").accuracy is not None
