"""Concrete shapes: what cannot be is not known, and nothing large is made on the way."""

from __future__ import annotations

import tracemalloc

import numpy as np
import onnx_ir as ir
import pytest

from obs_onnx.passes.canonical.canonicalize import canonicalize
from obs_onnx.passes.channels.coupling import couple
from obs_onnx.passes.shapes.concrete import concretize

HUGE = {"a": np.array([2**41, 2**41]), "zero": np.array(0), "far": np.array(2**60), "one": np.array(1)}


@pytest.mark.parametrize(
    ("body", "known"),
    [
        ("y = ConstantOfShape(a)", None),
        ("y = Range(zero, far, one)", (2**60,)),
        ("y = Expand(one, a)", None),
        ("n = Range(zero, k, one)  m = Unsqueeze(n, u)  y = Add(n, m)", (4000, 4000)),
        ("n = Range(zero, k, one)  y = Gather(n, g)", (64, 64)),
    ],
)
def test_sizes_are_known_before_anything_is_made(make_model, body: str, known: object) -> None:
    more = {"k": np.array(4000), "u": np.array([1]), "g": np.zeros((64, 64), np.int64)}
    model = make_model(f"g () => (y) {{ {body} }}", {**HUGE, **more})
    tracemalloc.start()
    found = concretize(model)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    y = model.graph.outputs[0]
    assert y not in found.values or found.values[y].size <= 4096
    assert known is None or found.shapes.get(y) in (known, None)
    assert peak < 20e6


def test_a_negative_size_is_a_failed_try(make_model) -> None:
    """The kernel is larger than the smallest size that is tried for the free axes."""
    w = np.ones((4, 3, 100, 100), np.float32)
    model = make_model("g (float[N,3,H,W] x) => (float[N,4,P,Q] y) { h = Conv(x, w)  y = Relu(h) }", {"w": w})
    found = concretize(model)
    assert not found.unknown
    assert all(min(shape) >= 0 for shape in found.shapes.values())
    small = make_model("g (float[N,3,8,8] x) => (y) { h = Conv(x, w)  y = Relu(h) }", {"w": w})
    assert small.graph[0] in concretize(small).unknown
    couple(small)


def test_sizes_of_minus_one_are_free(make_model) -> None:
    model = make_model("g (float[2,3,4,4] x) => (y) { y = Relu(x) }")
    model.graph.inputs[0].shape = ir.Shape([-1, 3, 4, 4])
    found = concretize(model)
    assert found.shapes[model.graph.outputs[0]] == (3, 3, 4, 4)
    assert found.dynamic[model.graph.inputs[0]][0]


def test_absurd_sizes_are_not_known(make_model) -> None:
    model = make_model("g (float[9223372036854775807,3] x) => (y) { y = Relu(x) }")
    assert not concretize(model).shapes
    couple(canonicalize(model))


def test_an_axis_of_a_tensor_without_elements_is_no_channel(make_model) -> None:
    w = np.zeros((2**28, 0), np.float32)
    tracemalloc.start()
    assert not couple(make_model("g (float[N,0] x) => (y) { y = Gemm<transB=1>(x, w) }", {"w": w})).groups
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()
