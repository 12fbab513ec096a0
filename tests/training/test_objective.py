"""What training minimises: terms from outputs, labels and a teacher; targets computed once per sample."""

from __future__ import annotations

import numpy as np
import pytest

from obs_onnx.evaluation.measures.parts import ErrorSums, Spreads, weighted
from obs_onnx.io.onnx_file import serialize
from obs_onnx.passes.autodiff.training_step import loss_graph
from obs_onnx.passes.channels.pieces import ChannelAxis, Piece
from obs_onnx.passes.errors import DataError, OptionError
from obs_onnx.runtimes import open_runtime
from obs_onnx.training.batches import TrainingBatch
from obs_onnx.training.objective import Objective, ReferenceLoss, choose_objective

SCORES = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
SHARES = np.exp(SCORES) / np.exp(SCORES).sum(1, keepdims=True)


@pytest.fixture
def choose(make_model):
    """``choose(nodes, answer, labels=..., teacher=...)`` of a model with these outputs."""

    def make(nodes: str, answer: dict[str, np.ndarray], **options: object) -> Objective:
        kinds = {"f": "float", "i": "int64"}
        outputs = ", ".join(
            f"{kinds[y.dtype.kind]}[{','.join(['N', *map(str, y.shape[1:])])}] {name}"
            for name, y in answer.items()
        )
        text = f"g (float[N,4] x, int64[N] k) => ({outputs}) {{ {nodes} }}"
        return choose_objective(make_model(text), answer, **{"labels": False, "teacher": False, **options})

    return make


def described(objective: Objective) -> list[tuple]:
    return [(term.loss, term.output, term.target, pytest.approx(term.weight)) for term in objective.terms]


def test_labels(choose) -> None:
    found = choose("y = Relu(x)", {"y": SCORES}, labels=True)
    assert described(found) == [("cross_entropy", "y", "labels", 1.0)]
    assert found.labelled
    assert found.scores == "y"
    assert not found.taught


@pytest.mark.parametrize("distance", ["logits", "kl"])
def test_a_teacher_of_classes(choose, distance: str) -> None:
    found = choose("y = Relu(x)", {"y": SCORES}, teacher=True, distance=distance, task="classification")
    assert described(found) == [(distance, "y", "teacher", 1.0)]
    assert found.taught == {"teacher": "y"}
    assert not found.labelled
    assert found.as_scores


def test_both_mixed(choose) -> None:
    found = choose("y = Relu(x)", {"y": SCORES}, labels=True, teacher=True, mix=0.25)
    assert described(found) == [("cross_entropy", "y", "labels", 0.25), ("logits", "y", "teacher", 0.75)]


def test_probabilities_are_learnt_in_front_of_their_softmax(choose) -> None:
    found = choose("z = Relu(x)  y = Softmax(z)", {"y": SHARES}, labels=True, teacher=True)
    assert [term.output for term in found.terms] == ["z", "z"]
    assert found.taught == {"teacher": "y"}


def test_probabilities_without_a_softmax_are_numbers_like_others(choose) -> None:
    found = choose("y = Relu(x)", {"y": SHARES}, teacher=True)
    scale = 1 / np.mean(np.square(SHARES.astype(np.float64)))
    assert described(found) == [("mse", "y", "teacher.y", scale)]
    assert not found.as_scores


def test_outputs_of_any_scale_weigh_the_same(choose) -> None:
    """Integers are left out, and an output of zeros is not divided by nothing."""
    answer = {"y": 1000 * SCORES, "z": 0 * SCORES, "i": np.arange(5)}
    found = choose("y = Relu(x)  z = Neg(x)  i = Neg(k)", answer, teacher=True)
    square = 1e6 * np.mean(np.square(SCORES.astype(np.float64)))
    assert described(found) == [("mse", "y", "teacher.y", 1 / square / 2), ("mse", "z", "teacher.z", 0.5)]
    assert found.taught == {"teacher.y": "y", "teacher.z": "z"}


