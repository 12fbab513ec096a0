"""Published architectures from several exporters: same numbers, layers found, nothing crashes."""

from __future__ import annotations

import json
import sys

import numpy as np
import onnx_ir as ir
import pytest

from obs_onnx.io.onnx_file import from_proto
from obs_onnx.passes.canonical.canonicalize import canonicalize
from obs_onnx.passes.costs.macs import macs_per_node
from obs_onnx.passes.layers.find_layers import find_layers

pytestmark = pytest.mark.slow

LAYERS = {  # model: (layers, frozen)
    "skeletons/caffe2_squeezenet": (26, 0),
    "skeletons/fp16_dscnn": (4, 0),
    "skeletons/hubert_tiny": (17, 0),
    "skeletons/ir3_initializers_as_inputs": (3, 0),
    "skeletons/local_functions_nested": (6, 0),
    "skeletons/lstm_gru_rnn_stack": (1, 3),
    "skeletons/mnasnet1_0": (53, 0),
    "skeletons/multi_output_with_feature": (4, 0),
    "skeletons/ort_extended_bert_tiny": (20, 3),
    "skeletons/qdq_static": (4, 0),
    "skeletons/scripted_if": (2, 2),
    "skeletons/shufflenet_v2_x0_5": (57, 0),
    "skeletons/siamese": (4, 0),
    "skeletons/tied_conv_autoencoder": (2, 4),
    "skeletons/tied_linear_transposed": (3, 2),
    "skeletons/unet_transpose": (18, 0),
    "skeletons/yolo_style_c2f_sppf_bn": (13, 0),
    "real/mlperf_resnet8_keras": (10, 0),
    "real/mnist_cntk": (3, 0),
    "real/ultraface_rfb_320": (52, 0),
}


@pytest.fixture(scope="module")
def zoo(outside_data):
    sys.path.insert(0, str(outside_data / "zoo"))
    try:
        import zoo
    finally:
        sys.path.pop(0)
    return zoo


@pytest.mark.parametrize("name", LAYERS)
def test_canonical_form(outside_data, zoo, run_model, name):
    proto = zoo.load(outside_data / "zoo" / f"{name}.onnx")
    feeds = zoo.inputs(proto)
    wanted = zoo.run(proto, feeds)
    model = canonicalize(from_proto(proto))
    got = zoo.run(ir.to_proto(model), feeds)
    assert list(got) == list(wanted)
    half = "fp16" in name
    for key, array in wanted.items():
        assert got[key].shape == array.shape
        exact, close = array.astype(np.float64), got[key].astype(np.float64)
        assert np.linalg.norm(close - exact) <= (1e-3 if half else 1e-4) * np.linalg.norm(exact)
    layers, frozen = find_layers(model)
    assert (len(layers), len(frozen)) == LAYERS[name]
    names = {
        value.name for node in model.graph for value in (*node.inputs, *node.outputs) if value is not None
    }
    for layer in layers:
        assert {v for use in layer.uses for v in (use.x, use.y)} <= names
        weight = model.graph.initializers[layer.name].const_value.numpy()
        w_GOI = layer.layout.to_matrix(weight)
        np.testing.assert_allclose(layer.layout.to_tensor(w_GOI), weight, rtol=1e-12)


@pytest.mark.parametrize("name", ["caffe2_squeezenet", "unet_transpose", "mnasnet1_0", "clip_vision_tiny"])
def test_macs_agree_with_the_index(outside_data, zoo, name):
    folder = outside_data / "zoo" / "skeletons"
    index = {entry["name"]: entry for entry in json.loads((folder / "index.json").read_text())}
    proto = zoo.load(folder / f"{name}.onnx")
    shapes = zoo.input_shapes(proto, 2)
    for value in proto.graph.input:
        for dim, size in zip(value.type.tensor_type.shape.dim, shapes.get(value.name, ()), strict=False):
            dim.dim_value = size
    model = canonicalize(from_proto(proto))
    counted = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
    kinds = {node.name: node.op_type for node in model.graph}
    assert sum(n for node, n in macs_per_node(model).items() if kinds[node] in counted) == index[name]["macs"]
