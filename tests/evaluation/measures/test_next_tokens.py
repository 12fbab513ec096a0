"""Which input holds the tokens that a language model foretells."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from obs_onnx.data.open_source import open_source
from obs_onnx.entrypoints.evaluate import evaluate
from obs_onnx.evaluation.measures.next_tokens import NextTokens, find_next_tokens
from obs_onnx.evaluation.measures.yardstick import KL, read_outputs
from obs_onnx.runtimes import open_runtime
from obs_onnx.runtimes.sessions.model_files import open_session

V, D, S = 12, 5, 6
RNG = np.random.default_rng(0)
IDS = RNG.integers(0, V, (8, S))
EMBEDDING, HEAD = (RNG.standard_normal(shape).astype(np.float32) for shape in ((V, D), (D, V)))


def _model(kind: str = "causal", classes: int = V, cache: bool = False, output: str = "logits") -> bytes:
    """Sums of the embeddings so far (or of all tokens), and a head."""
    arrays = {"E": EMBEDDING, "H": HEAD[:, :classes], "one": np.array(1)}
    mix = {
        "causal": helper.make_node("CumSum", ["e", "one"], ["h"]),
        "all": helper.make_node("ReduceSum", ["e", "axes"], ["t"], keepdims=1),
    }[kind]
    nodes = [helper.make_node("Gather", ["E", "input_ids"], ["e"]), mix]
    if kind == "all":
        arrays["axes"] = np.array([1])
        nodes.append(helper.make_node("Add", ["e", "t"], ["h"]))
    nodes.append(helper.make_node("MatMul", ["h", "H"], [output]))
    outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["B", "S", classes])]
    if cache:
        nodes.append(helper.make_node("Identity", ["e"], ["present.0.key"]))
        outputs.append(helper.make_tensor_value_info("present.0.key", TensorProto.FLOAT, ["B", "S", D]))
    inputs = [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["B", "S"])]
    weights = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()


def _found(model: bytes) -> NextTokens | None:
    session, feed = open_session(open_runtime(), model), {"input_ids": IDS}
    graph = ir.from_proto(onnx.load_from_string(model))
    return find_next_tokens(session, feed, session.run(feed), graph)


@pytest.mark.parametrize(("kind", "foretold"), [("causal", True), ("all", False)])
def test_scores_foretell_where_what_comes_later_changes_nothing(kind: str, foretold: bool) -> None:
    assert _found(_model(kind)) == NextTokens("input_ids", "logits", foretold)


def test_fewer_classes_than_words_are_no_vocabulary() -> None:
    assert _found(_model(classes=4)) is None


def test_labels_are_the_next_tokens_that_a_mask_keeps() -> None:
    tokens = NextTokens("ids", "logits", True)
    feed = {"ids": np.array([[5, 6, 7], [8, 9, 0]]), "attention_mask": np.array([[1, 1, 1], [1, 1, 0]])}
    found = tokens.labels(feed)
    assert found is not None
    np.testing.assert_array_equal(found, [6, 7, -1, 9, -1, -1])
    assert NextTokens("ids", "logits", False).labels(feed) is None


@pytest.mark.parametrize("cache", [False, True])
def test_a_language_model_is_known_without_being_asked(cache: bool) -> None:
    session = open_session(open_runtime(), _model(cache=cache))
    graph = ir.from_proto(onnx.load_from_string(_model(cache=cache)))
    source = open_source({"input_ids": IDS}, session.inputs)
    yardstick = read_outputs(session, source, model=graph)
    assert yardstick.task == "language"
    assert yardstick.scores is not None
    assert yardstick.scores.alone
    assert yardstick.measure in (KL, "error")


def test_perplexity_of_text_and_of_the_reference() -> None:
    found = evaluate(_model(), {"input_ids": IDS}, against=_model())
    z = np.cumsum(EMBEDDING[IDS], axis=1).astype(np.float64) @ HEAD
    logs = z - np.log(np.exp(z).sum(-1, keepdims=True))
    surprise = -np.take_along_axis(logs[:, :-1], IDS[:, 1:, None], 2).mean()
    assert found.task == "language"
    assert found.measures["perplexity"] == pytest.approx(np.exp(surprise), rel=1e-4)
    assert found.measures["perplexity_dense"] == pytest.approx(np.exp(surprise), rel=1e-4)
    assert found.measures["kl"] == pytest.approx(0, abs=1e-9)
    assert found.agreement == 1
    assert found.accuracy is None
    alone = evaluate(_model(), {"input_ids": IDS})
    assert alone.measures == {"perplexity": found.measures["perplexity"]}


def test_an_encoder_has_no_perplexity() -> None:
    found = evaluate(_model("all"), {"input_ids": IDS}, against=_model("all"))
    assert found.task == "language"
    assert "perplexity" not in found.measures
