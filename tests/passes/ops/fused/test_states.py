"""Operators with a state: channels that they pass on, and removal against silence."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from channel_graphs import found, node, normal
from channel_graphs import model as plain
from channel_helpers import random_keep, run
from onnx import helper
from onnx.reference import ReferenceEvaluator

from obs_onnx.passes.channels.coupling import Coupling
from obs_onnx.passes.channels.remove_channels import RemoveChannels
from obs_onnx.passes.channels.silence import silence
from obs_onnx.passes.costs.macs import count_macs
from obs_onnx.passes.ops import lookup
from obs_onnx.passes.shapes.complete_shapes import CompleteShapes

X = normal(2, 5, 4)


def evaluated(model: ir.Model, x: np.ndarray) -> np.ndarray:
    (y,) = ReferenceEvaluator(ir.to_proto(model)).run(None, {"x": x})
    return y


def removed(proto: onnx.ModelProto, compute=run) -> Coupling:
    coupling = found(proto)
    for seed in range(5):
        keep = random_keep(coupling, seed)
        small = coupling.model.clone()
        RemoveChannels(keep).call(small)
        np.testing.assert_allclose(compute(small, X), compute(silence(coupling.model, keep), X), 1e-4, 1e-4)
    return coupling


def counts(coupling: Coupling) -> list[int]:
    return sorted(group.n for group in coupling.groups)


def linear(domain: str, heads: int, shared: int, by_width: bool, rule: str = "gated_delta"):
    keys, values = 4, 6
    weights = {
        "wq": normal(4, heads * keys),
        "wk": normal(4, shared * keys) / 4,
        "wv": normal(4, shared * values),
        "wd": -np.abs(normal(4, shared * (keys if by_width else 1))) / 9,
        "wb": normal(4, shared),
        "wo": normal(heads * values, 3),
    }
    nodes = [node("MatMul", f"x w{letter}", letter) for letter in "qkvdb"]
    rates = {"linear": "", "gated": "d", "delta": " b", "gated_delta": "d b"}[rule].split(" ")
    names = ["q", "k", "v", "", *rates]
    nodes = [one for one in nodes if one.output[0] in names]
    options = {"q_num_heads": heads, "kv_num_heads": shared, "update_rule": rule}
    nodes += [
        helper.make_node("LinearAttention", names, ["a", "state"], "attention", domain=domain, **options),
        node("MatMul", "a wo", "y"),
    ]
    used = {name for one in nodes for name in one.input}
    proto = plain(nodes, {k: v for k, v in weights.items() if k in used}, ("N", 5, 4), opset=27)
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return proto


@pytest.mark.parametrize("rule", ["linear", "gated", "delta", "gated_delta"])
@pytest.mark.parametrize(("heads", "by_width"), [(2, True), (4, False)])
def test_linear_attention(heads: int, by_width: bool, rule: str) -> None:
    coupling = removed(linear("com.microsoft", heads, 2, by_width, rule))
    expected = [2, 2, 4, 6] if heads == 4 else [2, 4, 6]
    assert counts(coupling) == expected


def test_linear_attention_of_the_default_domain() -> None:
    coupling = removed(linear("", 2, 2, False), evaluated)
    assert counts(coupling) == [2, 4, 6]


def test_heads_that_share_queries_stay() -> None:
    coupling = found(linear("com.microsoft", 2, 4, False))
    assert counts(coupling) == []


def test_work_of_linear_attention() -> None:
    model = found(linear("com.microsoft", 2, 2, False, "linear")).model
    CompleteShapes().call(model)
    assert count_macs(model) == 5 * (4 * (8 + 8 + 12) + 12 * 3 + 2 * 8 * 12 // 2)


def convolution(domain: str, **attributes: object) -> onnx.ModelProto:
    weights = {"w": normal(4, 6), "c": normal(6, 1, 4), "b": normal(6), "v": normal(6, 3)}
    nodes = [
        node("MatMul", "x w", "h"),
        node("Transpose", "h", "t", perm=[0, 2, 1]),
        helper.make_node(
            "CausalConvWithState", ["t", "c", "b"], ["u", "s"], "c", domain=domain, **attributes
        ),
        node("Transpose", "u", "r", perm=[0, 2, 1]),
        node("MatMul", "r v", "y"),
    ]
    proto = plain(nodes, weights, ("N", 5, 4), opset=27)
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return proto


@pytest.mark.parametrize(("domain", "compute"), [("com.microsoft", run), ("", evaluated)])
def test_causal_convolution(domain: str, compute) -> None:
    assert counts(removed(convolution(domain, activation="silu"), compute)) == [6]


def test_channels_in_another_place_stay() -> None:
    assert counts(found(convolution("com.microsoft", channels_last=1))) == []


def test_a_cache_passes_heads_and_widths_on() -> None:
    weights = {
        "w": normal(4, 6),
        "cache": np.zeros((1, 9, 6), np.float32),
        "v": normal(6, 3),
    }
    nodes = [
        node("MatMul", "x w", "h"),
        node("TensorScatter", "cache h", "c", axis=1),
        node("MatMul", "c v", "y"),
    ]
    coupling = found(plain(nodes, weights, (1, 5, 4), opset=24))
    assert counts(coupling) == [6]
    keep = random_keep(coupling, 0)
    small = coupling.model.clone()
    RemoveChannels(keep).call(small)
    np.testing.assert_allclose(
        evaluated(small, X[:1]), evaluated(silence(coupling.model, keep), X[:1]), 1e-4, 1e-4
    )


def delta(keys_heads: int, heads: int, lead: tuple[int, ...], **attributes):
    """Projections of the input in front of GatedDeltaNet, whose state is a constant."""
    keys, values = 4, 6
    columns = {"q": keys_heads * keys, "k": keys_heads * keys, "v": heads * values, "d": heads, "b": heads}
    weights = {f"w{name}": normal(4, count) for name, count in columns.items()}
    constants = {
        "by_keys": np.array([*lead, keys_heads, keys]),
        "by_values": np.array([*lead, heads, values]),
        "by_heads": np.array([*lead, heads]),
        "back": np.array([2, 5, -1]),
        "state": normal(2, heads, values, keys),
    }
    nodes = [
        *(node("MatMul", f"x w{name}", name) for name in columns),
        node("Tanh", "k", "k1"),
        node("Abs", "d", "d1"),
        node("Neg", "d1", "d2"),
        node("Sigmoid", "b", "b1"),
        node("Reshape", "q by_keys", "q4"),
        node("Reshape", "k1 by_keys", "k4"),
        node("Reshape", "v by_values", "v4"),
        node("Reshape", "d2 by_heads", "d4"),
        node("Reshape", "b1 by_heads", "b4"),
        helper.make_node(
            "GatedDeltaNet",
            ["q4", "k4", "v4", "", "d4", "b4", "state"],
            ["z"],
            "op",
            domain="com.microsoft",
            **attributes,
        ),
        node("Reshape", "z back", "flat"),
        node("MatMul", "flat o", "y"),
    ]
    weights |= {"o": normal(heads * values, 3), **constants}
    proto = plain(nodes, weights, (2, 5, 4))
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return proto


@pytest.mark.parametrize("lead", [(2, 5), (10,)])
@pytest.mark.parametrize(
    ("heads", "attributes", "groups"),
    [
        (2, {}, [2, 4, 6]),
        (4, {}, [2, 2, 4, 6]),
        (4, {"qk_l2_norm": 1}, [2, 2, 6]),
        (2, {"scale": 0.3}, [2, 4, 6]),
    ],
)
def test_a_gated_delta_net(lead, heads: int, attributes, groups: list[int]) -> None:
    """Heads of keys, those of values for each of them, and both widths unless a norm mixes one."""
    assert counts(removed(delta(2, heads, lead, **attributes))) == groups


def test_packed_heads_of_a_delta_net_stay() -> None:
    proto = delta(2, 2, (10,))
    one = next(one for one in proto.graph.node if one.op_type == "GatedDeltaNet")
    one.input[1] = one.input[2] = ""
    reasons = [frozen.reason for frozen in found(proto).frozen if frozen.node == "op"]
    assert reasons
    assert "packed" in reasons[0]


def test_work_of_a_delta_net() -> None:
    model = ir.from_proto(delta(2, 4, (2, 5)))
    one = next(one for one in model.graph if one.op_type == "GatedDeltaNet")
    CompleteShapes().call(model)
    assert lookup(one).macs(one) == 2 * 2 * 5 * 4 * 6 * 4
