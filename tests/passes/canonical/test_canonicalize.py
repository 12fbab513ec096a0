from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from obs_onnx.passes import canonicalize, find_layers
from obs_onnx.passes.canonical.decompose import Decompose
from obs_onnx.passes.errors import ModelError


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def value(model: ir.Model, name: str) -> np.ndarray:
    return model.graph.initializers[name].const_value.numpy()


@pytest.fixture
def check(run_model, rng):
    """Canonical form of a proto that computes the same numbers; the original stays as it was."""

    def check(proto: onnx.ModelProto, feeds: dict[str, np.ndarray], rtol: float = 1e-5) -> ir.Model:
        before, wanted = proto.SerializeToString(), run_model(proto, feeds)
        original = ir.from_proto(proto)
        model = canonicalize(original)
        got = run_model(model, feeds)
        assert list(got) == list(wanted)
        for name, array in wanted.items():
            np.testing.assert_allclose(got[name], array, rtol=rtol, atol=rtol * np.abs(array).max())
        fed = {i.name for i in proto.graph.input} - {t.name for t in proto.graph.initializer}
        after = ir.to_proto(model).graph
        assert [i for i in after.input if i.name in fed] == [i for i in proto.graph.input if i.name in fed]
        assert list(after.output) == list(proto.graph.output)
        assert ir.to_proto(original).graph.node == ir.to_proto(ir.from_proto(_parse(before))).graph.node
        assert proto.SerializeToString() == before
        again = canonicalize(model)
        assert operators(again) == operators(model)
        assert find_layers(again) == find_layers(model)
        return model

    return check


def _parse(data: bytes) -> onnx.ModelProto:
    return onnx.load_model_from_string(data)


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
        assert [(f.node, f.reason) for f in find_layers(model)[1]] == [
            ("head", "quantized weights are not pruned")
        ]


class TestWeightExpressions:
    def test_weight_normalization(self, make_proto, check, rng):
        proto = make_proto(
            """g (float[N,3,8] x) => (float[N,4,6] y) {
                n = ReduceL2 <keepdims = 1> (v, axes)  u = Div(v, n)  w = Mul(g, u)  y = Conv(x, w)
            }""",
            {
                "v": rng.normal(size=(4, 3, 3)).astype(np.float32),
                "g": rng.random((4, 1, 1)).astype(np.float32),
                "axes": np.array([1, 2]),
            },
        )
        model = check(proto, {"x": rng.normal(size=(2, 3, 8)).astype(np.float32)})
        assert operators(model) == ["Conv"]
        assert [layer.size for layer in find_layers(model)[0]] == [36]

    def test_zero_bias_made_from_shapes(self, make_proto, check, rng):
        proto = make_proto(
            """g (float[N,3,8] x) => (float[N,8,6] y) {
                s = Shape <start = 0, end = 1> (w)  zero = Constant <value_int = 0> ()  z = CastLike(zero, x)
                b = Expand(z, s)  y = Conv(x, w, b)
            }""",
            {"w": rng.normal(size=(8, 3, 3)).astype(np.float32)},
        )
        model = check(proto, {"x": rng.normal(size=(2, 3, 8)).astype(np.float32)})
        assert operators(model) == ["Conv"]
        (layer,), _ = find_layers(model)
        assert layer.uses[0].bias is not None

    def test_constant_data_is_no_weight(self, make_proto, check, rng):
        proto = make_proto(
            "g (float[N,5] x) => (float[N,5] y) { t = Tanh(table)  p = MatMul(t, w)  y = Add(x, p) }",
            {
                "table": rng.normal(size=(1, 16)).astype(np.float32),
                "w": rng.normal(size=(16, 5)).astype(np.float32),
            },
        )
        model = check(proto, {"x": np.ones((2, 5), np.float32)})
        assert operators(model) == ["Tanh", "MatMul", "Add"]


def normalization(rng: np.random.Generator, channels: int, dtype: type = np.float32) -> dict[str, np.ndarray]:
    return {
        "gamma": rng.normal(size=channels).astype(dtype),
        "beta": rng.normal(size=channels).astype(dtype),
        "mean": rng.normal(size=channels).astype(dtype),
        "var": (rng.random(channels) + 0.1).astype(dtype),
    }


NORM = "BatchNormalization <epsilon = 0.001> ({}, gamma, beta, mean, var)"


