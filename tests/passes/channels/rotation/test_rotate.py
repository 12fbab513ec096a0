"""A rotated model gives the same."""

from __future__ import annotations

from collections.abc import Callable

import nets
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from channel_graphs import node
from float64 import double, evaluator
from rotations import N, matrix, rms, stream

from obs_onnx.passes.canonical.own_constants import prepare
from obs_onnx.passes.channels.coupling import Coupling, couple
from obs_onnx.passes.channels.rotation.rotatable import rotatable
from obs_onnx.passes.channels.rotation.rotate import array_of, blocks, rotate
from obs_onnx.passes.channels.rotation.scan import Rotatable, Stays
from obs_onnx.passes.graph.set_weights import SetWeights


def turned(coupling: Coupling, found: Rotatable) -> ir.Model:
    """The model with a group rotated at random."""
    n = found.group.n
    matrices = {
        block: matrix(n, found.keeps_ones, seed) for seed, block in enumerate(blocks(coupling, found))
    }
    arrays = {site.initializer: array_of(coupling, site.initializer) for site in found.sites}
    changed = rotate(coupling, found, matrices, arrays)
    return SetWeights(changed)(coupling.model.clone()).model


FORMS: dict[str, tuple[list[onnx.NodeProto], int]] = {
    "scaled": ([node("Mul", "h s", "z")], 20),
    "rms": ([*rms("h", "n"), node("Mul", "n s", "z")], 20),
    "rms shifted": ([*rms("h", "n"), node("Mul", "n s", "k"), node("Add", "k t", "z")], 20),
    "RMSNormalization": ([node("RMSNormalization", "h s", "z", axis=-1)], 23),
    "LayerNormalization": ([node("LayerNormalization", "h s t", "z", axis=-1)], 20),
    "added to all": ([node("Add", "h c", "z")], 20),
    "inner layer": ([node("MatMul", "h u", "k"), node("Add", "h k", "z")], 20),
    "two norms": (
        [
            node("LayerNormalization", "h s t", "n", axis=-1), node("MatMul", "n u", "k"),
            node("Add", "h k", "r"), node("LayerNormalization", "r s t", "z", axis=-1),
        ], 20,
    ),
    "moved": (
        [node("Transpose", "h", "k", perm=[0, 2, 1]), node("Transpose", "k", "z", perm=[0, 2, 1])], 20,
    ),
    "lengths": ([node("LpNormalization", "h", "z", axis=-1, p=2)], 20),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_equal_in_double_precision(form: str) -> None:
    nodes, opset = FORMS[form]
    proto = double(stream(*nodes, opset=opset))
    coupling = couple(prepare(ir.from_proto(proto)))
    group = next(group for group in coupling.groups if group.n == N)
    model = turned(coupling, rotatable(coupling, group))
    x = np.random.default_rng(0).standard_normal((2, 5, 4))
    expected, found = (evaluator(one).run(None, {"x": x})[0] for one in (proto, ir.to_proto(model)))
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)
    weight = array_of(coupling, "w")
    assert not np.allclose(model.graph.initializers["w"].const_value.numpy(), weight)


@pytest.mark.parametrize("op_type", ["SkipLayerNormalization", "SkipSimplifiedLayerNormalization"])
def test_equal_as_fused_operators_give_it(op_type: str) -> None:
    shift = " t" if op_type == "SkipLayerNormalization" else ""
    nodes = [
        node("MatMul", "h u", "k"),
        onnx.helper.make_node(
            op_type, f"h k s{shift} b2".split(), ["n", "", "", "r"], "skip", domain="com.microsoft"
        ),
        node("Add", "n q", "o"),
        node("MatMul", "o u2", "g"),
        node("Add", "r g", "z"),
    ]
    rng = np.random.default_rng(1)
    more = {"b2": rng.standard_normal(N), "q": rng.standard_normal(N), "u2": rng.standard_normal((N, N))}
    proto = stream(*nodes, **more)
    coupling = couple(prepare(ir.from_proto(proto)))
    group = next(group for group in coupling.groups if group.n == N)
    model = turned(coupling, rotatable(coupling, group))
    x = np.random.default_rng(0).standard_normal((2, 5, 4)).astype(np.float32)
    runs = [ort.InferenceSession(one.SerializeToString()) for one in (proto, ir.to_proto(model))]
    expected, found = (one.run(None, {"x": x})[0] for one in runs)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("net", "streams"), [(nets.transformer, 2)])
def test_streams_of_whole_networks(net: Callable[[], onnx.ModelProto], streams: int) -> None:
    proto, rotated = net(), 0
    coupling = couple(prepare(ir.from_proto(proto)))
    rng, feed = np.random.default_rng(0), {}
    for value in proto.graph.input:
        shape = [d.dim_value or 2 for d in value.type.tensor_type.shape.dim]
        feed[value.name] = rng.standard_normal(shape).astype(np.float32)
    expected = ort.InferenceSession(proto.SerializeToString()).run(None, feed)
    for group in coupling.groups:
        try:
            model = turned(coupling, rotatable(coupling, group))
        except Stays:
            continue
        rotated += 1
        found = ort.InferenceSession(ir.to_proto(model).SerializeToString()).run(None, feed)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    assert rotated >= streams
