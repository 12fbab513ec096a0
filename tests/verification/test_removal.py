"""Smaller models against silenced ones, and smaller models that are wrong."""

from __future__ import annotations

import nets
import numpy as np
import onnx_ir as ir
import pytest
from channel_helpers import random_keep, shape_of

from obs_onnx.passes.canonical.own_constants import prepare
from obs_onnx.passes.channels.coupling import Coupling, couple
from obs_onnx.passes.channels.remove_channels import RemoveChannels
from obs_onnx.passes.errors import VerificationError
from obs_onnx.runtimes import open_runtime
from obs_onnx.verification.removal import check_removal

RUNTIME = open_runtime("onnxruntime", 1)


def removed(proto, seed: int = 0) -> tuple[Coupling, dict[int, np.ndarray], ir.Model]:
    coupling = couple(prepare(ir.from_proto(proto)))
    keep = random_keep(coupling, seed)
    small = coupling.model.clone()
    RemoveChannels(keep).call(small)
    return coupling, keep, small


@pytest.mark.parametrize("name", sorted(nets.NETS))
def test_removal_is_confirmed_for_every_family(name: str) -> None:
    proto = nets.NETS[name]()
    found = check_removal(RUNTIME, *removed(proto), {"x": nets.data(0, 4, *shape_of(proto))})
    assert 0 <= found.largest <= found.tolerance == 1e-3
    assert not found.fed and not found.left_out and not found.random


def test_a_weight_that_is_another_is_found() -> None:
    proto = nets.residual()
    coupling, keep, small = removed(proto)
    value = small.graph.initializers["head.weight"]
    array = value.const_value.numpy().copy()
    array[0, 0] += 1
    value.const_value = ir.tensor(array, name="head.weight")
    with pytest.raises(VerificationError, match="differs by"):
        check_removal(RUNTIME, coupling, keep, small, {"x": nets.data(0, 4, 3, 8, 8)})


def test_channels_other_than_those_that_went_are_found() -> None:
    coupling, keep, small = removed(nets.mlp())
    other = {group: np.roll(mask, 1) for group, mask in keep.items()}
    with pytest.raises(VerificationError, match="differs by"):
        check_removal(RUNTIME, coupling, other, small, {"x": nets.data(0, 4, 12)})


def test_an_output_of_another_shape_is_named() -> None:
    coupling, keep, small = removed(nets.mlp())
    for name in ("fc3.weight", "fc3.bias"):
        value = small.graph.initializers[name]
        array = value.const_value.numpy()[:3]
        value.const_value, value.shape = ir.tensor(array, name=name), ir.Shape(array.shape)
    for node in small.graph:
        node.outputs[0].shape = None
    small.graph.outputs[0].shape = ir.Shape(["batch", 3])
    with pytest.raises(
        VerificationError, match=r"output y has shape \(4, 3\) without the channels, not \(4, 5\)"
    ):
        check_removal(RUNTIME, coupling, keep, small, {"x": nets.data(0, 4, 12)})


DECIDED = """g (float[N,6] x) => (float[N,4] y, float[N,4] rounded, int64[N] best) {
    a = Gemm(x, w1, b1)  h = Relu(a)  y = MatMul(h, w2)
    scaled = Mul(y, large)  rounded = Round(scaled)  best = ArgMax <axis = 1, keepdims = 0> (y)
}"""


def decided(make_proto, large: float):
    rng = np.random.default_rng(0)
    tensors = {
        "w1": rng.standard_normal((6, 8)), "b1": rng.standard_normal(8), "w2": rng.standard_normal((8, 4)),
        "large": np.array(large),
    }  # fmt: skip
    return make_proto(DECIDED, {name: array.astype(np.float32) for name, array in tensors.items()})


def scaled(model: ir.Model, name: str, factor: float | np.ndarray) -> None:
    value = model.graph.initializers[name]
    value.const_value = ir.tensor((value.const_value.numpy() * factor).astype(np.float32), name=name)


