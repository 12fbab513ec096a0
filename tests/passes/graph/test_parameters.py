"""Constants of floating-point type, wherever they are stored."""

from __future__ import annotations

import numpy as np

from obs_onnx.passes.graph.parameters import float_tensors


def test_initializers_and_constants_of_bodies_and_functions_count_and_integers_do_not(make_model):
    head = '<ir_version: 8, opset_import: ["" : 18, "my" : 1]>\n'
    text = """g (float[3] x, bool c) => (float[3] y) {
        k = Constant <value = float[3] {1,2,3}> ()
        i = Constant <value = int64[2] {1,2}> ()
        h = my.Twice(x)
        y = If(c) <
            then_branch = t () => (float[3] a) { m = Constant <value = float[1] {4}> ()  a = Mul(h, m) },
            else_branch = e () => (float[3] b) { b = Add(k, w) }
        >
    }
    <domain: "my", opset_import: ["" : 18]>
    Twice (a) => (b) { t = Constant <value = float[1] {2}> ()  b = Mul(a, t) }
    """
    model = make_model(head + text, {"w": np.array([7, 8, 9], np.float32), "n": np.arange(3)})
    found = [tuple(tensor.numpy().reshape(-1).tolist()) for tensor in float_tensors(model)]
    assert sorted(found) == [(1, 2, 3), (2,), (4,), (7, 8, 9)]
