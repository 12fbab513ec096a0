"""What a rule of differentiation may say, and how its mistakes are named."""

from __future__ import annotations

from dataclasses import replace

import pytest

from obs_onnx.passes import ops
from obs_onnx.passes.errors import GradientError


def test_an_input_that_a_rule_forgets_is_named(gradient_of, monkeypatch):
    lazy = replace(ops.TABLE["Mul"], vjp=lambda v: v.give(0, v.mul(v.gy(), v.x(1))))
    monkeypatch.setitem(ops.TABLE, "Mul", lazy)
    text = "g (float x, float u) => (float loss) { [product] loss = Mul(x, u) }"
    with pytest.raises(GradientError, match=r"'product'.*input 1 \('u'\)"):
        gradient_of(text, {}, ["x", "u"])


def test_a_rule_that_gives_a_wrong_shape_is_named(gradient_of, monkeypatch):
    wrong = replace(ops.TABLE["Add"], vjp=lambda v: v.give(0, v.gy()))
    monkeypatch.setitem(ops.TABLE, "Add", wrong)
    text = """g (float[3] x, float[2, 3] u) => (float loss) {
        [sum] a = Add(x, u)  loss = ReduceSum <keepdims = 0> (a)
    }"""
    with pytest.raises(GradientError, match=r"'sum'.*shape \(2, 3\)"):
        gradient_of(text, {}, ["x"])
