"""Shapes of operators that runtimes add, against onnxruntime."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from runtime_shapes import assert_same_shapes

from obs_onnx.passes.ops import TABLE
from obs_onnx.passes.shapes.contrib import ALIASES, SHAPES, kind_of
from obs_onnx.passes.shapes.contrib_attention import ATTENTION

RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def zeros(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    return np.zeros(shape, dtype)


X, STEP = normal(2, 5, 8), np.array(0.1, np.float32)
IDS, TABLES = zeros(2, 7, dtype=np.int32), (normal(30, 16), normal(9, 16))
PLACES = zeros(2, 5, dtype=np.int64)
BLOCKS = {"K": 8, "N": 6, "bits": 4, "block_size": 16}
IMAGE, ZERO = zeros(2, 4, 9, 9), np.array(3, np.uint8)
LEAF = {
    **{f"nodes_{name}": [0] for name in ("treeids", "nodeids", "featureids", "truenodeids", "falsenodeids")},
    "nodes_values": [0.0],
    "nodes_modes": ["LEAF"],
    "target_treeids": [0],
    "target_nodeids": [0],
    "target_ids": [1],
    "target_weights": [1.0],
    "n_targets": 2,
}
"""A tree of one leaf, for the second of two numbers."""

CASES = [
    ("Gelu", [X], 1, {}),
    ("FastGelu", [X, normal(8)], 1, {}),
    ("BiasGelu", [X, normal(8)], 1, {}),
    ("QuickGelu", [X], 1, {}),
    ("ScaledSiLU", [X], 1, {}),
    ("Trilu", [normal(5, 5)], 1, {}),
    ("GatedAdd", [X, X, normal(2, 5, 1)], 1, {}),
    ("RotaryEmbedding", [normal(2, 4, 5, 8), PLACES, normal(10, 4), normal(10, 4)], 1, {}),
    (
        "MRotaryEmbedding",
        [normal(2, 5, 16), zeros(3, 2, 5, dtype=np.int64), normal(10, 4), normal(10, 4)],
        1,
        {"num_heads": 2, "mrope_section": [2, 1, 1]},
    ),
    ("SkipLayerNormalization", [X, X, normal(8), normal(8)], 1, {}),
    ("SkipSimplifiedLayerNormalization", [X, normal(5, 8), normal(8)], 1, {}),
    ("GatedRMSNorm", [X, normal(4), X], 1, {}),
    ("BranchwiseRMSNorm", [X, normal(8)], 1, {"num_branches": 2}),
    ("FusedMatMul", [normal(2, 5, 3), normal(7, 5)], 1, {"transA": 1, "transB": 1}),
    ("FusedMatMul", [normal(5, 2, 3), normal(2, 3, 7)], 1, {"transBatchA": 1}),
    (
        "FusedMatMul",
        [normal(3, 2, 5), normal(3, 2, 7)],
        1,
        {"transBatchA": 1, "transBatchB": 1, "transA": 1},
    ),
    ("FusedMatMul", [normal(5), normal(5, 7)], 1, {}),
    ("FusedMatMul", [normal(2, 3, 5), normal(5)], 1, {}),
    ("TransposeMatMul", [normal(2, 5, 3), normal(7, 5)], 1, {"transA": 1, "transB": 1}),
    ("MatMulInteger16", [zeros(5, 8, dtype=np.int16), zeros(8, 6, dtype=np.int16)], 1, {}),
    ("MatMulIntegerToFloat", [zeros(2, 5, 8), zeros(8, 6), STEP, STEP], 1, {}),
    ("DynamicQuantizeMatMul", [X, zeros(8, 6), STEP], 1, {}),
    ("MatMulNBits", [X, zeros(6, 1, 8), normal(6, 1)], 1, BLOCKS),
    (
        "MatMulBnb4",
        [normal(2, 5, 16), zeros(48), normal(6)],
        1,
        {"K": 16, "N": 6, "quant_type": 1, "block_size": 16},
    ),
    (
        "GatherBlockQuantized",
        [zeros(20, 16), zeros(2, 7, dtype=np.int64), normal(20, 2)],
        1,
        {"bits": 4, "block_size": 16, "quantize_axis": 1, "gather_axis": 0},
    ),
    ("EmbedLayerNormalization", [IDS, IDS, *TABLES, normal(2, 16), normal(16), normal(16)], 3, {}),
    ("EmbedLayerNormalization", [IDS, None, *TABLES, None, normal(16), normal(16)], 3, {}),
    ("LinearAttentionGate", [normal(2, 5, 4), normal(4), normal(4), normal(2, 5, 4)], 2, {}),
    ("MoE", [X, normal(10, 4), normal(4, 6, 8), None, normal(4, 8, 6)], 1, {"k": 2}),
    (
        "QMoE",
        [X, normal(10, 4), zeros(4, 6, 4), normal(4, 6), None, zeros(4, 8, 3), normal(4, 8)],
        1,
        {"k": 2, "expert_weight_bits": 4},
    ),
    (
        "MoEGroupRouter",
        [X, normal(8)],
        1,
        {"n_group": 2, "top_k": 2, "topk_group": 1, "group_topk": 1},
    ),
    ("QuantizeLinear", [X, STEP, np.array(3, np.uint16)], 1, {}),
    ("QuantizeLinear", [X, STEP], 1, {}),
    ("DequantizeLinear", [zeros(2, 5, 8, dtype=np.int16), STEP, np.array(3, np.int16)], 1, {}),
    ("QLinearAdd", [IMAGE, STEP, ZERO, zeros(4, 1, 9), STEP, ZERO, STEP, ZERO], 1, {}),
    ("QLinearMul", [zeros(9), STEP, ZERO, IMAGE, STEP, ZERO, STEP, ZERO], 1, {}),
    (
        "QLinearWhere",
        [zeros(4, 1, 1, dtype=bool), IMAGE, STEP, ZERO, zeros(9), STEP, ZERO, STEP, ZERO],
        1,
        {},
    ),
    ("QLinearSigmoid", [IMAGE, STEP, ZERO, STEP, ZERO], 1, {}),
    ("QLinearLeakyRelu", [IMAGE, STEP, ZERO, STEP, ZERO], 1, {}),
    (
        "QLinearAveragePool",
        [IMAGE, STEP, ZERO, STEP, ZERO],
        1,
        {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 1], "ceil_mode": 1},
    ),
    ("QLinearGlobalAveragePool", [IMAGE, STEP, ZERO, STEP, ZERO], 1, {}),
    ("QLinearConcat", [STEP, ZERO, IMAGE, STEP, ZERO, zeros(2, 3, 9, 9), STEP, ZERO], 1, {"axis": 1}),
    (
        "QLinearConv",
        [IMAGE, STEP, ZERO, zeros(6, 2, 3, 3), STEP, ZERO, STEP, ZERO],
        1,
        {"group": 2, "pads": [1, 1, 1, 1]},
    ),
    ("QGemm", [zeros(5, 4), STEP, ZERO, zeros(3, 4), STEP, ZERO, None, STEP, ZERO], 1, {"transB": 1}),
    ("QGemm", [zeros(5, 4), STEP, ZERO, zeros(4, 3), STEP, ZERO], 1, {}),
    (
        "DynamicQuantizeLSTM",
        [
            normal(7, 2, 6),
            *(zeros(1, n, 20) for n in (6, 5)),
            *[None] * 5,
            *[np.array([0.1], np.float32), zeros(1)] * 2,
        ],
        3,
        {"hidden_size": 5},
    ),
    ("FusedConv", [normal(2, 4, 9, 9), normal(6, 2, 3, 3)], 1, {"group": 2, "pads": [1, 1, 1, 1]}),
    ("FusedGemm", [normal(5, 4), normal(4, 3)], 1, {"activation": "Relu"}),
]


@pytest.mark.parametrize("case", CASES, ids=[f"{name}-{number}" for number, (name, *_) in enumerate(CASES)])
def test_shapes_are_those_of_onnxruntime(case) -> None:
    op_type, inputs, outputs, attributes = case
    assert_same_shapes(op_type, inputs, outputs, **attributes)


def test_of_the_default_domain() -> None:
    assert_same_shapes("SimplifiedLayerNormalization", [X, normal(8)], domain="", opset=17, axis=-1)


CLASSIC = {
    "Scaler": ([normal(5, 3)], {"offset": [1.0] * 3, "scale": [2.0] * 3}),
    "Imputer": ([normal(5, 3)], {"imputed_value_floats": [1.0]}),
    "Normalizer": ([normal(5, 3)], {"norm": "L1"}),
    "FeatureVectorizer": ([normal(5, 3), normal(5, 2)], {"inputdimensions": [3, 2]}),
    "LinearRegressor": ([normal(5, 3)], {"coefficients": [1.0] * 6, "intercepts": [0.0] * 2, "targets": 2}),
    "SVMRegressor": (
        [normal(5, 3)],
        {"coefficients": [1.0] * 3, "kernel_type": "LINEAR", "kernel_params": [1.0, 0.0, 1.0], "rho": [0.0]},
    ),
    "TreeEnsembleRegressor": ([normal(5, 3)], LEAF),
}


@pytest.mark.parametrize("op_type", CLASSIC)
def test_classic_models(op_type: str) -> None:
    inputs, attributes = CLASSIC[op_type]
    assert_same_shapes(op_type, inputs, domain="ai.onnx.ml", opset=17, **attributes)


DESCRIBED = [  # what the schemas say of operators that have no kernel for a CPU, or not for floats
    ("GemmaRotaryEmbedding", {}, [(2, 5, 8), *[(2, 4, 5, 8)] * 4], [(2, 4, 5, 8)] * 2),
    ("GroupNorm", {}, [(2, 4, 4, 8), (8,), (8,)], [(2, 4, 4, 8)]),
    ("SkipGroupNorm", {}, [(2, 4, 4, 8), (8,), (8,), (2, 8)], [(2, 4, 4, 8)] * 2),
    ("QLinearSoftmax", {}, [(2, 4, 9), (), (), (), ()], [(2, 4, 9)]),
    ("QLinearReduceMean", {"axes": [1, -1], "keepdims": 0}, [(2, 4, 9, 8), (), (), (), ()], [(2, 9)]),
    ("QLinearReduceMean", {"axes": [2]}, [(2, 4, 9), (), (), (), ()], [(2, 4, 1)]),
    ("QLinearReduceMean", {}, [(2, 4), (), (), (), ()], [(1, 1)]),
    ("BiasAdd", {}, [(2, 5, 8), (8,), (2, 5, 8)], [(2, 5, 8)]),
    ("BiasSoftmax", {}, [(2, 4, 5, 5), (2, 1, 5, 5)], [(2, 4, 5, 5)]),
    ("BiasSplitGelu", {}, [(2, 5, 2560), (2560,)], [(2, 5, 1280)]),
    ("SwiGLU", {}, [(2, 5, 8)], [(2, 5, 4)]),
    ("SwiGLU", {}, [(2, 5, 8), (2, 5, 8)], [(2, 5, 8)]),
    ("RouterGateUpProj", {"router_size": 4}, [(2, 5, 8), (8, 16)], [(2, 5, 4), (2, 5, 6)]),
    (
        "RMSNormRotary",
        {},
        [(2, 5, 4, 16), (8,), (2, 5), (10, 4), (10, 4)],
        [(2, 5, 32), (2, 5, 4, 8)],
    ),
    ("RelativePositionBias", {}, [(32, 4), (1,), (1,)], [(1, 4, None, None)]),
    (
        "GatedRelativePositionBias",
        {"num_heads": 4},
        [(2, 5, 32), (32,), (1, 4, 5, 5), (8, 4), (4,), (1, 4, 1, 1)],
        [(2, 4, 5, 5)],
    ),
    ("RemovePadding", {}, [(2, 5, 8), (2,)], [(None, 8), (2, 5), (3,), (1,)]),
    ("RestorePadding", {}, [(8, 16), (2, 5)], [(2, 5, 16)]),
    ("GemmFastGelu", {}, [(2, 5, 8), (8, 6), (6,)], [(2, 5, 6)]),
    ("FusedMatMulActivation", {}, [(2, 5, 8), (8, 6)], [(2, 5, 6)]),
    ("MatMulNBitsQLoRA", {"N": 6}, [(2, 5, 8)], [(2, 5, 6)]),
    ("MatMulNBitsMlp", {"N": 6}, [(2, 5, 8)], [(2, 5, 6), (2, 5, 8)]),
    ("MatMulNBitsQkv", {"Nq": 8, "Nkv": 4}, [(2, 5, 8)], [(2, 5, 8), (2, 5, 4), (2, 5, 4), (2, 5, 8)]),
    ("MatMulPacked", {"N": 6}, [(2, 5, 8), (6, 9)], [(2, 5, 6)]),
    ("MatMulBlockQuantizedFp4Weight", {}, [(2, 5, 8), (6, 4)], [(2, 5, 6)]),
    ("MatMulBlockQuantizedFp8Weight", {}, [(2, 5, 8), (6, 8)], [(2, 5, 6)]),
    ("MoEPacked", {}, [(2, 5, 8), (10, 4)], [(2, 5, 8)]),
    ("QEmbedLayerNormalization", {}, [(2, 7), None, (30, 16), (9, 16)], [(2, 7, 16), (2,), (2, 7, 16)]),
]


@pytest.mark.parametrize(("op_type", "attributes", "inputs", "expected"), DESCRIBED)
def test_shapes_are_those_of_the_schema(op_type: str, attributes, inputs, expected) -> None:
    values = [ir.Value(name=f"x{i}") for i in range(len(inputs))]
    node = ir.node(op_type, values, attributes, domain="com.microsoft", num_outputs=len(expected))
    assert SHAPES[f"com.microsoft::{op_type}"](node, inputs) == expected


def test_what_is_not_said_is_not_guessed() -> None:
    node = ir.node("MatMulBnb4", [], {"transB": 0, "N": 6})
    with pytest.raises(ValueError, match="not transposed"):
        SHAPES["com.microsoft::MatMulBnb4"](node, [(2, 8), (48,), (6,)])
    with pytest.raises(ValueError, match="its input 1 is missing"):
        SHAPES["com.microsoft::FusedMatMul"](node, [(2, 8), None])


def test_every_rule_has_a_case() -> None:
    tried = {name for name, *_ in (*CASES, *DESCRIBED)} | {*CLASSIC, "SimplifiedLayerNormalization"}
    assert tried == {key.split("::")[-1] for key in {*SHAPES, *ALIASES} - {*ATTENTION}}


EXPORTED = {
    "attention": "Attention GroupQueryAttention MultiHeadAttention RotaryEmbedding MRotaryEmbedding",
    "gates": "BiasAdd BiasGelu BiasSplitGelu FastGelu GatedRMSNorm Gelu QuickGelu SwiGLU",
    "rotations": "GemmaRotaryEmbedding",
    "states": "CausalConvWithState GatedDeltaNet LinearAttention",
    "weights": "GatherBlockQuantized MatMulNBits MoE QMoE",
    "norms": "SkipLayerNormalization SkipSimplifiedLayerNormalization",
}
"""Operators of com.microsoft that the builders of language models and their optimizers write."""


@pytest.mark.parametrize("family", EXPORTED)
def test_operators_of_language_models_have_rules_for_shapes_and_channels(family: str) -> None:
    for name in EXPORTED[family].split():
        assert f"com.microsoft::{name}" in SHAPES
        assert TABLE[f"com.microsoft::{name}"].relate is not None


def test_types_that_are_not_those_of_the_first_numbers() -> None:
    half, whole, byte = ir.DataType.FLOAT16, ir.DataType.INT64, ir.DataType.INT8
    grouped = "com.microsoft::GroupQueryAttention"
    assert kind_of(grouped, 0, [half, None, None, byte, byte]) == half
    assert kind_of(grouped, 1, [half, None, None, byte, byte]) == byte  # a cache of fewer bits
    assert kind_of(grouped, 1, [half, None, None, None, None]) == half
    assert kind_of("com.microsoft::RemovePadding", 1, [half, whole]) == ir.DataType.INT32
    assert kind_of("ai.onnx.ml::Scaler", 0, [whole]) == ir.DataType.FLOAT
