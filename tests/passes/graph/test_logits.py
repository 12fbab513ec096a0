"""Class scores before a softmax, in old and new opsets."""

from __future__ import annotations

import numpy as np
import pytest

from obs_onnx.passes.canonical.canonicalize import canonicalize, plain
from obs_onnx.passes.graph.logits import class_axes, holds_class_numbers, logits_of, softmax_axis
from obs_onnx.passes.shapes.infer_shapes import InferShapes


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


FLAT = "float[N,5] x"
MAP = "float[N,5,4,3] x"


@pytest.mark.parametrize(
    ("given", "nodes", "outputs", "axis"),
    [
        (FLAT, "y = ArgMax <axis = 1> (z)", "int64[N,1] y", 1),
        (FLAT, "i = ArgMax <axis = -1, keepdims = 0> (z)  y = Cast <to = 6> (i)", "int32[N] y", 1),
        (FLAT, "v, y = TopK <axis = 1> (z, two)", "float[N,2] v, int64[N,2] y", 1),
        (FLAT, "s = Softmax <axis = 1> (z)  v, y = TopK <axis = 1> (s, two)", "int64[N,2] y", 1),
        (FLAT, "y = Softmax(z)", "float[N,5] y", 1),
        (FLAT, "y = LogSoftmax(z)", "float[N,5] y", 1),
        (MAP, "y = ArgMax <axis = 1> (z)", "int64[N,1,4,3] y", 1),
        (MAP, "t = Transpose <perm = [0, 2, 3, 1]> (z)  y = ArgMax <axis = 3> (t)", "int64[N,4,3,1] y", 1),
        (MAP, "t = Transpose <perm = [0, 2, 3, 1]> (z)  r = Reshape(t, rows)  y = ArgMax <axis = 1> (r)",
         "int64[M,1] y", 1),
        ("float[N,5,1,1] x", "r = Reshape(z, flat)  y = ArgMax <axis = 1> (r)", "int64[N,1] y", 1),
        # rows that are chosen, the largest of a map, and what is computed with are no classes
        (FLAT, "v, i = TopK <axis = 1> (z, two)  y = GatherElements <axis = 1> (x, i)", "float[N,2] y", None),
        (FLAT, "v, y = TopK <axis = 1> (z, two)  w = Relu(x)", "int64[N,2] y, float[N,5] w", None),
        (FLAT, "v, i = TopK <axis = 1> (z, two)  y = Identity(v)", "float[N,2] y", None),
        (MAP, "r = Reshape(z, heat)  i = ArgMax <axis = 2, keepdims = 0> (r)  y = Mod(i, three)",
         "int64[N,5] y", None),
        (MAP, "r = Reshape(z, heat)  y = ArgMax <axis = 2> (r)", "int64[N,5,1] y", None),
        (FLAT, "s = Softmax(z)  y = MatMul(s, m)", "float[N,5] y", None),
    ],
)  # fmt: skip
def test_the_axis_along_which_classes_are_looked_for(make_model, given, nodes, outputs, axis) -> None:
    held = {"two": np.array([2]), "rows": np.array([-1, 5]), "flat": np.array([0, 5]),
            "heat": np.array([0, 5, 12]), "three": np.array(3), "m": np.eye(5, dtype=np.float32)}  # fmt: skip
    held = {name: array for name, array in held.items() if name in nodes}
    model = plain(make_model(f"g ({given}) => ({outputs}) {{ z = Sigmoid(x)  {nodes} }}", held))
    InferShapes().call(model)
    assert class_axes(model, ["z"]) == ({} if axis is None else {"z": axis})
