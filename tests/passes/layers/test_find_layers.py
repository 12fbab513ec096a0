from __future__ import annotations

import numpy as np
import pytest

from obs_onnx.passes.canonical.canonicalize import canonicalize
from obs_onnx.passes.errors import ModelError
from obs_onnx.passes.layers.find_layers import check_any, find_layers
from obs_onnx.passes.layers.layer import Layer
from obs_onnx.passes.traits.linear import ConvGeometry, MatmulGeometry


class TestConvolutions:
    def test_attributes(self, find):
        (layer,), frozen = find(
            "g (float[N,6,9,9] x) => (float[N,4,h,w] y) { [c] y = Conv <group = 2, strides = [2, 1], "
            "dilations = [1, 2], pads = [1, 0, 2, 3]> (x, w, b) }",
            {"w": (4, 3, 3, 2), "b": (4,)},
        )
        assert not frozen
        assert (layer.name, layer.op_type, layer.size) == ("w", "Conv", 72)
        (use,) = layer.uses
        assert (use.node, use.x, use.y, use.bias, use.bias_scale) == ("c", "x", "y", "b", 1.0)
        assert use.geometry == ConvGeometry((3, 2), (2, 1), (1, 2), (1, 0, 2, 3), groups=2)

    def test_defaults_and_automatic_padding(self, find):
        (layer,), _ = find(
            'g (float[N,3,9,9,9] x) => (float[N,4,a,b,c] y) { y = Conv <auto_pad = "SAME_LOWER"> (x, w) }',
            {"w": (4, 3, 3, 3, 3)},
        )
        geometry = layer.uses[0].geometry
        assert geometry == ConvGeometry((3, 3, 3), (1, 1, 1), (1, 1, 1), (0,) * 6, "SAME_LOWER")

    def test_transposed(self, find):
        (layer,), _ = find(
            "g (float[N,6,9] x) => (float[N,4,l] y) { y = ConvTranspose <group = 2, strides = [3], "
            "output_padding = [1], output_shape = [27]> (x, w) }",
            {"w": (6, 2, 3)},
        )
        geometry = layer.uses[0].geometry
        assert geometry.transposed
        assert (geometry.output_padding, geometry.output_shape) == ((1,), (27,))


def apply_matmul(layer: Layer, use, weight: np.ndarray, bias: np.ndarray | None, x: np.ndarray) -> np.ndarray:
    """What the description of a use says about its ``y``, in float64."""
    geometry = use.geometry
    assert isinstance(geometry, MatmulGeometry)
    w_GOI, groups = layer.layout.to_matrix(weight), geometry.groups
    x_NI = np.moveaxis(x.astype(np.float64), geometry.input_axis, -1)
    if groups > 1:
        x_GNI = x_NI.reshape(groups, -1, w_GOI.shape[2])
        y_GNO = np.einsum("gni,goi->gno", x_GNI, w_GOI).reshape(*x_NI.shape[:-1], -1)
    else:
        y_GNO = x_NI @ w_GOI[0].T
    if bias is not None:
        offset = use.bias_scale * bias.astype(np.float64).reshape(groups, -1)
        y_GNO = y_GNO + (offset[0] if groups == 1 else offset.reshape(*x_NI.shape[:-2], 1, -1))
    return np.moveaxis(y_GNO, -1, geometry.output_axis)


