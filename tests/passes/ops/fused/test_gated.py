"""Fused gates, rotations and norms: the channels that they pass on."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from channel_graphs import found, node, normal
from channel_graphs import model as plain
from channel_helpers import random_keep, run
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from obs_onnx.passes.channels.coupling import Coupling
from obs_onnx.passes.channels.remove_channels import RemoveChannels
from obs_onnx.passes.channels.silence import silence

X = normal(2, 5, 4)


def net(op_type: str, inputs: str, domain: str = "com.microsoft", width: int = 8, **attributes):
    """``g`` and ``u`` are projections of the input, ``v`` projects the result."""
    weights = {
        "wg": normal(4, 8),
        "wu": normal(4, 8),
        "scale": normal(4),
        "bias": normal(8),
        "v": normal(width, 3),
    }
    nodes = [
        node("MatMul", "x wg", "g"),
        node("MatMul", "x wu", "u"),
        helper.make_node(op_type, inputs.split(), ["z"], "op", domain=domain, **attributes),
        node("MatMul", "z v", "y"),
    ]
    names = {*inputs.split(), "x", "v"}
    nodes = [one for one in nodes if one.output[0] in names or one.output[0] in "zy"]
    used = {name for one in nodes for name in one.input}
    proto = plain(nodes, {k: v for k, v in weights.items() if k in used}, ("N", 5, 4), opset=28)
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return proto


def small_and_silenced(coupling: Coupling, seed: int) -> tuple[ir.Model, ir.Model]:
    keep = random_keep(coupling, seed)
    small = coupling.model.clone()
    RemoveChannels(keep).call(small)
    return small, silence(coupling.model, keep)


def counts(coupling: Coupling) -> list[int]:
    return sorted(group.n for group in coupling.groups)


def test_a_gate_of_the_default_domain() -> None:
    coupling = found(net("SwiGLU", "g u", domain=""))
    assert counts(coupling) == [8]
    for seed in range(4):
        small, silenced = (ReferenceEvaluator(ir.to_proto(m)) for m in small_and_silenced(coupling, seed))
        np.testing.assert_allclose(small.run(None, {"x": X})[0], silenced.run(None, {"x": X})[0], 1e-4, 1e-4)


@pytest.mark.parametrize(
    ("op_type", "inputs", "width", "groups"),
    [("SwiGLU", "g u", 8, [8]), ("SwiGLU", "g", 4, [4]), ("BiasSplitGelu", "g bias", 4, [4])],
)
def test_gates_of_runtimes(op_type: str, inputs: str, width: int, groups: list[int]) -> None:
    coupling = found(net(op_type, inputs, width=width))
    assert counts(coupling) == groups
    (group,) = coupling.groups
    small = coupling.model.clone()
    RemoveChannels({group.id: np.arange(group.n) != 1}).call(small)
    before, after = (m.graph.initializers["wg"].const_value.numpy() for m in (coupling.model, small))
    kept = [i for i in range(8) if i % group.n != 1]
    np.testing.assert_array_equal(after, before[:, kept])  # the same element of both halves


def test_whole_heads_go_from_a_gated_norm() -> None:
    coupling = found(net("GatedRMSNorm", "g scale u"))
    assert counts(coupling) == [2]
    for seed in range(4):
        small, silenced = small_and_silenced(coupling, seed)
        np.testing.assert_allclose(run(small, X), run(silenced, X), 1e-4, 1e-4)


def test_a_rotation_passes_heads_on() -> None:
    """Angles come with the model, so that a width could go with them, too, were it not summed with others."""
    shape = numpy_helper.from_array(np.array([0, 0, 3, 4]), "shape")
    nodes = [
        node("MatMul", "x wq", "q"),
        node("MatMul", "x wk", "k"),
        *(node("Reshape", f"{one} shape", f"{one}4") for one in "qk"),
        *(node("Transpose", f"{one}4", f"{one}t", perm=[0, 2, 1, 3]) for one in "qk"),
        *(node("Neg", f"{one}t", f"{one}r") for one in "qk"),
        helper.make_node("GemmaRotaryEmbedding", ["angles", "qt", "qr", "kt", "kr"], ["a", "b"], "rotate",
                         domain="com.microsoft"),
        node("Transpose", "b", "bt", perm=[0, 1, 3, 2]),
        node("MatMul", "a bt", "s"),
        node("ReduceSum", "s axes", "y", keepdims=0),
    ]  # fmt: skip
    weights = {"wq": normal(4, 12), "wk": normal(4, 12), "angles": normal(1, 5, 4), "axes": np.array([1])}
    proto = plain(nodes, weights, ("N", 5, 4))
    proto.graph.initializer.append(shape)
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    assert counts(found(proto)) == [3, 4]