def test_decisions_on_equal_numbers_may_turn_out_otherwise(make_proto) -> None:
    """A score at one half rounds to another number when it is off by what rounding errors make."""
    feed = {"x": nets.data(0, 40, 6)}
    coupling, keep, small = removed(decided(make_proto, 1.0))
    y = RUNTIME.session(ir.to_proto(small).SerializeToString()).run(feed)["y"]
    half = 0.4999 / np.sort(y[y > 0])[(y > 0).sum() // 2]
    coupling, keep, small = removed(decided(make_proto, half))
    before, after = small, small.clone()
    scaled(after, "w2", 1 + 5e-4)
    rounded = [
        RUNTIME.session(ir.to_proto(m).SerializeToString()).run(feed)["rounded"] for m in (before, after)
    ]
    assert np.linalg.norm(rounded[0] - rounded[1]) > 1e-2 * np.linalg.norm(rounded[0])
    found = check_removal(RUNTIME, coupling, keep, after, feed)
    assert found.largest <= 1e-3
    assert found.differences.keys() == {"y", "rounded", "best"} and "rounded" in found.fed
    scaled(after, "w2", 1.01)
    with pytest.raises(VerificationError, match="differs by"):
        check_removal(RUNTIME, coupling, keep, after, feed)


HEAD = "a = Gemm(x, w1, b1)  h = Relu(a)  s = MatMul(h, w2)"
DECISIONS = {
    "ArgMax": "best = ArgMax <axis = 1, keepdims = 0> (s)  d = OneHot(best, four, zero_one)",
    "TopK": "v, i = TopK <axis = 1> (s, one)  j = Cast <to = 1> (i)  d = Mul(j, v)",
    "Hardmax": "d = Hardmax <axis = 1> (s)",
    "Greater": "p, q, r, t = Split <axis = 1, num_outputs = 4> (s)  g = Greater(p, q)  d = Cast <to = 1> (g)",
    "NonMaxSuppression": """u = Reshape(s, scores)
        n = NonMaxSuppression(boxes, u, many, iou, floor)  m = Cast <to = 1> (n)  k = ReduceSum(m)  d = Mod <fmod = 1> (k, two)""",
    "Round": "z = Mul(s, large)  k = Round(z)  d = Mod <fmod = 1> (k, two)",
    "Floor": "z = Mul(s, large)  k = Floor(z)  d = Mod <fmod = 1> (k, two)",
    "Cast": "z = Mul(s, large)  k = Cast <to = 7> (z)  i = Cast <to = 1> (k)  d = Mod <fmod = 1> (i, two)",
    "QuantizeLinear": """q = QuantizeLinear(s, step, middle)
        k = DequantizeLinear(q, one_step, middle)  d = Mod <fmod = 1> (k, two)""",
    "DynamicQuantizeLinear": """q, scale, shift = DynamicQuantizeLinear(s)
        k = Cast <to = 1> (q)  d = Mod <fmod = 1> (k, two)""",
    "in a body": """z = Mul(s, large)
        d = If <then_branch = t () => (float[N,4] e) { k = Round(z)  e = Mod <fmod = 1> (k, two) },
                else_branch = f () => (float[N,4] o) { o = Identity(z) }> (yes)""",
    "in a loop": """z = Mul(s, large)
        d = Loop <body = b (int64 i, bool c, float[N,4] v) => (bool go, float[N,4] w)
            { go = Identity(c)  k = Round(v)  w = Mod <fmod = 1> (k, two) }> (one_time, yes, z)""",
    "two after each other": """z = Mul(s, large)  k = Round(z)  p = Mod <fmod = 1> (k, two)
        f = MatMul(p, w3)  g = Round(f)  d = Add(g, f)""",
}


def deciding(make_proto, decision: str):
    """Scores whose first two nearly tie, a decision on them, and something else behind it."""
    rng = np.random.default_rng(0)
    w2 = rng.standard_normal((8, 4))
    w2[:, 1] = w2[:, 0] * (1 + 1e-4)
    numbers = {
        "w1": rng.standard_normal((6, 8)), "b1": rng.standard_normal(8), "w2": w2, "w4": w2[:, ::-1],
        "w3": rng.standard_normal((4, 4)), "zero_one": [0, 1], "large": 1e3, "two": 2, "step": 0.02, "one_step": 1,
        "boxes": rng.uniform(0, 0.1, (1, 640, 4)) + np.arange(640)[:, None] + [0, 0, 1, 1], "iou": [0.5], "floor": [-99],
    }  # fmt: skip
    tensors = {name: np.asarray(array, np.float32) for name, array in numbers.items()} | {
        "four": np.array(4), "one": np.array([1]), "scores": np.array([1, 1, 640]), "many": np.array([1]),
        "middle": np.array(128, np.uint8), "yes": np.array(True), "one_time": np.array(1),
    }  # fmt: skip
    text = f"""g (float[N,6] x) => (float[N,4] y, float[N,4] s) {{
        {HEAD} {DECISIONS[decision]} c = MatMul(h, w4)  y = Add(c, d) }}"""
    return make_proto(text, tensors)


def output_of(model: ir.Model, feed: dict[str, np.ndarray], name: str = "y") -> np.ndarray:
    return RUNTIME.session(ir.to_proto(model).SerializeToString()).run(feed)[name]


@pytest.mark.parametrize("decision", DECISIONS)
def test_decisions_that_turn_over_are_no_difference_and_excuse_none(make_proto, decision: str) -> None:
    feed = {"x": nets.data(0, 160, 6)}
    coupling, keep, small = removed(deciding(make_proto, decision))
    before = output_of(small, feed)
    scaled(small, "w2", np.array([1 + 3e-4, 1, 1, 1]))
    assert np.linalg.norm(output_of(small, feed) - before) > 5e-3 * np.linalg.norm(before)
    found = check_removal(RUNTIME, coupling, keep, small, feed)
    assert found.fed == ("y",)
    assert found.differences.keys() == {"s", "y"} and not found.left_out
    assert found.largest <= 1e-3
    for name in ("w2", "w4"):
        wrong = small.clone()
        scaled(wrong, name, 1.01)
        with pytest.raises(VerificationError, match="differs by"):
            check_removal(RUNTIME, coupling, keep, wrong, feed)
