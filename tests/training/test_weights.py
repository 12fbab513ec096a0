"""What training starts from, and the zeros that it keeps."""

from __future__ import annotations

import numpy as np
import pytest

from obs_onnx.passes.canonical.canonicalize import canonicalize
from obs_onnx.passes.errors import OptionError
from obs_onnx.training.weights import trainable_arrays, zero_masks

TEXT = """g (float[N, 2] x) => (float[N, 3] y) {
    u = DequantizeLinear(q, s, z)  h = MatMul(x, u)  y = MatMul(h, w)
}"""


@pytest.fixture
def model(make_model):
    w = np.eye(3, dtype=np.float32)
    q = np.array([[3, 0, 5], [7, 3, 3]], np.uint8)
    return canonicalize(
        make_model(TEXT, {"q": q, "s": np.float32(0.5), "z": np.asarray(3, np.uint8), "w": w}, opset=13)
    )


def test_zeros_of_integers_are_at_the_zero_point(model):
    masks = zero_masks(model, ["q", "w"])
    np.testing.assert_array_equal(masks["q"], [[False, True, True], [True, False, False]])
    np.testing.assert_array_equal(masks["w"], np.eye(3, dtype=bool))
    assert list(zero_masks(model, ["w"])) == ["w"]


def test_arrays_are_of_a_type_that_is_trained(model):
    np.testing.assert_array_equal(trainable_arrays(model, ["w"])["w"], np.eye(3))
    with pytest.raises(OptionError, match="no weights to train"):
        trainable_arrays(model, [])
    with pytest.raises(OptionError, match="'q' is of type UINT8: only float32 and float64"):
        trainable_arrays(model, ["q"])
