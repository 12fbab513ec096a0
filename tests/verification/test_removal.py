"""Smaller models against silenced ones, and smaller models that are wrong."""

from __future__ import annotations

import nets
import numpy as np
import onnx_ir as ir
import pytest
from channel_graphs import model as graph
from channel_graphs import node
from channel_helpers import random_keep, shape_of
from decoders import FORMS, HEADS, SHARED, decoder, session
from decoders import HEAD as WIDTH
from decoders import feed as fed

from obs_onnx.passes.canonical.own_constants import prepare
from obs_onnx.passes.channels.coupling import Coupling, couple
from obs_onnx.passes.channels.remove_channels import RemoveChannels
from obs_onnx.passes.errors import VerificationError
from obs_onnx.passes.interface.caches import Caches, find_caches
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
    assert (found.fed, found.left_out, found.random) == ((), {}, ())


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
    for one in small.graph:
        one.outputs[0].shape = None
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
    assert found.differences.keys() == {"y", "rounded", "best"}
    assert "rounded" in found.fed
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
        n = NonMaxSuppression(boxes, u, many, iou, floor)  m = Cast <to = 1> (n)
        k = ReduceSum(m)  d = Mod <fmod = 1> (k, two)""",
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
        "w3": rng.standard_normal((4, 4)), "zero_one": [0, 1], "large": 1e3, "two": 2,
        "step": 0.02, "one_step": 1, "iou": [0.5], "floor": [-99],
        "boxes": rng.uniform(0, 0.1, (1, 640, 4)) + np.arange(640)[:, None] + [0, 0, 1, 1],
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
    scaled(small, "w2", np.array([1 + 6e-4, 1, 1, 1]))
    assert np.linalg.norm(output_of(small, feed) - before) > 5e-3 * np.linalg.norm(before)
    found = check_removal(RUNTIME, coupling, keep, small, feed)
    assert found.fed == ("y",)
    assert found.differences.keys() == {"s", "y"}
    assert found.largest <= 1e-3
    for name in ("w2", "w4"):
        wrong = small.clone()
        scaled(wrong, name, 1.01)
        with pytest.raises(VerificationError, match="differs by"):
            check_removal(RUNTIME, coupling, keep, wrong, feed)


def small_net(make_proto, nodes: str, outputs: str, **constants: object):
    """Models with and without channels, where ``nodes`` go on from ``h``, of eight channels."""
    rng = np.random.default_rng(0)
    tensors = {
        name: rng.standard_normal(shape).astype(np.float32)
        for name, shape in {"w1": (6, 8), "w2": (8, 4), "w3": (4, 4)}.items()
    }
    text = f"g (float[N,6] x) => ({outputs}) {{ a = MatMul(x, w1)  h = Relu(a)  f = MatMul(h, w2)  {nodes} }}"
    return removed(make_proto(text, {**tensors, **constants}))


FEED = {"x": nets.data(0, 40, 6)}


def test_a_decision_on_something_else_excuses_nothing(make_proto) -> None:
    nodes = "d = Mul(x, two)  r = Round(d)  t = ReduceSum <keepdims = 1> (r, last)  y = Add(f, t)"
    constants = {"two": np.float32(2), "last": np.array([1])}
    coupling, keep, small = small_net(make_proto, nodes, "float[N,4] y", **constants)
    assert check_removal(RUNTIME, coupling, keep, small, FEED).fed == ()
    scaled(small, "w2", 1.01)
    with pytest.raises(VerificationError, match=r"differs by .* in output y"):
        check_removal(RUNTIME, coupling, keep, small, FEED)


def test_what_a_wrong_model_decides_is_seen_where_nothing_else_is(make_proto) -> None:
    """All that is left of scores that are wrong by two percent are bits that turn over."""
    coupling, keep, small = small_net(make_proto, "g = Greater(f, t)", "bool[N,4] g", t=np.float32(0.2))
    feed = {"x": nets.data(0, 400, 6)}
    assert check_removal(RUNTIME, coupling, keep, small, feed).differences == {"g": 0}
    scaled(small, "w2", 1.02)
    with pytest.raises(VerificationError, match=r"differs by .* in what node .*Greater.* takes"):
        check_removal(RUNTIME, coupling, keep, small, feed)


def test_outputs_that_vanish_are_measured_by_those_of_the_dense_model(make_proto) -> None:
    """Two channels that cancel are left, up to a trace of one of them."""
    rng = np.random.default_rng(0)
    column = rng.standard_normal((6, 1))
    w1 = np.concatenate([column, column, rng.standard_normal((6, 6))], axis=1)
    w2 = np.concatenate([[[1, 1], [-1, -1 + 4e-6]], rng.standard_normal((6, 2))])
    tensors = {name: array.astype(np.float32) for name, array in (("w1", w1), ("w2", w2))}
    text = "g (float[N,6] x) => (float[N,2] y) { a = MatMul(x, w1)  h = Relu(a)  y = MatMul(h, w2) }"
    coupling = couple(prepare(ir.from_proto(make_proto(text, tensors))))
    (group,) = coupling.groups
    keep = {group.id: np.arange(8) < 2}
    small = coupling.model.clone()
    RemoveChannels(keep).call(small)
    y = output_of(small, FEED)
    assert np.abs(y).max() < 1e-4 * np.abs(output_of(coupling.model, FEED)).max()
    array = small.graph.initializers["w2"].const_value.numpy().copy()
    array[0] += np.float32(1e-6)
    small.graph.initializers["w2"].const_value = ir.tensor(array, name="w2")
    assert np.linalg.norm(output_of(small, FEED) - y) > 0.05 * np.linalg.norm(y)
    found = check_removal(RUNTIME, coupling, keep, small, FEED)
    assert 0 < found.largest < 1e-5
    larger = coupling.model.clone()
    scaled(larger, "w2", 10)
    again = check_removal(RUNTIME, coupling, keep, small, FEED, larger)
    assert again.largest == pytest.approx(found.largest / 10)


def test_integers_without_a_decision_are_equal(make_proto) -> None:
    nodes = "s = Shape(x)  k = Mul(s, three)  y = Identity(f)"
    coupling, keep, small = small_net(make_proto, nodes, "float[N,4] y, int64[2] k", three=np.array([3, 1]))
    assert check_removal(RUNTIME, coupling, keep, small, FEED).differences["k"] == 0
    small.graph.initializers["three"].const_value = ir.tensor(np.array([3, 2]), name="three")
    with pytest.raises(VerificationError, match="differs in output k from"):
        check_removal(RUNTIME, coupling, keep, small, FEED)


def test_numbers_that_are_none_are_at_the_same_places(make_proto) -> None:
    coupling, keep, small = small_net(
        make_proto,
        "u = Abs(f)  e = Mul(u, zeros)  l = Log(e)  y = Add(l, f)",
        "float[N,4] y",
        zeros=np.array([1, 0, 1, -1], np.float32),
    )
    assert not np.isfinite(output_of(small, FEED)).all(axis=0)[1:4:2].any()
    assert check_removal(RUNTIME, coupling, keep, small, FEED).largest < 1e-5
    for other in ([1, 1, 1, -1], [1, 0, 1, 1], [-1, 0, 1, -1]):
        small.graph.initializers["zeros"].const_value = ir.tensor(np.array(other, np.float32), name="zeros")
        with pytest.raises(VerificationError, match="differs in output y from"):
            check_removal(RUNTIME, coupling, keep, small, FEED)


RANDOM = {
    "noise": "n = RandomNormalLike(f)  y = Add(n, f)",
    "dropout": "y = Dropout(f, half, yes)",
    "dropped channels": "p = Sigmoid(h)  m = Bernoulli(p)  n = Mul(m, h)  y = MatMul(n, w4)",
    "in a body": """y = If <then_branch = t () => (float[N,4] e) { k = RandomNormalLike(f)  e = Add(k, f) },
        else_branch = o () => (float[N,4] p) { p = Identity(f) }> (yes)""",
}


@pytest.mark.parametrize("kind", RANDOM)
def test_random_numbers_are_named_and_excuse_nothing(make_proto, kind: str) -> None:
    constants = {"half": np.float32(0.5), "yes": np.array(True), "w4": np.float32(np.ones((8, 4)))}
    nodes = f"{RANDOM[kind]}  z = MatMul(y, w3)"
    coupling, keep, small = small_net(make_proto, nodes, "float[N,4] y, float[N,4] z", **constants)
    found = check_removal(RUNTIME, coupling, keep, small, FEED)
    (node,) = found.random
    drawn = ["y"] if kind in ("dropout", "in a body") else []
    assert list(found.left_out) == drawn
    assert all("drawn at random by node" in reason and node in reason for reason in found.left_out.values())
    assert "z" in found.fed or found.differences["z"] == 0  # a few draws may be equal by chance
    assert found.largest < 1e-5
    wrong = small.clone()
    scaled(wrong, "w3", 1.01)
    with pytest.raises(VerificationError, match=r"differs by .* in output z"):
        check_removal(RUNTIME, coupling, keep, wrong, FEED)
    scaled(small, "w1", 1.01)
    with pytest.raises(VerificationError, match="differs by"):
        check_removal(RUNTIME, coupling, keep, small, FEED)


def test_nothing_to_compare(make_proto) -> None:
    coupling, keep, small = small_net(make_proto, "y = RandomNormalLike(f)", "float[N,4] y")
    found = check_removal(RUNTIME, coupling, keep, small, FEED)
    assert (found.largest, found.differences, list(found.left_out)) == (None, {}, ["y"])


class TestNothingCompared:
    """Outputs that say nothing of the weights are named, and count for nothing."""

    def found(self, text: str, feed: np.ndarray):
        rng = np.random.default_rng(0)
        held = {name: rng.standard_normal(shape) for name, shape in (("a", (6, 8)), ("b", (8, 4)))}
        proto = nets.build_model(text, {name: array.astype(np.float32) for name, array in held.items()})
        return check_removal(RUNTIME, *removed(proto), {"x": feed})

    def test_no_elements(self) -> None:
        text = "g (float[N,6] x) => (float[N,4] y) { h = MatMul(x, a)  r = Relu(h)  y = MatMul(r, b) }"
        found = self.found(text, np.zeros((0, 6), np.float32))
        assert (found.largest, dict(found.left_out)) == (None, {"y": "has no elements for the data"})
        assert self.found(text, np.ones((2, 6), np.float32)).largest is not None

    def test_nothing_but_drawn_numbers(self) -> None:
        text = """g (float[N,6] x) => (float[N,4] y, float[N,4] z) {
            h = MatMul(x, a)  r = Relu(h)  y = MatMul(r, b)
            n = RandomNormalLike<seed=1.0>(y)  z = Exp(n) }"""
        found = self.found(text, np.ones((2, 6), np.float32))
        assert list(found.differences) == ["y"]
        assert "is drawn at random by node" in found.left_out["z"] or "run to run" in found.left_out["z"]


def test_products_that_round_their_inputs_in_blocks_are_compared_operator_by_operator() -> None:
    """onnxruntime makes integers, a scale and a product one operator, whose blocks of inputs move."""
    n, rng = 72, np.random.default_rng(0)
    weights = {"a": rng.standard_normal((6, n)).astype(np.float32), "s": np.float32(1e-4)}
    weights |= {"z": np.uint16(32768), "q": rng.integers(-128, 128, (n, 5)).astype(np.int8)}
    weights |= {"qs": np.float32(0.01), "qz": np.int8(0)}
    nodes = [
        node("MatMul", "x a", "h"),
        node("QuantizeLinear", "h s z", "i"),
        node("DequantizeLinear", "i s z", "f"),
        node("DequantizeLinear", "q qs qz", "d"),
        node("MatMul", "f d", "y"),
    ]
    coupling, keep, small = removed(graph(nodes, weights, x=("N", 6), opset=21))
    feed = {"x": rng.standard_normal((4, 6)).astype(np.float32)}
    assert check_removal(RUNTIME, coupling, keep, small, feed).differences["y"] <= 1e-6
    plain = check_removal(RUNTIME.unfused(), coupling, keep, small, feed)
    assert not plain.unfused
    array = small.graph.initializers["q"].const_value.numpy().copy()
    array[0, 0] = -array[0, 0]
    small.graph.initializers["q"].const_value = ir.tensor(array, name="q")
    with pytest.raises(VerificationError, match="differs by"):
        check_removal(RUNTIME, coupling, keep, small, feed)


class TestCaches:
    """What comes out for the next step is compared as far as it stays, whatever the logits say."""

    ids = np.arange(8).reshape(2, 4) * 5

    def removed(self, form: str, seed: int = 0):
        whole = ir.from_proto(decoder(form))
        caches = Caches(whole, find_caches(whole))
        dense = prepare(caches.inner(whole))
        coupling = couple(dense, caches=caches.names)
        keep = random_keep(coupling, seed)
        small = dense.clone()
        RemoveChannels(keep, coupling.of(small)).call(small)
        return caches, coupling, keep, small

    def found(self, caches, coupling, keep, small, past: int = 0):
        ids = self.ids[:, :1] if past else self.ids  # the operators take one token behind a cache
        feed = fed(session(coupling.model), ids, past)
        return check_removal(RUNTIME, coupling, keep, small, feed, caches=caches)

    @pytest.mark.parametrize("form", FORMS)
    @pytest.mark.parametrize("past", [0, 3])
    def test_all_are_equal(self, form: str, past: int) -> None:
        caches, *parts = self.removed(form)
        assert caches.kept(parts[-1])
        found = self.found(caches, *parts, past)
        assert set(found.differences) == {"logits", *(one.present for one in caches.pairs)}
        assert found.largest < 1e-3
        assert not found.left_out

    @pytest.mark.parametrize("form", FORMS)
    def test_other_heads_of_a_cache_are_found_while_it_is_empty(self, form: str) -> None:
        caches, coupling, keep, small = self.removed(form)
        name, axes = next(iter(caches.kept(small).items()))
        axis, index = next(iter(axes.items()))
        value = next(value for value in small.graph.inputs if value.name == name)
        (gather,) = value.consumers()
        whole = value.shape[axis]
        other = np.setdiff1d(np.arange(whole), index)[:1]
        wrong = np.sort(np.concatenate([index[1:], other]))
        gather.inputs[1].const_value = ir.tensor(wrong, name=gather.inputs[1].name)
        with pytest.raises(VerificationError, match=f"other elements of the cache {name}"):
            self.found(caches, coupling, keep, small)

    def test_heads_in_another_order_are_found_where_logits_are_the_same(self) -> None:
        caches, coupling, _, small = self.removed("grouped")
        small = coupling.model.clone()
        order = [1, 0, 2]
        heads = np.arange(HEADS * WIDTH).reshape(SHARED, HEADS // SHARED, WIDTH)[order].reshape(-1)
        shared = np.arange(SHARED * WIDTH).reshape(SHARED, WIDTH)[order].reshape(-1)
        for name, axis, index in (("q0", 1, heads), ("k0", 1, shared), ("v0", 1, shared), ("o0", 0, heads)):
            value = small.graph.initializers[f"{name}.weight"]
            value.const_value = ir.tensor(value.const_value.numpy().take(index, axis), name=value.name)
        feed = fed(session(coupling.model), self.ids)
        assert check_removal(RUNTIME, coupling, {}, small, feed).largest < 1e-3
        with pytest.raises(VerificationError, match=r"differs by .* in output present\.0\.(key|value)"):
            self.found(caches, coupling, {}, small)

    def test_a_cache_behind_the_end_of_the_model_is_named(self) -> None:
        caches, coupling, keep, small = self.removed("grouped")
        for model in (coupling.model, small):
            for one in model.graph:
                if one.outputs[0].name == "a1":
                    one.outputs[0].name = "elsewhere"
        found = self.found(caches, coupling, keep, small)
        assert set(found.left_out) == {"present.1.key", "present.1.value"}
        assert "present.0.key" in found.differences
