"""Constants and views of constants, as initializers."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from canonical_forms import operators, value

from obs_onnx.passes import canonicalize, find_layers

W = np.arange(12, dtype=np.float32).reshape(4, 3)


class TestConstants:
    def test_all_forms_are_lifted(self, make_proto, check):
        proto = make_proto(
            """g (float[2,3] x) => (float[1,6] y, float[2] z) {
                a = Constant <value = float[3] {1,2,3}> ()
                b = Constant <value_float = 2.5> ()
                c = Constant <value_floats = [1.0, 2.0, 4.0]> ()
                s = Constant <value_ints = [1, 6]> ()
                i = Constant <value_int = 0> ()
                z = Constant <value_floats = [7.0, 8.0]> ()
                h = Add(x, a)  j = Mul(h, b)  k = Div(j, c)
                l = Gather(k, i)  m = Add(k, l)  y = Reshape(m, s)
            }"""
        )
        model = check(proto, {"x": np.arange(6, dtype=np.float32).reshape(2, 3)})
        assert operators(model).count("Constant") == 1  # z is an output
        assert set(model.graph.initializers) == {"a", "b", "c", "s", "i"}
        assert value(model, "b").shape == ()

    def test_strings(self, make_model):
        text = 'g (float[2] x) => (float[2] y, string[2] s) { c = Constant <value_strings = ["ä", "b"]> () '
        model = canonicalize(make_model(text + "s = Identity(c)  y = Relu(x) }"))
        assert list(model.graph.initializers["c"].const_value.string_data()) == ["ä".encode(), b"b"]

    def test_before_ir_version_4_they_are_inputs_too(self, make_proto, check):
        proto = make_proto(
            "g (float[2] x, float[2] w) => (float[2] y) { c = Constant <value = float[2] {1,2}> () "
            "h = Mul(x, w)  y = Add(h, c) }",
            {"w": np.array([3, 4], np.float32)},
            opset=7,
            ir_version=3,
        )
        model = check(proto, {"x": np.ones(2, np.float32)})
        assert [v.name for v in model.graph.inputs] == ["x", "w", "c"]


class TestViews:
    @pytest.mark.parametrize(
        ("chain", "shape"),
        [
            ("w2 = Transpose <perm = [1, 0]> (w)", (5, 4)),
            ("w2 = Transpose(w)", (5, 4)),
            ("a = Transpose(w)  w2 = Identity(a)", (5, 4)),
            ("a = Identity(w)  b = Identity(a)  w2 = Transpose(b)", (5, 4)),
            ("w2 = Reshape(w, shape)", (2, 10)),
            ("w2 = Reshape(w, shape)", (4, 5, 1)),
            ("w2 = Squeeze(w, one)", (4, 1, 5)),
            ("a = Unsqueeze(w, one)  w2 = Squeeze(a, one)", (4, 5)),
            ("a = Cast <to = 1> (w)  w2 = Transpose(a)", (5, 4)),
            ("w2 = Flatten <axis = 1> (w)", (4, 5, 1)),
            ("w2 = Flatten <axis = -1> (w)", (2, 2, 5)),
        ],
    )
    def test_weights_behind_views(self, make_proto, check, rng, chain, shape):
        half = "Cast" in chain
        weights = {"w": rng.normal(size=shape).astype(np.float16 if half else np.float32)}
        if "shape" in chain:
            weights["shape"] = np.array([0, -1] if shape[0] == 4 else [4, -1])
        if "one" in chain:
            weights["one"] = np.array([1])
        proto = make_proto(f"g (float[N,4] x) => (float[N,5] y) {{ {chain}  y = MatMul(x, w2) }}", weights)
        model = check(proto, {"x": rng.normal(size=(3, 4)).astype(np.float32)})
        assert operators(model) == ["MatMul"]
        assert list(model.graph.initializers) == ["w"]
        assert value(model, "w").shape == (4, 5)
        assert [layer.name for layer in find_layers(model)[0]] == ["w"]

    def test_axes_as_attributes(self, make_proto, check, rng):
        proto = make_proto(
            "g (float[N,4] x) => (float[N,5] y) { a = Unsqueeze <axes = [0, -1]> (w) "
            "b = Squeeze <axes = [0]> (a)  c = Squeeze(b)  y = MatMul(x, c) }",
            {"w": rng.normal(size=(4, 5)).astype(np.float32)},
            opset=11,
        )
        assert operators(check(proto, {"x": np.ones((2, 4), np.float32)})) == ["MatMul"]

    def test_equal_views_share_one_weight(self, make_proto, check, rng):
        proto = make_proto(
            "g (float[N,4] x) => (float[N,4] y) { a = Transpose(w)  h = MatMul(x, a)  b = Transpose(w) "
            "y = MatMul(h, b) }",
            {"w": rng.normal(size=(4, 4)).astype(np.float32)},
        )
        model = check(proto, {"x": rng.normal(size=(3, 4)).astype(np.float32)})
        (layer,), frozen = find_layers(model)
        assert [use.x for use in layer.uses] == ["x", "h"]
        assert not frozen

    def test_tied_embedding_stays(self, make_proto, check, rng):
        proto = make_proto(
            "g (int64[N] i) => (float[N,6] y) { e = Gather(w, i)  t = Transpose(w) [head] y = MatMul(e, t) }",
            {"w": rng.normal(size=(6, 4)).astype(np.float32)},
        )
        model = check(proto, {"i": np.array([0, 5, 3])})
        assert operators(model) == ["Gather", "Transpose", "MatMul"]
        layers, frozen = find_layers(model)
        assert not layers
        assert {f.node: f.reason for f in frozen}["head"] == "its weight w is also used by Gather Gather"

    def test_dequantized_weights_stay(self, make_proto, check):
        proto = make_proto(
            "g (float[N,4] x) => (float[N,5] y) { d = DequantizeLinear(w, s)  [head] y = MatMul(x, d) }",
            {"w": np.arange(20, dtype=np.int8).reshape(4, 5), "s": np.float32(0.1)},
        )
        model = check(proto, {"x": np.ones((2, 4), np.float32)})
        assert operators(model) == ["DequantizeLinear", "MatMul"]
        assert [layer.factor for layer in find_layers(model)[0]] == ["d"]

    @pytest.mark.parametrize("declared", [False, True])
    def test_a_cast_constant_has_its_new_type_and_leaves_the_original_its_own(
        self, make_proto, check, declared: bool
    ) -> None:
        half = (np.arange(12).reshape(4, 3) / 8).astype(np.float16)
        proto = make_proto(
            "g (float[2,4] x) => (float[2,3] y) { w = Cast<to = 1>(h) y = MatMul(x, w) }", {"h": half}
        )
        if declared:
            proto.graph.value_info.append(onnx.helper.make_tensor_value_info("h", 10, [4, 3]))
        original = ir.from_proto(proto)
        model = check(proto, {"x": np.ones((2, 4), np.float32)})
        assert operators(model) == ["MatMul"]
        assert canonicalize(original).graph.initializers["h"].dtype == ir.DataType.FLOAT
        assert original.graph.initializers["h"].dtype == ir.DataType.FLOAT16

    def test_what_a_file_declares_of_a_tensor_gives_way_to_the_tensor(self, make_proto, run_model) -> None:
        proto = make_proto("g (float[2,4] x) => (float[2,3] y) { y = MatMul(x, w) }", {"w": W})
        proto.graph.value_info.append(onnx.helper.make_tensor_value_info("w", 10, [7]))
        found = canonicalize(ir.from_proto(proto))
        assert found.graph.initializers["w"].type == ir.TensorType(ir.DataType.FLOAT)
        assert found.graph.initializers["w"].shape == ir.Shape([4, 3])
        assert run_model(found, {"x": np.ones((2, 4), np.float32)})["y"].shape == (2, 3)
