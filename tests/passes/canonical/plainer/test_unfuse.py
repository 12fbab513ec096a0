"""Layers that onnxruntime has fused, written apart: the same numbers, and weights that are found."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from canonical_forms import operators
from nets import mlp, mobile, residual, run_proto, shapes_of, transformer

from obs_onnx.passes.canonical.canonicalize import canonicalize, plain
from obs_onnx.passes.layers.find_layers import find_layers

X = np.random.default_rng(0).standard_normal((2, 4, 5, 5)).astype(np.float32)
W = np.random.default_rng(1).standard_normal((6, 4, 3, 3)).astype(np.float32)
Z = np.random.default_rng(2).standard_normal((2, 6, 3, 3)).astype(np.float32)
B = np.random.default_rng(3).standard_normal(6).astype(np.float32)


def same(proto: onnx.ModelProto, **feeds: np.ndarray) -> ir.Model:
    """The plain form, which computes what onnxruntime computes with the fused operators."""
    model = plain(ir.from_proto(proto))
    expected, found = run_proto(proto, feeds), run_proto(ir.to_proto(model), feeds)
    assert list(found) == list(expected)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-5)
    assert operators(plain(model)) == operators(model)
    return model


@pytest.mark.parametrize("opset", [9, 13])
@pytest.mark.parametrize(
    "activation",
    [
        "group = 1",
        'activation = "Relu"',
        'activation = "Tanh"',
        'activation = "Sigmoid"',
        'activation = "LeakyRelu", activation_params = [0.3]',
        'activation = "Clip", activation_params = [-0.5, 0.25]',
        'activation = "HardSigmoid", activation_params = [0.3, 0.4]',
    ],
)
@pytest.mark.parametrize("added", [False, True])
def test_convolutions(make_proto, opset: int, activation: str, added: bool) -> None:
    proto = make_proto(
        "g (float[2,4,5,5] x, float[2,6,3,3] z) => (float[2,6,3,3] y) "
        f"{{ y = com.microsoft.FusedConv<{activation}>(x, w, b{', z' * added}) }}",
        {"w": W, "b": B},
        opset=opset,
    )
    model = same(proto, x=X, z=Z)
    name = activation.partition('"')[2].partition('"')[0]
    assert operators(model) == ["Conv", *["Add"] * added, *[name] * bool(name)]
    assert [layer.name for layer in find_layers(canonicalize(ir.from_proto(proto)))[0]] == ["w"]


def test_an_activation_that_is_not_known_stays(make_model) -> None:
    model = make_model(
        "g (float[2,4,5,5] x) => (float[2,6,3,3] y) "
        '{ y = com.microsoft.FusedConv<activation = "Snake">(x, w, b) }',
        {"w": W, "b": B},
    )
    assert operators(plain(model)) == ["FusedConv"]


def test_a_convolution_with_a_computed_weight_stays(make_model) -> None:
    model = make_model(
        "g (float[2,4,5,5] x, float[6,4,3,3] w) => (float[2,6,3,3] y) "
        '{ y = com.microsoft.FusedConv<activation = "Relu">(x, w) }'
    )
    assert operators(plain(model)) == ["FusedConv"]


@pytest.mark.parametrize(
    ("activation", "after"),
    [
        ('activation = "Relu"', "Relu"),
        ('activation = "LeakyRelu", activation_alpha = 0.2', "LeakyRelu"),
        ('activation = "HardSigmoid", activation_alpha = 0.2, activation_beta = 0.4', "HardSigmoid"),
    ],
)
def test_products(make_proto, activation: str, after: str) -> None:
    proto = make_proto(
        "g (float[3,4] x) => (float[3,6] y) "
        f"{{ y = com.microsoft.FusedGemm<transB = 1, alpha = 0.5, {activation}>(x, w, b) }}",
        {"w": W[:, :, 0, 0], "b": B},
    )
    assert operators(same(proto, x=X[0, :3, :4, 0])) == ["Gemm", after]


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("flags", ["transA = 0", "transB = 1", "transB = 1, alpha = 0.5"])
def test_matrices(make_proto, flags: str, left: bool) -> None:
    """A turned weight is turned once and for all; what scales the product is a factor behind it."""
    turned = "trans" in flags and "= 1" in flags
    shape = (3, 5) if turned != left else (5, 3)
    operands = "w, x" if left else "x, w"
    flags = flags.replace("transB", "transA") if left else flags
    out = "float[2,4,A,5] y" if left else "float[2,4,5,A] y"
    proto = make_proto(
        f"g (float[2,4,5,5] x) => ({out}) {{ y = com.microsoft.FusedMatMul<{flags}>({operands}) }}",
        {"w": W.reshape(-1)[:15].reshape(shape)},
    )
    model = canonicalize(ir.from_proto(proto))
    assert operators(model) == ["MatMul", *["Mul"] * ("alpha" in flags)]
    same(proto, x=X)


def test_a_product_of_two_activations_stays(make_model) -> None:
    """The tables know what relates its axes, and onnxruntime runs it faster."""
    model = make_model(
        "g (float[2,4,5,5] x) => (float[2,4,5,5] y) { y = com.microsoft.FusedMatMul<transB = 1>(x, x) }"
    )
    assert operators(plain(model)) == ["FusedMatMul"]


@pytest.mark.parametrize(("fused", "after"), [("BiasGelu", "Gelu"), ("FastGelu", "FastGelu")])
def test_biases(make_proto, fused: str, after: str) -> None:
    proto = make_proto(
        f"g (float[2,4,5,5] x) => (float[2,4,5,5] y) {{ y = com.microsoft.{fused}(x, b) }}", {"b": B[:5]}
    )
    assert operators(same(proto, x=X)) == ["Add", after]


def test_channels_last(make_model) -> None:
    """The weight is laid out (outputs, *kernel, inputs), as onnxruntime's tool for transformers does it."""
    model = make_model(
        "g (float[2,5,5,4] x) => (float[2,3,3,6] y){ y = com.microsoft.NhwcConv<strides = [1, 1]>(x, w, b) }",
        {"w": np.ascontiguousarray(W.transpose(0, 2, 3, 1)), "b": B},
    )
    found = canonicalize(model)
    assert operators(found) == ["Transpose", "Conv", "Transpose"]
    expected = run_proto(
        ir.to_proto(
            make_model("g (float[2,4,5,5] x) => (float[2,6,3,3] y) { y = Conv(x, w, b) }", {"w": W, "b": B})
        ),
        {"x": X},
    )["y"]
    (y,) = run_proto(ir.to_proto(found), {"x": X.transpose(0, 2, 3, 1)}).values()
    np.testing.assert_allclose(y, expected.transpose(0, 2, 3, 1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("net", [mlp, residual, mobile, transformer])
def test_a_net_that_went_through_the_optimizer_has_its_layers(net, tmp_path) -> None:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "saved.onnx")
    proto = net()
    ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    saved = canonicalize(ir.from_proto(onnx.load(tmp_path / "saved.onnx")))
    layers, _ = find_layers(canonicalize(ir.from_proto(proto)))
    found, _ = find_layers(saved)
    assert sorted(layer.size for layer in found) == sorted(layer.size for layer in layers)
    rng = np.random.default_rng(0)
    shapes = {value.name: shapes_of(proto, 2)[value.name] for value in proto.graph.input}
    feeds = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    expected = run_proto(proto, feeds)
    for name, array in run_proto(ir.to_proto(saved), feeds).items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-3, atol=1e-4)


