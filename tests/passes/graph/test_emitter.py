"""New nodes, typed at once, whatever the opset."""

from __future__ import annotations

import numpy as np
import pytest

from obs_onnx.passes.errors import GradientError


@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize("shape", [(3,), (1,), (4, 3), (1, 3), (4, 1), (2, 1, 3)])
def test_broadcasts_that_only_the_run_knows_are_undone(gradient_of, rng, shape, opset):
    x, u = rng.standard_normal((4, 3)).astype(np.float32), rng.standard_normal(shape).astype(np.float32)
    sizes = ", ".join(f"k{i}" for i in range(len(shape)))
    text = f"""g (float[N, M] x, float[{sizes}] u) => (float loss) {{
        a = Mul(x, u)  loss = ReduceSum <keepdims = 0> (a)
    }}"""
    found = gradient_of(text, {}, ["x", "u"], {"x": x, "u": u}, opset)
    full = np.broadcast_shapes(x.shape, shape)
    expected = np.broadcast_to(x, full)
    axes = tuple(i for i, n in enumerate((1,) * (len(full) - len(shape)) + shape) if n == 1)
    np.testing.assert_allclose(found["u.grad"], expected.sum(axes, keepdims=True).reshape(shape), rtol=1e-5)
    assert found["x.grad"].shape == (4, 3)


def test_unknown_broadcast_is_an_error_in_old_opsets(gradient_of):
    text = "g (float[N] x, float[M] u) => (float loss) { a = Mul(x, u) loss = ReduceSum <keepdims = 0> (a) }"
    with pytest.raises(GradientError, match="opset 13"):
        gradient_of(text, {}, ["u"], opset=11)
