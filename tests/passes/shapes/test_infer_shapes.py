"""Shapes that follow, shapes that contradict each other, and what is unknown to ONNX."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from obs_onnx.passes import canonicalize
from obs_onnx.passes.errors import ModelError
from obs_onnx.passes.shapes.concrete import concretize
from obs_onnx.passes.shapes.infer_shapes import InferShapes


class TestShapes:
    def test_symbolic_batch_goes_through(self, make_proto, check, rng):
        proto = make_proto(
            "g (float[batch,3,8,8] x) => (float[batch,6] y) { h = Conv(x, w)  r = Relu(h) "
            "p = GlobalAveragePool(r)  y = Flatten(p) }",
            {"w": rng.normal(size=(6, 3, 3, 3)).astype(np.float32)},
        )
        model = check(proto, {"x": rng.normal(size=(2, 3, 8, 8)).astype(np.float32)})
        assert model.graph.node("Relu").outputs[0].shape == ir.Shape(["batch", 6, 6, 6])

    def test_wrong_declarations_inside_are_replaced(self, make_proto, rng):
        proto = make_proto(
            "g (float[2,4] x) => (float[2,3] y) <float[2,7] h> { h = MatMul(x, w)  y = Relu(h) }",
            {"w": rng.normal(size=(4, 3)).astype(np.float32)},
        )
        model = canonicalize(ir.from_proto(proto))
        assert model.graph.node("MatMul").outputs[0].shape == ir.Shape([2, 3])

    def test_contradictions_are_errors(self, make_model, rng):
        model = make_model(
            "g (float[2,4] x) => (float[2,3] y) { y = MatMul(x, w) }",
            {"w": rng.normal(size=(5, 3)).astype(np.float32)},
        )
        with pytest.raises(ModelError, match="contradict"):
            canonicalize(model)

    @pytest.mark.parametrize("op_type", ["Conv", "Warp"])
    def test_a_domain_that_the_model_does_not_import_is_an_error(self, make_model, op_type):
        model = make_model("g (float[2,4] x) => (float[2,4] y) { a = Relu(x)  y = Abs(a) }")
        model.graph[0].domain, model.graph[0].op_type = "com.acme", op_type
        with pytest.raises(ModelError, match=r"cannot be inferred.*com\.acme"):
            InferShapes().call(model)

    def test_unknown_operators_do_not_hide_the_rest(self, make_model, rng):
        head = '<ir_version: 8, opset_import: ["" : 18, "com.acme" : 1]>'
        model = make_model(
            head
            + "g (float[2,4] x) => (float[2,3] y) { a = com.acme.Warp(x)  h = MatMul(x, w)  y = Add(h, a) }",
            {"w": rng.normal(size=(4, 3)).astype(np.float32)},
        )
        assert canonicalize(model).graph.node("MatMul").outputs[0].shape == ir.Shape([2, 3])

    def test_large_weights_are_not_copied(self, make_model, monkeypatch):
        model = make_model(
            "g (float[2,400] x) => (float[2,300] y) { y = MatMul(x, w) }",
            {"w": np.ones((400, 300), np.float32)},
        )
        seen = []
        infer = onnx.shape_inference.infer_shapes
        monkeypatch.setattr(
            onnx.shape_inference, "infer_shapes", lambda p, **k: seen.append(p.ByteSize()) or infer(p, **k)
        )
        copy = canonicalize(model)
        assert max(seen) < 1000
        assert copy.graph.initializers["w"].const_value is model.graph.initializers["w"].const_value

    @pytest.mark.parametrize("declared", ["", "<float[N,6] h>"])
    def test_what_is_declared_of_an_unknown_operator_stays(self, make_proto, rng, declared: str) -> None:
        """What is declared wrongly elsewhere gives way all the same."""
        proto = make_proto(
            "<ir_version: 8, opset_import: ['' : 18, 'own' : 1]> g (float[N,4] x) => (float[N,3] y)".replace(
                "'", '"'
            )
            + declared.replace(">", ", float[N,9] m>")
            + " { h = own.Op(x) m = MatMul(h, w) y = Relu(m) }",
            {"w": rng.normal(size=(6, 3)).astype(np.float32)},
        )
        model = canonicalize(ir.from_proto(proto))
        found = model.graph.node("MatMul").outputs[0].shape
        assert found == (ir.Shape(["N", 3]) if declared else None)

    def test_normalization_in_an_opset_that_does_not_have_it(self, make_model) -> None:
        """onnxruntime writes it into models of any opset, and what follows is inferred around it."""
        model = canonicalize(
            make_model(
                "g (float[N,4] x) => (float[N,3] y) { h = LayerNormalization(x, s) y = MatMul(h, w) }",
                {"s": np.ones(4, np.float32), "w": np.ones((4, 3), np.float32)},
                opset=12,
            )
        )
        assert concretize(model).unknown == {}
