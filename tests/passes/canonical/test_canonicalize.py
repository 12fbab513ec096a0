from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from canonical_forms import operators
from onnx import numpy_helper

from obs_onnx.passes import canonicalize, find_layers
from obs_onnx.passes.errors import ModelError


class TestFunctions:
    HEAD = '<ir_version: 8, opset_import: ["" : 18, "my" : 1]>\n'
    BODY = """
        <domain: "my", opset_import: ["" : 18, "my" : 1]>
        Block <alpha> (a, w) => (c) { b = MatMul(a, w)  c = my.Act <slope: float = @alpha> (b) }
        <domain: "my", opset_import: ["" : 18]>
        Act <slope> (b) => (c) { k = Constant <value_float: float = @slope> ()
            d = LeakyRelu <alpha: float = @slope> (b)  c = Mul(d, k) }
    """

    def test_nested_functions_are_inlined(self, make_proto, check, rng):
        graph = """g (float[N,4] x) => (float[N,4] y) {
            [first] h = my.Block <alpha = 0.5> (x, w1)
            [second] y = my.Block <alpha = 0.25> (h, w2)
        }"""
        weights = {name: rng.normal(size=(4, 4)).astype(np.float32) for name in ("w1", "w2")}
        model = check(
            make_proto(self.HEAD + graph + self.BODY, weights),
            {"x": rng.normal(size=(3, 4)).astype(np.float32)},
        )
        assert not model.functions
        assert operators(model) == ["MatMul", "LeakyRelu", "Mul"] * 2
        assert [layer.name for layer in find_layers(model)[0]] == ["w1", "w2"]

    def test_circle_is_an_error(self, make_model):
        functions = """
            <domain: "my", opset_import: ["" : 18, "my" : 1]> F (a) => (b) { b = my.G(a) }
            <domain: "my", opset_import: ["" : 18, "my" : 1]> G (a) => (b) { b = my.F(a) }
        """
        model = make_model(self.HEAD + "g (float[4] x) => (float[4] y) { y = my.F(x) }" + functions)
        with pytest.raises(ModelError, match="cannot be inlined"):
            canonicalize(model)


class TestNames:
    def test_nodes_get_names_of_their_own(self, make_proto):
        proto = make_proto("g (float[4] x) => (float[4] y) { a = Relu(x)  b = Relu(a)  y = Neg(b) }")
        proto.graph.node[1].name = proto.graph.node[2].name = "twice"
        model = canonicalize(ir.from_proto(proto))
        assert [node.name for node in model.graph] == ["Relu", "twice", "twice_1"]

    def test_subgraphs_and_their_initializers(self, make_proto, check, rng):
        proto = make_proto(
            """g (bool c, float[N,4] x) => (float[N,4] y) {
                y = If(c) <then_branch = t () => (float[N,4] a) { h = MatMul(x, w)  a = Add(h, big) },
                           else_branch = e () => (float[N,4] b) {
                               k = Constant <value = float[4] {1,2,3,4}> ()  b = Add(x, k) }>
            }""",
            {"w": rng.normal(size=(4, 4)).astype(np.float32)},
        )
        branch = next(a for a in proto.graph.node[0].attribute if a.name == "then_branch").g
        branch.initializer.append(numpy_helper.from_array(rng.normal(size=(1, 4)).astype(np.float32), "big"))
        x = rng.normal(size=(3, 4)).astype(np.float32)
        for condition in (True, False):
            model = check(proto, {"c": np.array(condition), "x": x})
        _, frozen = find_layers(model)
        assert [f.reason for f in frozen] == [
            "weights used inside the body of a control flow operator are not pruned"
        ]
