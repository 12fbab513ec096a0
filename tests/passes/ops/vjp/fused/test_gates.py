"""Derivatives of fused gates, rotations, norms and short convolutions, against onnxruntime's kernels."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from derivatives import against_differences, first_of
from formulas import evaluated
from onnx import numpy_helper
from onnx.reference.op_run import OpRun

from obs_onnx.passes.autodiff.gradient import Gradient
from obs_onnx.passes.canonical.canonicalize import canonicalize

rng = np.random.default_rng(3)


def normal(*shape):
    return rng.standard_normal(shape)


PLACES = rng.integers(0, 9, (3, 2, 5))
ANGLES = [np.cos(normal(9, 6)), np.sin(normal(9, 6))]
SECTIONS = {"mrope_section": [2, 2, 2]}

CASES = {
    "gated norm": ("GatedRMSNorm", [normal(2, 3, 8), normal(4), normal(2, 3, 8)], (0, 1, 2), (2, 3, 8), {}),
    "norm under a sigmoid": (
        "GatedRMSNorm",
        [normal(2, 3, 8), normal(8), normal(2, 3, 8)],
        (0, 1, 2),
        (2, 3, 8),
        {"activation": "sigmoid", "epsilon": 0.1},
    ),
    "rotated in sections": (
        "MRotaryEmbedding",
        [normal(2, 5, 24), PLACES, *ANGLES],
        (0,),
        (2, 5, 24),
        {**SECTIONS, "num_heads": 2},
    ),
    "rotated in turn": (
        "MRotaryEmbedding",
        [normal(2, 2, 5, 12), PLACES, *ANGLES],
        (0,),
        (2, 2, 5, 12),
        {**SECTIONS, "mrope_layout": 1},
    ),
    "convolution": (
        "CausalConvWithState",
        [normal(2, 4, 5), normal(4, 1, 3), normal(4)],
        (0, 1, 2),
        (2, 4, 5),
        {"activation": "silu"},
    ),
    "convolution behind a state": (
        "CausalConvWithState",
        [normal(2, 4, 5), normal(4, 1, 3), None, normal(2, 4, 4)],
        (0, 1, 3),
        (2, 4, 5),
        {"dilation": 2},
    ),
    "convolution, channels last": (
        "CausalConvWithState",
        [normal(2, 5, 4), normal(4, 1, 3), None, normal(2, 2, 4)],
        (0, 1, 3),
        (2, 5, 4),
        {"channels_last": 1},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_gradient_on_onnxruntime(name):
    op_type, inputs, wrt, shape, attributes = CASES[name]
    outputs = ("y0", "state") if op_type == "CausalConvWithState" else ("y0",)
    against_differences(first_of(op_type, inputs, wrt, shape, outputs, **attributes), inputs, wrt)


def gated(gate, up, alpha=1.0, beta=0.0, limit=0.0):
    """What SwiGLU, which has no kernel for a CPU, is by its schema."""
    if limit > 0:
        gate, up = np.minimum(gate, limit), np.clip(up, -limit, limit)
    return gate / (1 + np.exp(-alpha * gate)) * (up + beta)


class SwiGLU(OpRun):
    op_domain = "com.microsoft"

    def _run(self, gate, up=None, activation_alpha=1.0, activation_beta=0.0, limit=0.0, alpha=None):
        parts = np.split(gate, 2, axis=-1) if up is None else (gate, up)
        return (gated(*parts, activation_alpha, activation_beta, limit).astype(np.float32),)


@pytest.mark.parametrize(
    ("attributes", "halves"),
    [
        ({}, False),
        ({"activation_alpha": 1.5, "activation_beta": 1.0}, True),
        ({"limit": 1.25}, False),
    ],
)
def test_a_gate_and_what_it_gates(attributes, halves):
    """Differences of the formula, in double precision, beside the kinks."""
    gate, up = (x.astype(np.float32).astype(float) for x in (2 * normal(2, 3, 6), 2 * normal(2, 3, 6)))
    inputs = [np.concatenate([gate, up], axis=-1)] if halves else [gate, up]
    wrt = range(len(inputs))
    proto = first_of("SwiGLU", inputs, wrt, (2, 3, 6), kind=np.float32, **attributes)
    weight = numpy_helper.to_array(next(x for x in proto.graph.initializer if x.name == "r_y0"))
    model = canonicalize(ir.from_proto(proto))
    Gradient("loss", [f"x{i}" for i in wrt]).call(model)
    names = [value.name for value in model.graph.outputs]
    feeds = {f"x{i}": x.astype(np.float32) for i, x in enumerate(inputs)}
    found = dict(zip(names, evaluated(model, feeds, SwiGLU), strict=True))
    options = {name.removeprefix("activation_"): value for name, value in attributes.items()}

    def loss(inputs):
        parts = np.split(inputs[0], 2, axis=-1) if halves else inputs
        return float((weight * gated(*parts, **options) ** 2).sum())

    for i, x in enumerate(inputs):
        for place in np.ndindex(x.shape):
            moved = [[y.copy() for y in inputs] for _ in range(2)]
            for one, step in zip(moved, (1e-6, -1e-6), strict=True):
                one[i][place] += step
            slope = (loss(moved[0]) - loss(moved[1])) / 2e-6
            assert found[f"x{i}.grad"][place] == pytest.approx(slope, rel=1e-3, abs=1e-3)
