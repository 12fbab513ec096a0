"""Class scores before a softmax, in old and new opsets."""

from __future__ import annotations

import pytest

from obs_onnx.passes.canonical.canonicalize import canonicalize
from obs_onnx.passes.graph.logits import logits_of


def found(make_model, nodes: str, rank: int = 2, opset: int = 18) -> str:
    shape = "N," + ",".join("543"[: rank - 1])
    model = canonicalize(make_model(f"g (float[{shape}] x) => (float[{shape}] y) {{ {nodes} }}", opset=opset))
    return str(logits_of(model.graph.outputs[0]).name)


@pytest.mark.parametrize(
    ("nodes", "rank", "opset", "expected"),
    [
        ("z = Relu(x)  y = Softmax <axis = 1> (z)", 2, 18, "z"),
        ("z = Relu(x)  y = Softmax(z)", 2, 18, "z"),  # the last axis is that of the classes
        ("z = Relu(x)  y = Softmax(z)", 2, 11, "z"),
        ("z = Relu(x)  s = Softmax(z)  i = Identity(s)  y = Identity(i)", 2, 18, "z"),
        ("z = Relu(x)  y = Softmax <axis = 1> (z)", 3, 18, "z"),
        ("z = Relu(x)  y = Softmax(z)", 3, 18, "y"),  # over the last axis
        ("z = Relu(x)  y = Softmax(z)", 3, 11, "y"),  # over all axes but the first
        ("z = Relu(x)  y = Softmax <axis = 0> (z)", 2, 18, "y"),  # over the examples
        ("z = Relu(x)  y = LogSoftmax(z)", 2, 18, "y"),
        ("y = Relu(x)", 2, 18, "y"),
    ],
)
def test_where_the_scores_are(make_model, nodes: str, rank: int, opset: int, expected: str) -> None:
    assert found(make_model, nodes, rank, opset) == expected


def test_identities_alone_lead_to_what_they_copy(make_model) -> None:
    model = make_model("g (float[N,5] x) => (float[N,5] y) { z = Relu(x)  y = Identity(z) }")
    assert logits_of(model.graph.outputs[0]).name == "z"


def test_the_softmax_of_an_input_has_the_input_as_its_scores(make_model) -> None:
    assert found(make_model, "y = Softmax(x)") == "x"