class TestProducts:
    @pytest.mark.parametrize(
        ("x", "weights", "node", "biased"),
        [
            ((5, 4), {"w": (4, 3)}, "y = MatMul(x, w)", False),
            ((2, 5, 4), {"w": (4, 3)}, "y = MatMul(x, w)", False),
            ((4,), {"w": (4, 3)}, "y = MatMul(x, w)", False),
            ((5, 4), {"w": (1, 1, 4, 3)}, "y = MatMul(x, w)", False),
            ((4, 5), {"w": (3, 4)}, "y = MatMul(w, x)", False),
            ((2, 4, 5), {"w": (3, 4)}, "y = MatMul(w, x)", False),
            ((4,), {"w": (3, 4)}, "y = MatMul(w, x)", False),
            ((2, 6, 5, 4), {"w": (2, 6, 4, 3)}, "y = MatMul(x, w)", False),
            ((6, 4, 5), {"w": (6, 3, 4)}, "y = MatMul(w, x)", False),
            ((5, 4), {"w": (4, 3), "b": (3,)}, "h = MatMul(x, w)  y = Add(h, b)", True),
            ((2, 5, 4), {"w": (4, 3), "b": (1, 3)}, "h = MatMul(x, w)  y = Add(b, h)", True),
            ((2, 4, 5), {"w": (3, 4), "b": (3, 1)}, "h = MatMul(w, x)  y = Add(h, b)", True),
            ((4,), {"w": (3, 4), "b": (3,)}, "h = MatMul(w, x)  y = Add(h, b)", True),
            ((6, 5, 4), {"w": (6, 4, 3), "b": (6, 1, 3)}, "h = MatMul(x, w)  y = Add(h, b)", True),
            ((5, 4), {"w": (4, 3)}, "y = Gemm <alpha = -0.5> (x, w)", False),
            ((5, 4), {"w": (3, 4), "b": (3,)}, "y = Gemm <transB = 1, beta = 0.25> (x, w, b)", True),
            ((4, 5), {"w": (4, 3), "b": (1, 3)}, "y = Gemm <transA = 1> (x, w, b)", True),
            ((4, 5), {"w": (3, 4)}, "y = Gemm <transA = 1, transB = 1> (x, w)", False),
            ((4, 5), {"w": (3, 4), "b": (3, 1)}, "y = Gemm <alpha = 2.0> (w, x, b)", True),
            ((5, 4), {"w": (3, 4)}, "y = Gemm <transB = 1> (w, x)", False),
            ((4, 5), {"w": (4, 3), "b": (3, 1)}, "y = Gemm <transA = 1, beta = 3.0> (w, x, b)", True),
            ((5, 4), {"w": (4, 3), "b": (3,)}, "y = Gemm <beta = 0.0> (x, w, b)", False),
        ],
    )
    def test_description_gives_the_numbers(self, make_model, run_model, rng, x, weights, node, biased):
        dims = ",".join(map(str, x))
        arrays = {name: rng.normal(size=shape).astype(np.float32) for name, shape in weights.items()}
        original = make_model(f"g (float[{dims}] x) => (float y) {{ {node} }}", arrays)
        original.graph.outputs[0].shape = None
        model = canonicalize(original)
        (layer,), frozen = find_layers(model)
        (use,) = layer.uses
        assert not frozen
        assert (layer.name, use.x, use.y, use.bias) == ("w", "x", "y", "b" if biased else None)
        feed = rng.normal(size=x).astype(np.float32)
        wanted = apply_matmul(layer, use, arrays["w"], arrays["b"] if biased else None, feed)
        got = run_model(model, {"x": feed})["y"]
        np.testing.assert_allclose(got, wanted.reshape(got.shape), rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize(
        ("bias", "nodes"),
        [
            ((1,), "h = MatMul(x, w)  y = Add(h, b)"),  # one number for all outputs
            ((5, 3), "h = MatMul(x, w)  y = Add(h, b)"),  # differs between positions
            ((5, 1), "h = MatMul(x, w)  y = Add(h, b)"),
            ((2, 1, 3), "h = MatMul(x, w)  y = Add(h, b)"),  # widens the product
            ((3,), "h = MatMul(x, w)  a = Add(h, b)  y = Mul(a, h)"),  # product used elsewhere
            ((3,), "h = MatMul(x, w)  y = Sub(h, b)"),
        ],
    )
    def test_additions_that_are_no_bias(self, find, bias, nodes):
        shape = "2,5,3" if len(bias) == 3 else "5,3"
        (layer,), _ = find(f"g (float[5,4] x) => (float[{shape}] y) {{ {nodes} }}", {"w": (4, 3), "b": bias})
        assert layer.uses[0].bias is None
        assert layer.uses[0].y == "h"

    def test_one_weight_for_several_nodes(self, find):
        (layer,), frozen = find(
            "g (float[N,4] x) => (float[N,4] y) { [a] h = MatMul(x, w)  r = Relu(h)  [b] y = Gemm(r, w) }",
            {"w": (4, 4)},
        )
        assert not frozen
        assert [(use.node, use.x) for use in layer.uses] == [("a", "x"), ("b", "r")]

    def test_layers_come_in_topological_order(self, find):
        layers, _ = find(
            "g (float[N,4] x) => (float[N,4] y) { h = MatMul(x, c)  i = MatMul(h, a)  y = MatMul(i, b) }",
            {"a": (4, 4), "b": (4, 4), "c": (4, 4)},
        )
        assert [layer.name for layer in layers] == ["c", "a", "b"]


class TestFrozen:
    @pytest.mark.parametrize(
        ("text", "weights", "reason"),
        [
            (
                "g (float[2,3,4] x) => (float[2,3,5] y) { [n] y = MatMul(x, w) }",
                {"w": (2, 4, 5)},
                None,
            ),
            (
                "g (float[N,3,4] x) => (float[2,3,5] y) { [n] y = MatMul(x, w) }",
                {"w": (2, 4, 5)},
                "its weight of shape (2, 4, 5) is broadcast against its input",
            ),
            (
                "g (float[3,4] x) => (float[3] y) { [n] y = MatMul(x, w) }",
                {"w": (4,)},
                "its weight is no matrix",
            ),
            (
                "g (int32[3,4] x) => (int32[3,5] y) { [n] y = MatMul(x, w) }",
                {"w": np.ones((4, 5), np.int32)},
                "weights of type INT32 are not pruned",
            ),
            (
                "g (float[3,4] x, float[5] c) => (float[3,5] y) { [n] y = Gemm(x, w, c) }",
                {"w": (4, 5)},
                "its C input is not one constant per output",
            ),
            (
                "g (float[3,4] x) => (float[3,5] y) { [n] y = Gemm(x, w, c) }",
                {"w": (4, 5), "c": (3, 1)},
                "its C input is not one constant per output",
            ),
            (
                "g (float[3,4] x) => (float[3,5] y) { [n] y = Gemm <alpha = 0.0> (x, w) }",
                {"w": (4, 5)},
                "its product is always zero",
            ),
            (
                "g (float[N,3,8] x, float[4] c) => (float[N,4,6] y) { [n] y = Conv(x, w, c) }",
                {"w": (4, 3, 3)},
                "its bias is computed at run time",
            ),
            (
                'g (float[3,4] x) => (float[3,5] y) { [n] y = Einsum <equation = "ni,io->no"> (x, w) }',
                {"w": (4, 5)},
                "constant operands of Einsum are not pruned",
            ),
            (
                "g (float[S,N,4] x) => (float[S,1,N,6] y) { [n] y = RNN <hidden_size = 6> (x, w, r) }",
                {"w": (1, 6, 4), "r": (1, 6, 6)},
                "recurrent weights are not pruned yet",
            ),
            (
                "g (int64[N] x) => (float[N,4] y) { [n] y = Gather(w, x) }",
                {"w": (9, 4)},
                "lookup tables are not pruned",
            ),
            (
                "g (float[3,4] x) => (float[3,5] y, float[4,5] w) { [n] y = MatMul(x, w) }",
                {"w": (4, 5)},
                "its weight w is an output of the model",
            ),
            (
                "g (float[N,4] x) => (float[N,4] y)"
                "{ [n] y = com.microsoft.FusedMatMul<transBatchA = 1>(x, w) }",
                {"w": (4, 4)},
                "FusedMatMul is not pruned; export without runtime fusions",
            ),
        ],
    )
    def test_reason(self, find, text, weights, reason):
        layers, frozen = find(text, weights)
        if reason is None:
            assert len(layers) == 1
            assert not frozen
        else:
            assert not layers
            assert [(f.node, f.reason) for f in frozen] == [("n", reason)]

    def test_weight_used_by_something_else(self, find):
        layers, frozen = find(
            "g (float[4,4] x) => (float[4,4] y) { [a] h = Add(x, w)  [n] y = MatMul(h, w) }", {"w": (4, 4)}
        )
        assert not layers
        assert [(f.node, f.reason) for f in frozen] == [("n", "its weight w is also used by Add a")]

    def test_several_layouts(self, find):
        layers, frozen = find(
            "g (float[N,4] x) => (float[N,4] y) { [a] h = MatMul(x, w)  [b] y = Gemm <transB = 1> (h, w) }",
            {"w": (4, 4)},
        )
        assert not layers
        assert {f.node: f.reason for f in frozen} == dict.fromkeys(
            "ab", "its weight w is used in several layouts"
        )

    def test_products_of_activations_hold_no_weights(self, find):
        assert find("g (float[N,4,4] x) => (float[N,4,4] y) { y = MatMul(x, x) }", {}) == ([], [])

    def test_overridable_weights_of_old_models_are_layers(self, find):
        (layer,), frozen = find(
            "g (float[N,4] x, float[4,3] w) => (float[N,3] y) { y = MatMul(x, w) }",
            {"w": (4, 3)},
            opset=7,
            ir_version=3,
        )
        assert (layer.name, frozen) == ("w", [])


def test_models_without_layers_are_told_apart_from_those_whose_layers_stay(make_model):
    w = {"w": np.ones((8, 4), np.float32)}
    check_any(make_model("g (float[N,8] x) => (float[N,4] y) { y = MatMul(x, w) }", w), "m")
    check_any(make_model("g (int64[N] x) => (float[N,4] y) { y = Gather(w, x) }", w), "m")  # left alone

    def refused(body, words):
        model = make_model(f"g (float[N,8] x) => (float[N,8] y) {{ {body} }}")
        with pytest.raises(ModelError, match=f"^m has no layers, so .* it is made of {words}$"):
            check_any(model, "m")

    refused("a = Identity(x) b = Abs(a) y = Sin(b)", "Abs, Sin")
    refused("y = Identity(x)", "Identity")
    refused(
        "a = Abs(x) b = Sin(a) c = Exp(b) d = Neg(c) e = Cos(d) y = Tan(e)", "Abs, Sin, Exp, Neg, Cos, others"
    )
