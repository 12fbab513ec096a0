"""Derivatives of normalizations and of the softmax family against finite differences."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from derivatives import check, check_model

rng = np.random.default_rng(7)


def normal(*shape):
    return rng.standard_normal(shape)


@pytest.mark.parametrize("symbolic", [False, True])
@pytest.mark.parametrize("axis", [-1, 1, -2])
def test_layer(axis, symbolic):
    shape = (3, 4, 5)[axis:]
    check(
        "LayerNormalization",
        [normal(3, 4, 5), normal(*shape), normal(*shape)],
        (0, 1, 2),
        axis=axis,
        symbolic=symbolic,
    )


def test_layer_without_shift_and_with_a_broadcast_scale():
    check("LayerNormalization", [normal(3, 4, 5), normal(5)], (0, 1), axis=-2, epsilon=0.1)


def test_rms():
    check("RMSNormalization", [normal(3, 4, 5), normal(5)], (0, 1), opset=23)


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 3, 2, 3)])
def test_instance(shape):
    check("InstanceNormalization", [normal(*shape), normal(3), normal(3)], (0, 1, 2))


@pytest.mark.parametrize(("opset", "parameters"), [(18, 2), (21, 4)])
def test_group(opset, parameters):
    x, scale, shift = normal(2, 4, 3), normal(parameters), normal(parameters)
    check("GroupNormalization", [x, scale, shift], (0, 1, 2), opset=opset, num_groups=2)


def test_batch():
    x, variance = normal(2, 3, 2, 2), rng.uniform(0.5, 1.5, 3)
    check("BatchNormalization", [x, normal(3), normal(3), normal(3), variance], (0, 1, 2, 3, 4), epsilon=0.01)


def test_mean_variance():
    check("MeanVarianceNormalization", [normal(2, 3, 2, 2)], axes=[0, 2, 3], kind=np.float32, opset=13)
    check("MeanVarianceNormalization", [normal(2, 3, 4)], axes=[2], kind=np.float32, opset=13)


@pytest.mark.parametrize("p", [1, 2])
def test_norm(p):
    check("LpNormalization", [normal(3, 4)], axis=0, p=p)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_local_response(size):
    check("LRN", [normal(2, 4, 2, 2)], size=size, alpha=0.3, beta=0.6, bias=1.5)


@pytest.mark.parametrize("op_type", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize(("opset", "axis"), [(13, -1), (13, 1), (13, 0), (11, 1), (11, 2), (11, 0)])
def test_softmax(op_type, opset, axis):
    check(op_type, [normal(2, 3, 2)], axis=axis, opset=opset)


def test_skip_layer():
    x, skip = normal(2, 3, 4), normal(2, 3, 4)
    inputs = [x, skip, normal(4), normal(4), normal(4)]
    outputs = ["y0", "", "", "y3"]
    options = {"domain": "com.microsoft", "epsilon": 1e-5}
    check("SkipLayerNormalization", inputs, (0, 1, 2, 3, 4), outputs=outputs, **options)
    check("SkipLayerNormalization", inputs[:3], (0, 1, 2), **options)


def test_rows_of_a_softmax_that_are_left_out_behind_it():
    mask = np.zeros((3, 4))
    mask[1], mask[2, 1:] = -np.inf, -np.inf
    left_out = np.isneginf(mask).all(1, keepdims=True)
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 18]>
        g (double[3,4] x) => (double loss) {
            scores = Add(x, mask)  share = Softmax <axis = 1> (scores)  safe = Where(left_out, zero, share)
            square = Mul(safe, safe)  weighed = Mul(square, r)  loss = ReduceSum <keepdims = 0> (weighed)
        }"""
    )
    held = {"mask": mask, "left_out": left_out, "zero": np.zeros(()), "r": rng.uniform(0.5, 1.5, (3, 4))}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(a, n) for n, a in held.items())
    with np.errstate(invalid="ignore"):
        check_model(model, {"x": rng.standard_normal((3, 4))}, ["x"])
