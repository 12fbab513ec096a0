"""Operators that are differentiated as what they stand for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from obs_onnx.passes import ops
from obs_onnx.passes.errors import GradientError
from obs_onnx.passes.traits.composite import composite

TEXT = """g (float[3] x, float[3] u) => (float loss) {
    [odd] a = Mod <fmod = 1> (x, u)  s = Mul(a, x)  loss = ReduceSum <keepdims = 0> (s)
}"""
X, U = np.array([1, 2, -3], np.float32), np.array([5, 7, 2], np.float32)


def test_the_chain_rule_goes_through_what_is_written(gradient_of, monkeypatch) -> None:
    """As if the operator were x^2 u, with a use of x behind the node as well."""
    rule = composite(lambda v, inputs: [v.mul(v.mul(inputs[0], inputs[0]), inputs[1])])
    monkeypatch.setitem(ops.TABLE, "Mod", replace(ops.TABLE["Mod"], vjp=rule))
    found = gradient_of(TEXT, {}, ["x", "u"], {"x": X, "u": U})
    a = np.fmod(X, U)
    np.testing.assert_allclose(found["x.grad"], a + X * 2 * X * U, rtol=1e-6)
    np.testing.assert_allclose(found["u.grad"], X * X * X, rtol=1e-6)


def test_an_input_that_nothing_flows_into_is_stopped(gradient_of, monkeypatch) -> None:
    rule = composite(lambda v, inputs: [v.op("Exp", inputs[1])])
    monkeypatch.setitem(ops.TABLE, "Mod", replace(ops.TABLE["Mod"], vjp=rule))
    found = gradient_of(TEXT, {}, ["x", "u"], {"x": X, "u": U})
    np.testing.assert_allclose(found["x.grad"], np.fmod(X, U), rtol=1e-6)
    np.testing.assert_allclose(found["u.grad"], X * np.exp(U), rtol=1e-6)


@pytest.mark.parametrize("outputs", [[], [None]])
def test_an_output_that_is_not_written_out_is_named(gradient_of, monkeypatch, outputs: list) -> None:
    rule = composite(lambda v, inputs: outputs)
    monkeypatch.setitem(ops.TABLE, "Mod", replace(ops.TABLE["Mod"], vjp=rule))
    with pytest.raises(GradientError, match=r"'odd' \(Mod\): its output 0 is used"):
        gradient_of(TEXT, {}, ["x"], {"x": X, "u": U})
