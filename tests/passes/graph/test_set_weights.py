from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from obs_onnx.passes.graph.set_weights import SetWeights


@pytest.fixture
def model(make_model):
    return make_model(
        "g (float[N,4] x) => (float[N,3] y) { i = Gather(x, k)  y = MatMul(i, w) }",
        {"w": np.ones((4, 3), np.float32), "k": np.array([0, 1])},
    )


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_written_in_the_initializers_own_type(model, dtype):
    weight = model.graph.initializers["w"]
    weight.const_value = ir.tensor(np.ones((4, 3), dtype), name="w")
    new = np.random.default_rng(0).normal(size=(4, 3))
    result = SetWeights({"w": new})(model)
    assert result.modified
    assert weight.const_value.numpy().dtype == dtype
    np.testing.assert_array_equal(weight.const_value.numpy(), new.astype(dtype))
    assert ir.to_proto(model).graph.initializer[0].name == "w"


def test_views_are_written_in_order(model):
    SetWeights({"w": np.arange(12.0).reshape(3, 4).T})(model)
    written = ir.from_proto(ir.to_proto(model)).graph.initializers["w"].const_value.numpy()
    np.testing.assert_array_equal(written, np.arange(12.0).reshape(3, 4).T)


def test_a_clone_leaves_the_original(model):
    copy = model.clone()
    SetWeights({"w": np.zeros((4, 3))})(copy)
    assert model.graph.initializers["w"].const_value.numpy().all()


@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        ({"v": np.zeros(3)}, KeyError, "no initializer 'v'"),
        ({"x": np.zeros(3)}, KeyError, "no initializer 'x'"),
        ({"w": np.zeros((3, 4))}, ValueError, r"shape \(4, 3\)"),
        ({"w": np.full((4, 3), np.nan)}, ValueError, "not finite"),
        ({"k": np.zeros(2)}, ValueError, "INT64"),
    ],
)
def test_errors_change_nothing(model, values, error, words):
    with pytest.raises(error, match=words):
        SetWeights({"w": np.zeros((4, 3)), **values}).call(model)
    assert model.graph.initializers["w"].const_value.numpy().all()


def test_nothing_to_do(model):
    assert not SetWeights({})(model).modified
