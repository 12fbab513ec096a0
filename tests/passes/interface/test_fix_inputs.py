"""Inputs that become constants."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from nets import run_proto

from obs_onnx.passes.canonical.canonicalize import plain
from obs_onnx.passes.interface.fix_inputs import FixInputs
from obs_onnx.passes.layers.find_layers import find_layers

RNG = np.random.default_rng(0)
W = {
    "fast": RNG.standard_normal((4, 6)).astype(np.float32),
    "slow": RNG.standard_normal((4, 6)).astype(np.float32),
}
BRANCHES = """
    is_fast = Equal(rate, limit)
    y = If <then_branch = a () => (float[N,6] ya) { m = MatMul(x, fast)  ya = Relu(m) },
            else_branch = b () => (float[N,6] yb) { m = MatMul(x, slow)  yb = Neg(m) }> (is_fast)
"""


def fixed(proto: onnx.ModelProto, **arrays: object) -> onnx.ModelProto:
    model = FixInputs({name: np.asarray(array) for name, array in arrays.items()})(
        plain(ir.from_proto(proto))
    ).model
    again = ir.to_proto(model)
    onnx.checker.check_model(again, full_check=True)
    return again


def equal(proto: onnx.ModelProto, again: onnx.ModelProto, x: np.ndarray, **arrays: object) -> None:
    expected = run_proto(proto, {"x": x, **{name: np.asarray(array) for name, array in arrays.items()}})
    for name, y in run_proto(again, {"x": x}).items():
        np.testing.assert_array_equal(y, expected[name])


@pytest.mark.parametrize("rate", [16000, 8000])
def test_an_if_gives_way_to_its_branch(make_proto, rate: int) -> None:
    text = f"g (float[N,4] x, int64 rate) => (float[N,6] y) {{ {BRANCHES} }}"
    proto = make_proto(text, {**W, "limit": np.array(16000)})
    again = fixed(proto, rate=np.int64(rate))
    assert [value.name for value in again.graph.input] == ["x"]
    assert [node.op_type for node in again.graph.node][:2] == ["MatMul", "Relu" if rate == 16000 else "Neg"]
    assert [tensor.name for tensor in again.graph.initializer] == ["fast" if rate == 16000 else "slow"]
    equal(proto, again, RNG.standard_normal((3, 4)).astype(np.float32), rate=np.int64(rate))
    assert len(find_layers(plain(ir.from_proto(again)))[0]) == 1


def test_ifs_in_ifs_and_bodies_with_constants_of_one_name(make_proto) -> None:
    text = """g (float[N,4] x, int64 k) => (float[N,4] z) {
        c = Less(k, ten)  d = Greater(k, ten)
        y = If <then_branch = a () => (float[N,4] ya) {
                w = Constant <value_float = 2.0> ()  m = Mul(x, w)
                ya = If <then_branch = aa () => (float[N,4] p) { p = Neg(m) },
                         else_branch = ab () => (float[N,4] q) { q = Exp(m) }> (d) },
            else_branch = b () => (float[N,4] yb) { yb = Identity(x) }> (c)
        z = If <then_branch = e () => (float[N,4] ze) {
                w = Constant <value_float = 3.0> ()  ze = Mul(y, w) },
            else_branch = f () => (float[N,4] zf) {
                w = Constant <value_float = 5.0> ()  zf = Mul(y, w) }> (d) }"""
    proto = make_proto(text, {"ten": np.array(10)})
    for k in (3, 30):
        again = fixed(proto, k=np.int64(k))
        assert not any(node.op_type == "If" for node in again.graph.node)
        equal(proto, again, RNG.standard_normal((3, 4)).astype(np.float32), k=np.int64(k))


def test_what_follows_from_the_data_as_well_stays(make_proto) -> None:
    text = """g (float[N,4] x, float[4] scale, bool[N,4] keep) => (float[N,4] y, float[4] s) {
        s = Exp(scale)  t = Neg(s)  n = RandomNormalLike(t)  u = Mul(x, t)  y = Where(keep, u, x) }"""
    scale = np.array([1, 2, 3, 4], np.float32)
    again = fixed(make_proto(text), scale=scale)
    assert [value.name for value in again.graph.input] == ["x", "keep"]
    assert {node.op_type for node in again.graph.node} == {"Exp", "Neg", "Mul", "Where"}  # s is an output
    feed = {"x": np.ones((2, 4), np.float32), "keep": np.ones((2, 4), bool)}
    expected = run_proto(make_proto(text), {**feed, "scale": scale})
    for name, y in run_proto(again, feed).items():
        np.testing.assert_allclose(y, expected[name], 1e-6)
