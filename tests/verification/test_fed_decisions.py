"""Models with the same decisions, and decisions that are others."""

from __future__ import annotations

import nets
import numpy as np
import onnx_ir as ir
import pytest
from layer_runs import RUNTIME

from obs_onnx.passes.canonical.own_constants import prepare
from obs_onnx.passes.channels.coupling import Coupling, couple
from obs_onnx.passes.channels.remove_channels import RemoveChannels
from obs_onnx.passes.channels.silence import silence
from obs_onnx.passes.errors import VerificationError
from obs_onnx.verification.decisions import Forms
from obs_onnx.verification.fed_decisions import Compared, Kept, compare_fed

TENSORS = {"w1": (6, 8), "w2": (8, 4), "w3": (8, 4)}


def opened(make_model, nodes: str, outputs: str, **constants: object) -> tuple[Coupling, dict, ir.Model]:
    rng = np.random.default_rng(0)
    tensors = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in TENSORS.items()}
    text = f"g (float[N,6] x) => ({outputs}) {{ a = MatMul(x, w1)  h = Relu(a)  {nodes} }}"
    coupling = couple(prepare(make_model(text, {**tensors, **constants})))
    keep = {group.id: np.arange(group.n) % 3 > 0 for group in coupling.groups}
    small = coupling.model.clone()
    RemoveChannels(keep).call(small)
    assert len(small.graph.initializers["w2"].const_value.numpy()) < 8
    return coupling, keep, small


def compared(coupling: Coupling, keep: dict, small: ir.Model, *outputs: str, samples: int = 20) -> Compared:
    feed = {"x": nets.data(0, samples, 6)}
    forms = Forms(coupling.model, silence(coupling.model, keep, coupling), small)
    return compare_fed(RUNTIME, forms, Kept(coupling, keep, feed), feed, outputs, 1e-3)


def put(model: ir.Model, name: str, array: np.ndarray) -> None:
    model.graph.initializers[name].const_value = ir.tensor(array, name=name)


CHANNELS = "r = Round(h)  y = MatMul(r, w2)"


def test_a_decision_on_channels_that_go(make_model) -> None:
    coupling, keep, small = opened(make_model, CHANNELS, "float[N,4] y")
    found = compared(coupling, keep, small, "y")
    assert found.differences["y"] < 1e-6
    assert not found.left_out
    put(small, "w1", small.graph.initializers["w1"].const_value.numpy()[:, ::-1].copy())
    with pytest.raises(VerificationError, match=r"differs by .* in what node .*Round.* takes"):
        compared(coupling, keep, small, "y")


@pytest.mark.parametrize("samples", [1, 3, 7])
def test_sizes_other_than_those_the_channels_were_found_with(make_model, samples: int) -> None:
    """An axis of samples times channels."""
    nodes = """p = Reshape(h, line)  r = Round(p)  s = Sub(p, r)  q = Reshape(s, back)  y = MatMul(q, w2)"""
    coupling, keep, small = opened(
        make_model, nodes, "float[N,4] y", line=np.array([-1]), back=np.array([-1, 8])
    )
    found = compared(coupling, keep, small, "y", samples=samples)
    assert found.differences["y"] < 1e-6
    assert not found.left_out


def test_another_decision_on_equal_numbers(make_model) -> None:
    nodes = "f = MatMul(h, w2)  g = Greater(f, t)  d = Cast <to = 1> (g)  e = MatMul(h, w3)  y = Add(d, e)"
    coupling, keep, small = opened(make_model, nodes, "float[N,4] y", t=np.array(0, np.float32))
    assert compared(coupling, keep, small, "y").differences["y"] < 1e-6
    put(small, "t", np.array(0.5, np.float32))
    with pytest.raises(VerificationError, match="decides otherwise in the smaller model on equal numbers"):
        compared(coupling, keep, small, "y")


def test_another_decision_by_an_attribute(make_model) -> None:
    nodes = "f = MatMul(h, w2)  i = ArgMax <axis = 1> (f)"
    coupling, keep, small = opened(make_model, nodes, "int64[N,1] i")
    assert compared(coupling, keep, small, "i").differences == {"i": 0.0}
    next(node for node in small.graph if node.op_type == "ArgMax").attributes.add(ir.AttrInt64("axis", 0))
    with pytest.raises(VerificationError, match=r"has shape|decides otherwise"):
        compared(coupling, keep, small, "i")


def test_a_result_that_cannot_be_fed_is_named(make_model) -> None:
    nodes = """f = MatMul(h, w2)
        q = If <then_branch = t () => (e) { k = Round(f)  e = SequenceConstruct(k, k) },
                else_branch = o () => (p) { p = SequenceConstruct(f, f) }> (yes)
        y = ConcatFromSequence <axis = 1> (q)  r = Round(y)  z = MatMul(h, w3)  u = Sum(r, y)"""
    outputs = "float[N,8] y, float[N,8] u, float[N,4] z"
    coupling, keep, small = opened(make_model, nodes, outputs, yes=np.array(True))
    assert compared(coupling, keep, small, "y", "u").differences == {"y": 0.0, "u": 0.0}
    put(small, "w2", 2 * small.graph.initializers["w2"].const_value.numpy())
    found = compared(coupling, keep, small, "y", "u")
    assert found.left_out.keys() == {"y", "u"}
    assert not found.differences
    assert all("cannot be fed" in reason for reason in found.left_out.values())


def test_a_model_that_does_not_run_with_them(make_model) -> None:
    coupling, keep, small = opened(make_model, CHANNELS, "float[N,4] y")
    put(small, "w2", np.ones((8, 4), np.float32))
    for node in small.graph:
        node.outputs[0].shape = None
    with pytest.raises(VerificationError, match="does not run with the decisions of the dense one"):
        compared(coupling, keep, small, "y")