class TestBatchNormalization:
    @pytest.mark.parametrize("bias", ["", ", b"])
    @pytest.mark.parametrize(
        ("node", "weight", "channels"),
        [
            ("Conv <pads = [1, 1]> (x, w{})", (6, 4, 3), 6),
            ("Conv <group = 2> (x, w{})", (6, 2, 3), 6),
            ("ConvTranspose <strides = [2]> (x, w{})", (4, 5, 3), 5),
            ("ConvTranspose <group = 2, strides = [2]> (x, w{})", (4, 3, 2), 6),
        ],
    )
    def test_after_convolutions(self, make_proto, check, rng, node, weight, channels, bias):
        proto = make_proto(
            f"g (float[N,4,9] x) => (float[N,c,l] y) {{ h = {node.format(bias)}  y = {NORM.format('h')} }}",
            {
                "w": rng.normal(size=weight).astype(np.float32),
                "b": rng.normal(size=channels).astype(np.float32),
            }
            | normalization(rng, channels),
        )
        if not bias:
            del proto.graph.initializer[1]
        model = check(proto, {"x": rng.normal(size=(2, 4, 9)).astype(np.float32)})
        assert operators(model) == [node.split()[0]]
        (layer,), _ = find_layers(model)
        assert (layer.uses[0].y, len(model.graph.initializers)) == ("y", 2)

    @pytest.mark.parametrize(
        ("nodes", "left"),
        [
            ("h = MatMul(x, w)", ["MatMul", "Add"]),
            ("m = MatMul(x, w)  h = Add(b, m)", ["MatMul", "Add"]),
            ("h = Gemm <alpha = 0.5, beta = 2.0> (x, w, b)", ["Gemm"]),
            ("h = Gemm <alpha = -2.0> (x, w)", ["Gemm"]),
            ("h = Gemm <beta = 2.0> (x, w)", ["Gemm"]),
            ("h = Gemm <beta = 0.0> (x, w, b)", ["Gemm"]),
        ],
    )
    def test_after_products(self, make_proto, check, rng, nodes, left):
        proto = make_proto(
            f"g (float[N,4] x) => (float[N,6] y) {{ {nodes}  n = {NORM.format('h')}  y = Relu(n) }}",
            {"w": rng.normal(size=(4, 6)).astype(np.float32), "b": rng.normal(size=6).astype(np.float32)}
            | normalization(rng, 6),
        )
        model = check(proto, {"x": rng.normal(size=(5, 4)).astype(np.float32)})
        assert operators(model) == [*left, "Relu"]

    def test_half_precision_weights_keep_their_type(self, make_proto, check, rng):
        proto = make_proto(
            f"g (float16[N,4,9] x) => (float16[N,6,7] y) {{ h = Conv(x, w)  y = {NORM.format('h')} }}",
            {"w": rng.normal(size=(6, 4, 3)).astype(np.float16)} | normalization(rng, 6, np.float16),
        )
        model = check(proto, {"x": rng.normal(size=(2, 4, 9)).astype(np.float16)}, rtol=4e-3)
        assert operators(model) == ["Conv"]
        assert {v.dtype for v in model.graph.initializers.values()} == {ir.DataType.FLOAT16}

    @pytest.mark.parametrize(
        "nodes",
        [
            "h = Conv(x, w)  n = {}  y = Add(n, h)",  # used elsewhere
            "h = Conv(x, w)  y = {}  z = Relu(w)",  # weight used elsewhere
            "h = Conv(x, w)  g1 = Abs(gamma)  y = BatchNormalization (h, g1, beta, mean, var)",
        ],
    )
    def test_left_alone(self, make_proto, check, rng, nodes):
        proto = make_proto(
            f"g (float[N,4,9] x) => (float[N,6,7] y) {{ {nodes.format(NORM.format('h'))} }}",
            {"w": rng.normal(size=(6, 4, 3)).astype(np.float32)} | normalization(rng, 6),
        )
        model = check(proto, {"x": rng.normal(size=(2, 4, 9)).astype(np.float32)})
        assert "BatchNormalization" in operators(model)

    def test_training_mode_is_left_alone(self, make_model, rng):
        node = "y, m, v = BatchNormalization <training_mode = 1> (h, gamma, beta, mean, var)"
        model = make_model(
            f"g (float[N,4,9] x) => (float[N,6,7] y) {{ h = Conv(x, w)  {node} }}",
            {"w": rng.normal(size=(6, 4, 3)).astype(np.float32)} | normalization(rng, 6),
        )
        assert operators(canonicalize(model)) == ["Conv", "BatchNormalization"]

    def test_matmul_with_channels_on_another_axis(self, make_proto, check, rng):
        proto = make_proto(
            f"g (float[N,6,4] x) => (float[N,6,6] y) {{ h = MatMul(x, w)  y = {NORM.format('h')} }}",
            {"w": rng.normal(size=(4, 6)).astype(np.float32)} | normalization(rng, 6),
        )
        model = check(proto, {"x": rng.normal(size=(5, 6, 4)).astype(np.float32)})
        assert operators(model) == ["MatMul", "BatchNormalization"]


