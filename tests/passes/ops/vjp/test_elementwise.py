"""Derivatives of elementwise operators against finite differences."""

from __future__ import annotations

import numpy as np
import pytest
from derivatives import check

rng = np.random.default_rng(3)

AROUND_ZERO = np.array([-3.7, -2.2, -1.3, -0.6, -0.2, 0.15, 0.4, 0.8, 1.4, 2.6, 3.9])
POSITIVE = np.array([0.2, 0.5, 0.9, 1.3, 2.1])
INSIDE = np.array([-0.8, -0.3, 0.1, 0.6])
BEYOND_ONE = np.array([1.2, 1.9, 3.0])


def normal(*shape):
    return rng.standard_normal(shape)


@pytest.mark.parametrize(
    ("op_type", "x", "attributes"),
    [
        *(
            (name, AROUND_ZERO, {})
            for name in ["Exp", "Neg", "Abs", "Sin", "Cos", "Atan", "Sinh", "Cosh", "Tanh", "Asinh", "Erf"]
        ),
        *(
            (name, AROUND_ZERO, {})
            for name in ["Sigmoid", "Softsign", "Softplus", "Relu", "Reciprocal", "Identity"]
        ),
        *(
            (name, AROUND_ZERO, {})
            for name in ["HardSigmoid", "HardSwish", "Mish", "Selu", "Elu", "Celu", "LeakyRelu"]
        ),
        *((name, AROUND_ZERO, {}) for name in ["ThresholdedRelu", "Shrink"]),
        *((name, INSIDE, {}) for name in ["Tan", "Asin", "Acos", "Atanh"]),
        *((name, POSITIVE, {}) for name in ["Log", "Sqrt"]),
        ("Acosh", BEYOND_ONE, {}),
        ("Elu", AROUND_ZERO, {"alpha": 0.7}),
        ("Selu", AROUND_ZERO, {"alpha": 1.2, "gamma": 0.8}),
        ("Celu", AROUND_ZERO, {"alpha": 0.5}),
        ("LeakyRelu", AROUND_ZERO, {"alpha": 0.3}),
        ("LeakyRelu", AROUND_ZERO, {"alpha": -0.3}),
        ("ThresholdedRelu", AROUND_ZERO, {"alpha": 0.5}),
        ("HardSigmoid", AROUND_ZERO, {"alpha": 0.4, "beta": 0.3}),
        ("Shrink", AROUND_ZERO, {"lambd": 1.0, "bias": 0.3}),
        ("Gelu", AROUND_ZERO, {"approximate": "tanh"}),
    ],
)
def test_one_input(op_type, x, attributes):
    opset = {"Mish": 18, "Gelu": 20, "HardSwish": 14, "Celu": 12}.get(op_type, 13)
    kind = np.float32 if op_type == "Celu" else np.float64  # all that the operator allows
    check(op_type, [x], opset=opset, kind=kind, **attributes)


def test_gelu():
    check("Gelu", [AROUND_ZERO], opset=20)


@pytest.mark.parametrize("bounds", [(-1.0, 1.0), (None, 1.0), (-1.0, None), (None, None)])
def test_clip_by_constants(bounds):
    check("Clip", [AROUND_ZERO, *(None if b is None else np.array(b) for b in bounds)], opset=11)


def test_clip_by_computed_bounds():
    check("Clip", [AROUND_ZERO, np.array(-1.0), np.array(1.0)], (0, 1, 2))
    check("Clip", [AROUND_ZERO, np.array(1.0), np.array(-1.0)], (0, 1, 2))


def test_prelu():
    check("PRelu", [normal(2, 3, 4), normal(3, 1)], (0, 1))


def test_cast_between_floats():
    check("Cast", [AROUND_ZERO], to=11)


def test_dropout_is_the_identity_when_not_training():
    check("Dropout", [normal(3, 4), np.array(0.5)], opset=13)


@pytest.mark.parametrize("op_type", ["BiasGelu", "FastGelu"])
def test_fused_activations(op_type):
    check(op_type, [normal(2, 5), normal(5)], (0, 1), domain="com.microsoft")
