"""Layers written as products of two give the same, and are one layer again where that is no larger."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from float64 import double, evaluator

from obs_onnx.passes.canonical.own_constants import prepare
from obs_onnx.passes.canonical.plainer.factors import FACTOR, MergeFactors, SplitLayers, pairs
from obs_onnx.passes.canonical.plainer.written_form import written_form
from obs_onnx.passes.channels.coupling import couple
from obs_onnx.passes.channels.remove_channels import RemoveChannels

RNG = np.random.default_rng(0)
GRAPH = """g (float[N,3,6,6] x) => (float[N,8] y) {
    a = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (x, w1, b1)
    b = Relu (a)
    c = Conv <group = 8> (b, w2)
    f = Flatten (c)
    h = MatMul (f, w3)
    y = Add (h, b3)
}"""
SHAPES = {"w1": (8, 3, 4, 4), "b1": (8,), "w2": (8, 1, 1, 1), "w3": (72, 8), "b3": (8,)}


@pytest.fixture
def whole(make_model) -> onnx.ModelProto:
    text = GRAPH
    weights = {name: RNG.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}
    return double(ir.to_proto(make_model(text, weights)))


def outputs(model: ir.Model) -> np.ndarray:
    x = np.random.default_rng(1).standard_normal((3, 3, 6, 6))
    return np.asarray(evaluator(ir.to_proto(model)).run(None, {"x": x})[0])


def split(proto: onnx.ModelProto) -> tuple[ir.Model, ir.Model]:
    model = prepare(ir.from_proto(proto))
    copy = model.clone()
    assert SplitLayers().call(copy).modified
    return model, copy


def test_pairs_give_the_same(whole: onnx.ModelProto) -> None:
    model, copy = split(whole)
    assert [second.op_type for _, second in pairs(copy)] == ["Conv", "MatMul"]  # the grouped one stays
    np.testing.assert_allclose(outputs(copy), outputs(model), rtol=1e-12, atol=1e-12)
    merged = written_form(copy)
    assert not any(FACTOR in node.meta for node in merged.graph)
    assert [node.op_type for node in merged.graph] == [node.op_type for node in model.graph]
    np.testing.assert_allclose(outputs(merged), outputs(model), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("rank", "one"), [(3, False), (6, False), (7, True)])
def test_of_low_rank_where_that_is_smaller(whole: onnx.ModelProto, rank: int, one: bool) -> None:
    """48 inputs and 8 outputs of the convolution: 6 x 56 < 384 <= 7 x 56."""
    _, copy = split(whole)
    _, second = next(iter(pairs(copy)))
    coupling = couple(copy)
    group = next(
        g
        for g in coupling.groups
        if any(s.initializer == second.inputs[1].name and s.axis == 1 for s in g.sites)
    )
    keep = {group.id: np.arange(8) < rank}
    RemoveChannels(keep, coupling).call(copy)
    small = outputs(copy)
    merged = MergeFactors().call(copy).model
    assert len(list(pairs(merged))) == 1 - one
    np.testing.assert_allclose(outputs(merged), small, rtol=1e-12, atol=1e-12)
