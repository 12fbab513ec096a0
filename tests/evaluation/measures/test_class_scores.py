"""One rule for class scores: the cases of the rule, and that every part which asks goes by it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from obs_onnx import finetune, prune
from obs_onnx.criteria.reference_loss import ReferenceLoss
from obs_onnx.evaluation.measures.class_scores import (
    ClassScores,
    classes_of,
    find_class_numbers,
    find_class_scores,
    log_probabilities,
    rows_of,
)
from obs_onnx.evaluation.measures.output_damage import Damage
from obs_onnx.evaluation.measures.yardstick import choose_measure, yardstick_of
from obs_onnx.evaluation.quality import Tally
from obs_onnx.training.objective import choose_objective

Z = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]])).astype(np.float32)
P = np.exp(Z)
MANY = np.tile(P, (4, 1))
TWO = np.array([0, 2])
IMAGE = np.ones((2, 3, 4, 4), np.float32)

FLAT = "g (float[N, 6] x) => (float[N, 4] y) { a = Gemm(x, w, b) h = Relu(a) y = Gemm(h, v, c) }"
POOLED = """g (float[N, 6] x) => (float[N, 4, 1, 1] y) {
    a = Gemm(x, w, b) h = Relu(a) z = Gemm(h, v, c) y = Unsqueeze(z, axes)
}"""


@pytest.fixture
def pair(make_proto):
    """The same net with class scores (N, C) and (N, C, 1, 1)."""
    random = np.random.default_rng(3)
    shapes = {"w": (6, 16), "b": (16,), "v": (16, 4), "c": (4,)}
    weights = {k: (random.standard_normal(s) / 2).astype(np.float32) for k, s in shapes.items()}
    return make_proto(FLAT, weights), make_proto(POOLED, {**weights, "axes": np.array([2, 3])})


@pytest.fixture
def data():
    random = np.random.default_rng(4)
    labels = random.integers(0, 4, 320)
    x = random.standard_normal((4, 6))[labels] * 2 + 0.5 * random.standard_normal((320, 6))
    return {"x": x.astype(np.float32), "labels": labels}


@pytest.mark.parametrize(
    ("outputs", "found"),
    [
        ({"y": MANY}, ClassScores("y", True, True)),
        ({"y": np.log(MANY)}, ClassScores("y", False, True)),
        ({"y": MANY[:, :, None, None]}, ClassScores("y", True, True)),
        ({"y": MANY, "f": IMAGE}, ClassScores("y", True, False)),
        ({"i": np.array([1, 2]), "y": MANY.astype(np.float16)}, ClassScores("y", True, True)),
        ({"y": MANY * 1.0005}, ClassScores("y", True, True)),
        ({"y": MANY.reshape(4, 2, 3)}, ClassScores("y", True, True, 2, False)),
        ({"y": MANY.reshape(4, 2, 3).transpose(0, 2, 1)}, ClassScores("y", True, True, 1, False)),
        ({"y": MANY.reshape(4, 2, 3), "f": IMAGE}, None),  # a map of attention
        ({"y": MANY * 1.002}, None),
        ({"y": P}, None),  # two rows may add up by chance
        ({"y": np.tile(Z, (4, 1)) + 5}, None),  # angles, boxes, an embedding
        ({"y": IMAGE}, None),
        ({"y": MANY[:, :1]}, None),  # one class
        ({"y": MANY[:, 0]}, None),
        ({"i": np.array([[1, 2, 3]])}, None),
        ({}, None),
    ],
)
def test_numbers_that_add_up(outputs, found) -> None:
    assert find_class_scores(outputs) == found


@pytest.mark.parametrize(
    ("outputs", "labels", "found"),
    [
        ({"y": Z}, TWO, ClassScores("y", False, True)),
        ({"y": P}, TWO, ClassScores("y", True, True)),
        ({"e": np.ones((2, 8), np.float32), "y": Z}, TWO, ClassScores("y", False, False)),
        (
            {"y": np.zeros((2, 3, 4, 4), np.float32)},
            np.zeros(32, int),
            ClassScores("y", False, True, 1, False),
        ),
        ({"y": np.zeros((2, 5, 7), np.float32)}, np.zeros(10, int), ClassScores("y", False, True, 2, False)),
        ({"y": np.zeros((2, 5, 7), np.float32)}, np.zeros(2, int), None),
    ],
)
def test_labels_decide(outputs, labels, found) -> None:
    assert find_class_scores(outputs, labels) == found


@pytest.mark.parametrize(
    ("task", "outputs", "found"),
    [
        ("classification", {"y": Z}, ClassScores("y", False, True)),
        ("classification", {"z": Z, "y": MANY}, ClassScores("y", True, False)),
        ("classification", {"y": IMAGE}, None),
        ("segmentation", {"y": IMAGE}, ClassScores("y", False, True, 1, False)),
        ("segmentation", {"y": IMAGE[:, :1] / 2}, ClassScores("y", True, True, 1, False)),
        ("language", {"y": IMAGE[..., 0]}, ClassScores("y", False, True, 2, False)),
        ("regression", {"y": MANY}, None),
        ("detection", {"y": MANY}, None),
        ("embedding", {"y": MANY}, None),
    ],
)
def test_the_task_decides(task, outputs, found) -> None:
    assert find_class_scores(outputs, task=task) == found


@pytest.mark.parametrize(
    ("outputs", "found"),
    [
        ({"logits": Z}, ClassScores("logits", False, True)),
        ({"/head/Logits": Z, "e": Z}, ClassScores("/head/Logits", False, False)),
        ({"model.logits:0": Z}, ClassScores("model.logits:0", False, True)),
        ({"logits": IMAGE[..., 0]}, ClassScores("logits", False, True, 2, False)),  # tokens
        ({"logits": IMAGE}, ClassScores("logits", False, True, 1, False)),
        ({"logits": Z[:, :1]}, None),  # a value
        ({"logits": IMAGE[..., 0], "boxes": IMAGE[..., 0]}, None),
        ({"logits_of_depth": Z}, None),
        ({"start.logits.x": Z}, None),
    ],
)
def test_an_output_that_is_called_logits(outputs, found) -> None:
    assert find_class_scores(outputs) == found
    assert find_class_scores(outputs, task="regression") is None


def test_a_softmax_at_the_end_decides(make_model) -> None:
    softmax = make_model("g (float[N, 3] x) => (float[N, 3] y) { z = Softmax<axis = 1>(x) y = Identity(z) }")
    assert find_class_scores({"y": P}, model=softmax) == ClassScores("y", True, True)
    other = make_model("g (float[N, 3] x) => (float[N, 3] y) { y = Sigmoid(x) }")
    assert find_class_scores({"y": P}, model=other) is None


def test_class_numbers(make_model) -> None:
    model = make_model("g (float[N, 3] x) => (int64[N] y) { y = ArgMax<axis = 1, keepdims = 0>(x) }")
    numbers = {"y": np.array([1, 0])}
    assert find_class_numbers(numbers) is None  # numbers of anything
    assert find_class_numbers(numbers, model=model) == "y"
    assert find_class_numbers(numbers, np.array([1, 1])) == "y"
    assert find_class_numbers(numbers, task="classification") == "y"
    assert find_class_numbers(numbers, model=model, task="regression") is None


def test_logarithms_of_probabilities() -> None:
    for given, probabilities in ((Z, False), (Z + 5, False), (P, True)):
        np.testing.assert_allclose(log_probabilities(given, probabilities), Z, rtol=1e-6)
    masked = np.array([[-np.inf, 0.0, 0.0]])
    np.testing.assert_allclose(log_probabilities(masked, False), [[-np.inf, -np.log(2), -np.log(2)]])
    assert log_probabilities(np.array([[0.0, 1.0]]), True)[0, 0] == pytest.approx(np.log(1e-12))


def test_classes() -> None:
    scores = ClassScores("y", False, True)
    np.testing.assert_array_equal(classes_of({"y": Z[:, :, None, None]}, scores), [0, 2])
    np.testing.assert_array_equal(classes_of({"y": np.array([[np.nan, 1], [0, 1]])}, scores), [-1, 1])
    np.testing.assert_array_equal(classes_of({"f": IMAGE, "i": np.array([[3], [4]])}, None, "i"), [3, 4])
    assert classes_of({"f": IMAGE}, None) is None


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 1), (2, 3, 1, 1)])
def test_everything_that_asks_hears_the_same(shape) -> None:
    other = np.log(np.array([[0.25, 0.5, 0.25], [0.1, 0.2, 0.7]])).astype(np.float32)
    dense, changed = {"y": Z.reshape(shape)}, {"y": other.reshape(shape)}
    yardstick = yardstick_of([dense], labelled=(dense, TWO), loss="auto")
    assert yardstick.measure == choose_measure("kl", yardstick, dense) == "kl"
    damage = Damage(yardstick, ["y"])
    damage.update(dense, changed)
    assert damage.value == pytest.approx(0.25 * np.log(2) / 2, rel=1e-5)
    for known in ({"labels": TWO}, {"task": "classification"}):
        loss = ReferenceLoss.of(dense, **known)
        assert (loss.output, loss.classes, loss.probabilities) == ("y", True, False)
        assert loss.loss(dense["y"], np.array([0, 2])) == pytest.approx(-np.log(0.5 * 0.7) / 2, rel=1e-6)
    assert not ReferenceLoss.of(dense).classes
    tally = Tally(yardstick)
    tally.add(changed, np.array([0, 2]), dense)
    assert (tally.result().accuracy, tally.result().agreement) == (0.5, 0.5)


def test_lost_outputs_are_wrong_by_all_that_a_class_can_say() -> None:
    dense = {"y": np.zeros((2, 3, 1, 1), np.float32)}
    damage = Damage(yardstick_of([dense], task="classification", loss="kl"), ["y"])
    damage.update(dense, {"y": np.zeros((1, 3, 1, 1), np.float32)})
    assert damage.value == pytest.approx(np.log(3))


def test_the_loss_of_training(pair) -> None:
    flat, pooled = (
        choose_objective(ir.from_proto(proto), {"y": z}, labels=True, teacher=True)
        for proto, z in zip(pair, (np.zeros((1, 4)), np.zeros((1, 4, 1, 1))), strict=True)
    )
    assert [term.loss for term in pooled.terms] == ["cross_entropy", "logits"]
    assert pooled.terms == flat.terms
    assert (flat.trailing, pooled.trailing, pooled.as_scores) == (0, 2, True)


@pytest.mark.parametrize("taught", [False, True])
def test_training_learns_the_same(pair, data, taught) -> None:
    found = [
        finetune(
            ir.from_proto(proto),
            data,
            steps=30,
            labels="labels",
            teacher=ir.from_proto(proto) if taught else None,
            mix=0.9,
        )
        for proto in pair
    ]
    flat, pooled = (one.report for one in found)
    assert pooled.after.accuracy == flat.after.accuracy > flat.before.accuracy
    assert pooled.after.loss == pytest.approx(flat.after.loss, rel=1e-4)
    for name in ("w", "v"):
        flat_w, pooled_w = (one.model.graph.initializers[name].const_value.numpy() for one in found)
        np.testing.assert_allclose(pooled_w, flat_w, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("criterion", ["auto", "mutual-information", "taylor", "fisher"])
def test_pruning_removes_the_same(pair, data, criterion) -> None:
    found = [
        prune(
            ir.from_proto(proto),
            calib=data,
            targets={"macs": 0.5},
            criterion=criterion,
            latency=False,
            refine=False,
        )
        for proto in pair
    ]
    flat, pooled = (one.model.graph.initializers["w"].const_value.numpy() for one in found)
    np.testing.assert_array_equal(pooled, flat)


def test_rows() -> None:
    assert rows_of(Z) is Z
    np.testing.assert_array_equal(rows_of(Z[:, :, None, None]), Z)
