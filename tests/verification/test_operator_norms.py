from __future__ import annotations

import math

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from obs_onnx.passes.layers.find_layers import find_layers
from obs_onnx.passes.layers.layer import Layer
from obs_onnx.passes.traits.linear import ConvGeometry, MatmulGeometry
from obs_onnx.verification.operator_norms import frobenius_norm, spectral_norm

ort = pytest.importorskip("onnxruntime")


def one_node(
    op_type: str, x_shape: tuple[int, ...], weight: NDArray[np.float32], **attributes: object
) -> onnx.ModelProto:
    node = helper.make_node(op_type, ["x", "w"], ["y"], name="node", **attributes)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *x_shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def operator_norm(model: onnx.ModelProto, x_shape: tuple[int, ...]) -> float:
    """Largest singular value of the operator's whole matrix, one column per input element."""
    size = math.prod(x_shape)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (columns,) = session.run(None, {"x": np.eye(size, dtype=np.float32).reshape(size, *x_shape)})
    return float(np.linalg.norm(columns.reshape(size, -1).astype(np.float64), 2))


def layer_of(model: onnx.ModelProto, weight: NDArray[np.float32]) -> tuple[NDArray[np.float64], Layer]:
    (layer,), _ = find_layers(ir.from_proto(model))
    return layer.layout.to_matrix(weight), layer


CONVOLUTIONS = [
    ("Conv", (2, 9), (3, 2, 3), {}),
    ("Conv", (2, 9), (3, 2, 4), {"strides": [2], "pads": [1, 2]}),
    ("Conv", (2, 6, 7), (3, 2, 3, 3), {"pads": [1, 1, 1, 1]}),
    ("Conv", (2, 8, 8), (3, 2, 3, 3), {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
    ("Conv", (2, 8, 8), (3, 2, 3, 2), {"strides": [2, 1], "dilations": [1, 2]}),
    ("Conv", (2, 8, 8), (3, 2, 3, 2), {"strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    ("Conv", (2, 9, 9), (3, 2, 3, 3), {"strides": [2, 4], "dilations": [2, 2]}),
    ("Conv", (4, 6, 6), (4, 1, 3, 3), {"group": 4, "pads": [1, 1, 1, 1]}),
    ("Conv", (4, 6, 6), (6, 2, 5, 5), {"group": 2, "pads": [2, 2, 2, 2], "strides": [3, 3]}),
    ("Conv", (3, 5, 5), (4, 3, 1, 1), {"strides": [2, 2]}),
    ("Conv", (2, 4, 4, 4), (2, 2, 2, 3, 2), {}),
    ("ConvTranspose", (2, 5, 5), (2, 3, 3, 3), {}),
    (
        "ConvTranspose",
        (2, 5, 5),
        (2, 3, 3, 3),
        {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]},
    ),
    ("ConvTranspose", (4, 5), (4, 3, 4), {"strides": [2], "group": 2}),
    ("ConvTranspose", (2, 4, 4), (2, 2, 3, 3), {"dilations": [2, 1], "strides": [1, 3]}),
]


@pytest.mark.parametrize(("op_type", "x_shape", "w_shape", "attributes"), CONVOLUTIONS)
@pytest.mark.parametrize("positive", [False, True])
def test_a_convolution_never_stretches_more_than_its_bounds(
    op_type: str,
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    attributes: dict[str, object],
    positive: bool,
) -> None:
    weight = np.random.default_rng(3).normal(size=w_shape).astype(np.float32)
    weight = np.abs(weight) if positive else weight
    model = one_node(op_type, x_shape, weight, **attributes)
    w_GOI, layer = layer_of(model, weight)
    geometry = layer.uses[0].geometry
    exact = operator_norm(model, x_shape)
    spectral, frobenius = spectral_norm(w_GOI, geometry), frobenius_norm(w_GOI, geometry)
    assert exact <= spectral * (1 + 1e-6)
    assert spectral <= frobenius * (1 + 1e-12)


def test_the_spectral_bound_of_a_common_convolution_is_tight() -> None:
    weight = np.random.default_rng(0).normal(size=(3, 2, 3, 3)).astype(np.float32)
    model = one_node("Conv", (2, 20, 20), weight, pads=[1, 1, 1, 1])
    w_GOI, layer = layer_of(model, weight)
    assert spectral_norm(w_GOI, layer.uses[0].geometry) <= 1.1 * operator_norm(model, (2, 20, 20))


def test_constant_kernels_attain_the_bound_on_disjoint_patches() -> None:
    weight = np.ones((1, 1, 2, 2), np.float32)
    model = one_node("Conv", (1, 4, 4), weight, strides=[2, 2])
    w_GOI, layer = layer_of(model, weight)
    geometry = layer.uses[0].geometry
    assert spectral_norm(w_GOI, geometry) == pytest.approx(2.0)
    assert frobenius_norm(w_GOI, geometry) == pytest.approx(2.0)
    assert operator_norm(model, (1, 4, 4)) == pytest.approx(2.0)


def test_products_and_pointwise_convolutions_are_exact() -> None:
    w_GOI = np.random.default_rng(1).normal(size=(3, 4, 5))
    spectral = max(np.linalg.norm(w_OI, 2) for w_OI in w_GOI)
    frobenius = max(np.linalg.norm(w_OI) for w_OI in w_GOI)
    pointwise = ConvGeometry((1, 1), (1, 1), (1, 1), (0, 0, 0, 0), groups=3)
    for geometry in (MatmulGeometry(groups=3), pointwise):
        assert spectral_norm(w_GOI, geometry) == pytest.approx(spectral, rel=1e-12)
        assert frobenius_norm(w_GOI, geometry) == pytest.approx(frobenius, rel=1e-12)


def test_a_large_convolution_falls_back_to_cheaper_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    w_GOI = np.random.default_rng(2).normal(size=(1, 4, 18))
    geometry = ConvGeometry((3, 3), (1, 1), (1, 1), (1, 1, 1, 1))
    tight = spectral_norm(w_GOI, geometry)
    monkeypatch.setattr("obs_onnx.verification.operator_norms.WORK_LIMIT", 0.0)
    assert tight < spectral_norm(w_GOI, geometry) <= 3.0 * np.linalg.norm(w_GOI[0], 2) * (1 + 1e-12)