EMBED = "com.microsoft.EmbedLayerNormalization"


@pytest.mark.parametrize(
    ("inputs", "count"),
    [
        ("ids, kinds, words, places, types, scale, shift", 3),
        ("ids, , words, places, , scale, shift", 2),
        ("ids, , words, places, , scale, shift, , where", 2),
    ],
)
@pytest.mark.parametrize("summed", [False, True])
def test_embeddings(make_proto, inputs: str, count: int, summed: bool) -> None:
    rng = np.random.default_rng(0)
    sizes = {"words": (30, 8), "places": (9, 8), "types": (2, 8), "scale": (8,), "shift": (8,)}
    tensors = {name: rng.standard_normal(size).astype(np.float32) for name, size in sizes.items()}
    given = {"ids": rng.integers(0, 30, (2, 7)), "kinds": rng.integers(0, 2, (2, 7))}
    given["where"] = rng.integers(0, 9, (2, 7))
    feeds = {name: array.astype(np.int32) for name, array in given.items() if name in inputs}
    proto = make_proto(
        f"g ({', '.join(f'int32[2,7] {name}' for name in feeds)}) => "
        f"(float[2,7,8] y{', float[2,7,8] s' * summed}) "
        f"{{ y, m{', s' * summed} = {EMBED}<epsilon = 0.001>({inputs}) }}",
        {name: array for name, array in tensors.items() if name in inputs},
        opset=17,
    )
    model = same(proto, **feeds)
    assert operators(model).count("Gather") == count + ("where" not in inputs)
    assert operators(model).count("LayerNormalization") == 1


def test_counted_words_of_embeddings_stay(make_proto) -> None:
    rng = np.random.default_rng(0)
    sizes = {"words": (30, 8), "places": (9, 8), "scale": (8,), "shift": (8,)}
    proto = make_proto(
        "g (int32[2,7] ids, int32[2,7] mask) => (float[2,7,8] y, int32[2] m) "
        f"{{ y, m = {EMBED}(ids, , words, places, , scale, shift, mask) }}",
        {name: rng.standard_normal(size).astype(np.float32) for name, size in sizes.items()},
        opset=17,
    )
    assert operators(plain(ir.from_proto(proto))) == ["EmbedLayerNormalization"]