class TestBiases:
    def test_shared_bias_is_copied(self, make_proto, check, rng):
        proto = make_proto(
            """g (float[N,4] x) => (float[N,4] y, float[N,4] z) {
                a = Gemm(x, u, b)  m = MatMul(a, v)  y = Add(m, b)  z = Gemm(y, w, b)
            }""",
            {name: rng.normal(size=(4, 4)).astype(np.float32) for name in "uvw"}
            | {"b": rng.normal(size=4).astype(np.float32)},
        )
        model = check(proto, {"x": rng.normal(size=(2, 4)).astype(np.float32)})
        biases = [layer.uses[0].bias for layer in find_layers(model)[0]]
        assert len(set(biases)) == 3
        assert "b" in biases
        for name in biases:
            np.testing.assert_array_equal(
                value(model, name), numpy_helper.to_array(proto.graph.initializer[3])
            )

    def test_single_number_for_all_outputs(self, make_proto, check, rng):
        proto = make_proto(
            "g (float[N,4] x) => (float[N,3] y) { y = Gemm <beta = 2.0> (x, w, c) }",
            {"w": rng.normal(size=(4, 3)).astype(np.float32), "c": np.array([1.5], np.float32)},
        )
        model = check(proto, {"x": rng.normal(size=(2, 4)).astype(np.float32)})
        (layer,), _ = find_layers(model)
        np.testing.assert_array_equal(value(model, layer.uses[0].bias), [1.5] * 3)


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


def test_functions_are_counted_before_they_are_written_out(make_proto) -> None:
    """30 levels, each of which calls the next twice, are 2^30 nodes."""
    calls = "".join(
        f'<domain: "own", opset_import: ["" : 18, "own" : 1]> f{i} (a) => (b) '
        f"{{ c = own.f{i + 1}(a)  b = own.f{i + 1}(c) }}"
        for i in range(30)
    )
    text = (
        '<ir_version: 9, opset_import: ["" : 18, "own" : 1]> g (float[N] x) => (float[N] y) { y = own.f0(x) }'
        + calls
        + '<domain: "own", opset_import: ["" : 18]> f30 (a) => (b) { b = Relu(a) }'
    )
    with pytest.raises(ModelError, match="nodes once its functions are inlined"):
        canonicalize(ir.from_proto(make_proto(text)))


def test_functions_that_call_others_often_are_fine(make_proto) -> None:
    body = " ".join(f"v{i + 1} = own.once(v{i})" for i in range(40)).replace("v0", "x").replace("v40", "y")
    text = (
        f'<ir_version: 9, opset_import: ["" : 18, "own" : 1]> g (float[N] x) => (float[N] y) {{ {body} }}'
        '<domain: "own", opset_import: ["" : 18]> once (a) => (b) { b = Relu(a) }'
    )
    assert operators(canonicalize(ir.from_proto(make_proto(text)))) == ["Relu"] * 40


@pytest.mark.parametrize(
    "cone",
    [
        "k = Expand(w, far)",
        "k = Tile(w, far)",
        "k = ConstantOfShape(far)",
        "a = Range(zero, many, one)  b = Cast<to=1>(a)  k = Mul(v, b)",
        "k = Pad(w, far4)",
    ],
)
def test_weights_that_would_be_too_large_stay_unmade(make_model, cone: str) -> None:
    arrays = {
        "w": np.ones((1, 4), np.float32),
        "v": np.ones((4, 1), np.float32),
        "far": np.array([2**40, 4]),
        "far4": np.array([0, 2**40, 0, 0]),
        "zero": np.array(0),
        "many": np.array(2**60),
        "one": np.array(1),
    }
    model = make_model(f"g (float[N, M] x) => (y) {{ {cone}  y = MatMul(x, k) }}", arrays)
    assert operators(canonicalize(model))[-2:-1] == [cone.rsplit("= ", 1)[1].split("(")[0]]


def test_a_node_that_trips_a_pass_up_is_named(make_model) -> None:
    arrays = {"w": np.ones((4, 3, 1, 1), np.float32)}
    model = make_model("g (float[N,3,4,4] x) => (y) { [odd] y = Conv<group=0>(x, w) }", arrays)
    with pytest.raises(ModelError, match=r"node 'odd' \(Conv\) is not what its operator expects"):
        find_layers(model)


@pytest.mark.parametrize(
    ("body", "operator"),
    [
        ("s = SplitToSequence<axis=1>(x, two)  y = SequenceAt(s, five)", "SplitToSequence"),
        ("s = SplitToSequence<axis=1>(x, zero)  y = SequenceAt(s, zero)", "SplitToSequence"),
        ("y = GroupNormalization<num_groups=0>(x, ones, ones)", "GroupNormalization"),
        ("y = GroupNormalization<num_groups=3>(x, ones, ones)", "GroupNormalization"),
    ],
)
def test_what_makes_no_sense_is_not_written_out(make_model, body: str, operator: str) -> None:
    arrays = {
        "two": np.array([2, 2]),
        "five": np.array(5),
        "zero": np.array(0),
        "ones": np.ones(4, np.float32),
    }
    model = make_model(f"g (float[2,4,5,5] x) => (y) {{ {body} }}", arrays)
    Decompose().call(model)
    assert operator in operators(model)


def test_a_constant_of_another_type_is_no_constant(make_model) -> None:
    model = make_model("g () => (int64 y) { n = Constant<value_int=3>()  y = Neg(n) }")
    model.graph[0].attributes["value_int"] = ir.AttrFloat32("value_int", 3.0)
    with pytest.raises(ModelError, match=r"node '.*' .Constant. is not what its operator expects"):
        canonicalize(model)
