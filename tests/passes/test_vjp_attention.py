"""Derivatives of fused attention; those of onnxruntime's own operators against its kernels."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from conftest import run_proto
from derivatives import check, operator

from obs_onnx.passes.canonical import canonicalize
from obs_onnx.passes.gradient import Gradient

rng = np.random.default_rng(11)


def normal(*shape):
    return rng.standard_normal(shape)


@pytest.mark.parametrize("causal", [0, 1])
def test_heads_apart(causal):
    q, k, values = normal(2, 4, 3, 2), normal(2, 2, 3, 2), normal(2, 2, 3, 5)
    check("Attention", [q, k, values], (0, 1, 2), opset=23, is_causal=causal)


def test_heads_together_and_mask():
    q, k, values = normal(2, 3, 4), normal(2, 5, 4), normal(2, 5, 6)
    check(
        "Attention",
        [q, k, values, normal(3, 5)],
        (0, 1, 2, 3),
        opset=23,
        q_num_heads=2,
        kv_num_heads=2,
        scale=0.3,
    )
    seen = np.array([[True, False, True, True, False]])
    check("Attention", [q, k, values, seen], (0, 1, 2), opset=23, q_num_heads=2, kv_num_heads=2)


MICROSOFT = {
    "MultiHeadAttention": [normal(2, 3, 4), normal(2, 3, 4), normal(2, 3, 4), normal(12)],
    "Attention": [normal(2, 3, 5), normal(5, 12), normal(12)],
}


@pytest.mark.parametrize("op_type", MICROSOFT)
@pytest.mark.parametrize("unidirectional", [0, 1])
def test_gradient_on_onnxruntime(op_type, unidirectional):
    inputs = MICROSOFT[op_type]
    wrt = list(range(len(inputs)))
    options = {
        "domain": "com.microsoft",
        "num_heads": 2,
        "unidirectional": unidirectional,
        "kind": np.float32,
    }
    proto = operator(op_type, inputs, wrt, weights={"y0": rng.uniform(0.5, 1.5, (2, 3, 4))}, **options)
    model = canonicalize(ir.from_proto(proto))
    Gradient("loss", [f"x{i}" for i in wrt]).call(model)
    feeds = {f"x{i}": inputs[i].astype(np.float32) for i in wrt}
    found = run_proto(ir.to_proto(model), feeds)
    for i in wrt:
        v = rng.standard_normal(inputs[i].shape).astype(np.float32)
        moved = [run_proto(proto, {**feeds, f"x{i}": feeds[f"x{i}"] + s * v})["loss"] for s in (1e-2, -1e-2)]
        difference = (float(moved[0]) - float(moved[1])) / 2e-2
        assert float(np.vdot(found[f"x{i}.grad"], v)) == pytest.approx(difference, rel=5e-3, abs=1e-2)
