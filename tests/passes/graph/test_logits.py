"""Class scores before a softmax, in old and new opsets."""

from __future__ import annotations

import pytest

from obs_onnx.passes.canonical.canonicalize import canonicalize
from obs_onnx.passes.graph.logits import holds_class_numbers, logits_of, softmax_axis


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


@pytest.mark.parametrize(
    ("nodes", "rank", "opset", "axis"),
    [
        ("z = Relu(x)  y = Softmax <axis = 1> (z)", 3, 18, 1),
        ("z = Relu(x)  y = LogSoftmax(z)", 3, 18, 2),
        ("z = Softmax(x)  y = Transpose <perm = [0, 2, 1]> (z)", 3, 18, 1),
        ("z = Softmax(x)  t = Transpose(z)  y = Transpose(t)", 3, 18, 2),
        ("y = Softmax <axis = 1> (x)", 3, 11, None),  # over all axes but the first
        ("z = Softmax(x)  y = Relu(z)", 2, 18, None),
    ],
)
def test_the_axis_of_a_softmax(make_model, nodes: str, rank: int, opset: int, axis: int | None) -> None:
    shape = "N," + ",".join("543"[: rank - 1])
    free = ",".join("PQR"[:rank])
    model = make_model(f"g (float[{shape}] x) => (float[{free}] y) {{ {nodes} }}", opset=opset)
    assert softmax_axis(canonicalize(model).graph.outputs[0]) == axis


def test_class_numbers_come_from_a_decision(make_model) -> None:
    head = "g (float[N,5] x) => (int32[N] y, int64[N] n)"
    nodes = (
        "a = ArgMax <axis = 1> (x) s = Squeeze(a) y = Cast <to = 6> (s) r = Round(x) c = Cast <to = 7> (r)"
    )
    model = make_model(f"{head} {{ {nodes} n = ReduceMax <keepdims = 0> (c) }}")
    assert [holds_class_numbers(output) for output in model.graph.outputs] == [True, False]