def test_the_distance_to_a_teacher_is_that_by_which_it_is_measured(make_model) -> None:
    """The mean over parts of squared errors, whatever their scales and sizes, and no more."""
    rng = np.random.default_rng(5)
    y = (rng.standard_normal((6, 5, 4)) * np.array([300, 300, 1, 1, 0.01])[:, None]).astype(np.float32)
    z = (7 + rng.standard_normal((6, 3))).astype(np.float32)
    answer, axes = {"y": y, "z": z}, {"y": [ChannelAxis(1, (Piece(tuple(range(5))),))]}
    spreads = Spreads(axes, {"z": 1})
    spreads.add(answer)
    parts = weighted(spreads.parts(), {"y[2:4]": 2, "y[4]": 0})
    text = "g (float[N,5,4] x, float[N,3] u) => (float[N,5,4] y, float[N,3] z) { y = Neg(x)  z = Neg(u) }"
    model = make_model(text)
    found = choose_objective(model, answer, labels=False, teacher=True, parts=parts)
    assert found.taught == {"teacher.y": "y", "teacher.z": "z"}
    graph, loss = loss_graph(model, found.terms)
    feed = {"x": rng.standard_normal(y.shape), "u": rng.standard_normal(z.shape)}
    feed = {name: array.astype(np.float32) for name, array in feed.items()}
    session = open_runtime("onnxruntime", 1).session(serialize(graph))
    sums = ErrorSums(parts)
    sums.add(answer, {"y": -feed["x"], "z": -feed["u"]})
    expected = np.mean([one.weighted**2 for one in sums.errors()])
    assert len(sums.errors()) == 3
    given = session.run({**feed, "teacher.y": y, "teacher.z": z})[loss]
    assert given == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("nodes", "answer", "options", "error", "message"),
    [
        ("y = Relu(x)", {"y": SCORES}, {}, OptionError, "nothing to learn from"),
        ("y = Relu(x)", {"y": SCORES}, {"labels": True, "mix": 1.5}, OptionError, "mix 1.5"),
        ("i = Neg(k)", {"i": np.arange(5)}, {"teacher": True}, DataError, "no output .* is of a float"),
        ("y = Relu(x)", {"y": SCORES[:, :1]}, {"labels": True}, DataError, "labels are classes"),
    ],
)  # fmt: skip
def test_what_cannot_be_learnt(choose, nodes, answer, options, error, message) -> None:
    with pytest.raises(error, match=message):
        choose(nodes, answer, **options)


class Counting:
    """A teacher that counts what it is asked for: scores of row i are (i, i + 1)."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def run(self, feed: dict[str, np.ndarray], outputs: object = None) -> dict[str, np.ndarray]:
        self.rows += feed["x"].astype(int).tolist()
        return {"y": np.stack([feed["x"], feed["x"] + 1], 1).astype(np.float32)}


def batch(*rows: int, numbered: bool = True) -> TrainingBatch:
    return TrainingBatch({"x": np.array(rows, float)}, None, np.array(rows) if numbered else None)


OBJECTIVE = Objective((), {"teacher": "y"}, "y", as_scores=True)


class TestTargets:
    def test_each_sample_is_asked_for_once(self) -> None:
        teacher = Counting()
        targets = ReferenceLoss(teacher, OBJECTIVE, rows=6)
        for rows in ((0, 1, 2), (3, 4, 5), (5, 0, 3), (2, 1, 0)):
            np.testing.assert_array_equal(targets(batch(*rows))["teacher"][:, 0], rows)
        assert teacher.rows == [0, 1, 2, 3, 4, 5]

    def test_a_batch_with_something_new_is_asked_for_as_a_whole(self) -> None:
        teacher = Counting()
        targets = ReferenceLoss(teacher, OBJECTIVE, rows=6)
        targets(batch(0, 1))
        np.testing.assert_array_equal(targets(batch(1, 2))["teacher"][:, 0], [1, 2])
        assert teacher.rows == [0, 1, 1, 2]

    def test_streams_are_asked_for_every_time(self) -> None:
        teacher = Counting()
        for targets in (ReferenceLoss(teacher, OBJECTIVE), ReferenceLoss(teacher, OBJECTIVE, rows=6)):
            teacher.rows.clear()
            for _ in range(2):
                targets(batch(0, 1, numbered=False))
            assert teacher.rows == [0, 1, 0, 1]

    def test_probabilities_become_scores(self) -> None:
        class Sure(Counting):
            def run(self, feed, outputs=None):
                return {"y": np.array([[0.75, 0.25], [1.0, 0.0]], np.float32)}

        found = ReferenceLoss(Sure(), OBJECTIVE)(batch(0, 1))["teacher"]
        np.testing.assert_allclose(found[0], np.log([0.75, 0.25]), rtol=1e-6)
        assert found[1, 0] == 0
        assert -90 < found[1, 1] < -80  # the smallest normal number in place of zero
