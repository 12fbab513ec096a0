"""Ranks and fixed sizes behind shape arithmetic, where ONNX's own inference gives up."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir

from obs_onnx.passes.shapes.complete_shapes import CompleteShapes
from obs_onnx.passes.shapes.infer_shapes import InferShapes

OPAQUE = """g (float[N,3,4] x) => (float[A,B] z) {
    s = Shape <start = 1> (x)  p = ReduceProd <keepdims = 1> (s)  q = Div(p, three)
    shape = Concat <axis = 0> (minus, q)  y = Reshape(x, shape)  z = Relu(y)
}"""


def test_sizes_that_hold_in_every_run_are_filled_in_and_others_stay_open(make_model):
    model = make_model(OPAQUE, {"three": np.array([3]), "minus": np.array([-1])})
    for node in model.graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None
    assert CompleteShapes().call(model).modified
    shapes = {value.name: value.shape for node in model.graph for value in node.outputs}
    assert shapes["s"] == ir.Shape([2])
    assert shapes["y"] == ir.Shape([None, 4])
    assert not CompleteShapes().call(model).modified


def test_a_graph_with_all_ranks_known_is_left_alone(make_model, monkeypatch):
    model = make_model("g (float[N,4] x) => (float[N,4] z) <float[N,M] h> { h = Relu(x)  z = Neg(h) }")
    assert not CompleteShapes().call(model).modified
    assert model.graph[0].outputs[0].shape == ir.Shape(["N", "M"])


def test_symbols_and_numbers_that_are_known_stay(make_model):
    model = make_model(
        "g (float[N,4] x) => (float[N,4] z) <float[N,M] h> { h = Relu(x) k = Neg(h) z = Abs(k) }"
    )
    model.graph[1].outputs[0].shape = None
    CompleteShapes().call(model)
    h, k = (node.outputs[0] for node in list(model.graph)[:2])
    assert h.shape == ir.Shape(["N", 4])
    assert k.shape == ir.Shape([None, 4])


def test_outputs_of_unknown_operators_have_the_type_of_the_first_input(make_model):
    head = '<ir_version: 8, opset_import: ["" : 18, "com.acme" : 1]>\n'
    model = make_model(head + "g (float16[N,4] x) => (float16[N,4] y) { a = com.acme.Warp(x)  y = Relu(a) }")
    CompleteShapes().call(model)
    assert model.graph[0].outputs[0].dtype == ir.DataType.FLOAT16


def test_scaled_integers_are_floats():
    proto = onnx.parser.parse_model(
        """
        <ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 3]>
        g (int64[N,2] x) => (float[N,2] y) {
            a = ai.onnx.ml.Scaler<offset = [0.0, 0.0], scale = [1.0, 1.0]>(x)
            b = ai.onnx.ml.Imputer<imputed_value_int64s = [1]>(x)
            y = Neg(a)
        }
        """
    )
    model = ir.from_proto(proto)
    InferShapes().call(model)
    CompleteShapes().call(model)
    scaled, imputed = (node.outputs[0] for node in list(model.graph)[:2])
    assert (scaled.dtype, imputed.dtype) == (ir.DataType.FLOAT, ir.DataType.INT64)
    assert [value.shape[1] for value in (scaled, imputed)] == [2, 2]
