"""Shapes of operators that runtimes add, against onnxruntime."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from obs_onnx.passes.shapes.concrete import concretize
from obs_onnx.passes.shapes.contrib import ALIASES, SHAPES

RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


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

CASES = {
    "Gelu": ([normal(2, 3, 8)], {}),
    "FastGelu": ([normal(2, 3, 8), normal(8)], {}),
    "BiasGelu": ([normal(2, 3, 8), normal(8)], {}),
    "QuickGelu": ([normal(2, 3, 8)], {}),
    "SimplifiedLayerNormalization": ([normal(2, 3, 8), normal(8)], {"axis": -1}),
    "SkipLayerNormalization": ([normal(2, 3, 8), normal(2, 3, 8), normal(8), normal(8)], {}),
    "SkipSimplifiedLayerNormalization": ([normal(2, 3, 8), normal(2, 3, 8), normal(8)], {}),
    "FusedMatMul": ([normal(2, 5, 3), normal(7, 5)], {"transA": 1, "transB": 1}),
    "Attention": ([normal(2, 5, 8), normal(8, 24), normal(24)], {"num_heads": 2}),
    "Attention of other widths": (
        [normal(2, 5, 8), normal(8, 20), normal(20)],
        {"num_heads": 2, "qkv_hidden_sizes": [8, 8, 4]},
    ),
    "MultiHeadAttention": ([normal(2, 5, 8), normal(2, 7, 8), normal(2, 7, 6)], {"num_heads": 2}),
    "FusedConv": ([normal(2, 4, 9, 9), normal(6, 2, 3, 3)], {"group": 2, "pads": [1, 1, 1, 1]}),
    "FusedGemm": ([normal(5, 4), normal(4, 3)], {"activation": "Relu"}),
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


@pytest.mark.parametrize("case", CASES)
def test_shapes_are_those_of_onnxruntime(case: str) -> None:
    inputs, attributes = CASES[case]
    op_type = case.split()[0]
    standard = op_type == "SimplifiedLayerNormalization"  # which onnxruntime keeps in the default domain
    names = [f"x{i}" for i in range(len(inputs))]
    domain = "" if standard else "ai.onnx.ml" if f"ai.onnx.ml::{op_type}" in SHAPES else "com.microsoft"
    node = helper.make_node(op_type, names, ["y"], domain=domain, **attributes)
    graph = helper.make_graph(
        [node, helper.make_node("Identity", ["y"], ["z"])],
        "g",
        [helper.make_tensor_value_info("x0", TensorProto.FLOAT, inputs[0].shape)],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in zip(names[1:], inputs[1:], strict=True)],
    )
    opsets = [helper.make_opsetid(*one) for one in (("", 17), ("com.microsoft", 1), ("ai.onnx.ml", 3))]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"x0": inputs[0]})
    model = ir.from_proto(proto)
    found = concretize(model)
    assert found.shapes[model.graph[0].outputs[0]] == expected.shape
    assert not found.unknown


def test_all_that_onnxruntime_runs_on_a_cpu_has_a_case() -> None:
    known = {key.split("::")[-1] for key in (*SHAPES, *ALIASES)}
    elsewhere = {  # other kernels, caches or integers than a plain case has
        "BiasAdd", "RotaryEmbedding", "GemmFastGelu", "GroupQueryAttention", "EmbedLayerNormalization",
    }  # fmt: skip
    assert {case.split()[0] for case in CASES} == known - elsewhere


def test_embeddings_of_words_and_positions() -> None:
    names = ["com.microsoft::EmbedLayerNormalization", "com.microsoft::GroupQueryAttention"]
    embed, grouped = (SHAPES[name] for name in names)
    node = ir.node("EmbedLayerNormalization", [])
    ids, words, places, kinds, scale = (2, 7), (100, 16), (50, 16), (2, 16), (16,)
    assert embed(node, [ids, ids, words, places, kinds, scale, scale]) == [(2, 7, 16), (2,), (2, 7, 16)]
    three = ir.node("GroupQueryAttention", [ir.Value(name=name) for name in "qkv"])
    assert grouped(three, [(2, 5, 8), (2, 5, 4), (2, 5, 4)]) == [(2, 5, 8)]
    heads = [ir.AttrInt64("num_heads", 2), ir.AttrInt64("kv_num_heads", 1)]
    packed = ir.node("GroupQueryAttention", [ir.Value(name="qkv")], {one.name: one for one in heads})
    assert grouped(packed, [(2, 5, 16)]) == [(2, 5, 8)]
