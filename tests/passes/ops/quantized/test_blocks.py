"""Weights in blocks of a few bits: they are cut in whole blocks, and what stays are the same numbers."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from channel_graphs import check, found, model, node, normal, sizes
from channel_helpers import run, tensors_of
from onnx import helper

from obs_onnx.io.onnx_file import from_proto
from obs_onnx.passes.canonical.plainer import blocks
from obs_onnx.passes.channels.keep_file import keep_file, replay
from obs_onnx.passes.channels.remove_channels import RemoveChannels
from obs_onnx.passes.channels.silence import silence
from obs_onnx.passes.traits.linear import packed, unpacked

MICROSOFT = "com.microsoft"


@pytest.fixture(autouse=True)
def very_many_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks stay as they are, as in models that are too large to open them."""
    monkeypatch.setattr(blocks, "_ROOM", 0)


def stored(name: str, n: int, k: int, block: int, bits: int = 4, zeros: str = "packed", flat: bool = False):
    """Inputs of MatMulNBits by name, and the matrix (K, N) that they stand for, from the formula."""
    rng = np.random.default_rng(n)
    blocks = -(-k // block)
    q = rng.integers(0, 1 << bits, (n, blocks, block)).astype(np.uint8)
    scales = rng.uniform(0.05, 0.1, (n, blocks)).astype(np.float32)
    zero = rng.integers(0, 1 << bits, (n, blocks)).astype(np.uint8)
    held = {f"{name}_q": packed(q, bits), f"{name}_s": scales}
    points = np.full((n, blocks), 1 << (bits - 1), np.float32)
    if zeros == "packed":
        held[f"{name}_z"], points = packed(zero, bits), zero.astype(np.float32)
    elif zeros == "float":
        points = zero.astype(np.float32)
        held[f"{name}_z"] = points
    if flat:
        held |= {key: held[key].reshape(-1) for key in (f"{name}_s", f"{name}_z") if key in held}
    w = (q.astype(np.float32) - points[..., None]) * scales[..., None]
    return held, w.reshape(n, -1)[:, :k].T


def product(
    name: str, x: str, y: str, n: int, k: int, block: int, *, zeros: bool, bias: str = "", bits: int = 4
):
    inputs = [x, f"{name}_q", f"{name}_s", f"{name}_z" if zeros else "", "", bias]
    while not inputs[-1]:
        inputs.pop()
    return helper.make_node(
        "MatMulNBits", inputs, [y], name=y, domain=MICROSOFT, N=n, K=k, block_size=block, bits=bits
    )


def contributed(nodes, weights, **more) -> onnx.ModelProto:
    proto = model(nodes, weights, y=("N", 5), **more)
    proto.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
    return proto


def chain(zeros: str = "packed", bits: int = 4, flat: bool = False):
    """Inputs to 72 units, to 80 units, to 5 outputs: blocks of 16, then of 32, of which the last has 16 and
    stays."""
    first, a = stored("a", 80, 72, 16, bits, zeros, flat)
    second, b = stored("b", 5, 80, 32, bits, zeros, flat)
    weights = {"w": normal(8, 72), "bias": normal(80), **first, **second}
    has = zeros != "none"
    nodes = [
        node("MatMul", "x w", "h"),
        node("Tanh", "h", "t"),
        product("a", "t", "m", 80, 72, 16, zeros=has, bias="bias", bits=bits),
        node("Relu", "m", "r"),
        product("b", "r", "y", 5, 80, 32, zeros=has, bits=bits),
    ]
    return contributed(nodes, weights, x=("N", 8)), (weights["w"], a, weights["bias"], b)


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize(("zeros", "bits"), [("packed", 4), ("none", 4), ("float", 4), ("packed", 8)])
def test_inputs_go_in_blocks_and_what_stays_is_equal(zeros: str, bits: int, flat: bool) -> None:
    proto, (w, a, bias, b) = chain(zeros, bits, flat)
    coupling = check(proto, x=(8,))
    assert sizes(coupling) == [4, 2]
    keep = {0: np.array([True, False, False, True]), 1: np.array([False, True])}
    units = np.append(np.repeat(keep[0], 16), [True] * 8)
    further = np.append(np.repeat(keep[1], 32), [True] * 16)
    small = coupling.model.clone()
    RemoveChannels(keep).call(small)
    x = normal(3, 8)
    hidden = np.maximum(np.tanh(x @ w[:, units]) @ a[units][:, further] + bias[further], 0)
    np.testing.assert_allclose(run(small, x), hidden @ b[further], rtol=1e-4, atol=1e-4)
    after = tensors_of(small)
    assert after["a_q"].shape == (48, 3, 16 * bits // 8)
    assert after["b_q"].shape == (5, 2, 32 * bits // 8)


def test_what_was_kept_is_replayed() -> None:
    proto, _ = chain()
    coupling = found(proto)
    keep = {0: np.arange(4) > 1, 1: np.arange(2) > 0}
    small = coupling.model.clone()
    RemoveChannels(keep).call(small)
    again = replay(from_proto(proto), keep_file(from_proto(proto), coupling, keep)["tensors"])
    x = normal(3, 8)
    np.testing.assert_array_equal(run(again, x), run(small, x))


@pytest.mark.parametrize(("shuffled", "groups"), [(False, [4]), (True, [])])
def test_an_order_of_the_inputs_has_to_be_that_of_the_blocks(shuffled: bool, groups: list[int]) -> None:
    held, _ = stored("a", 5, 64, 16)
    held["order"] = (np.arange(64, dtype=np.int32) // 16)[:: -1 if shuffled else 1].copy()
    held["w"] = normal(8, 64)
    one = product("a", "h", "y", 5, 64, 16, zeros=True)
    one.input.append("order")
    proto = contributed([node("MatMul", "x w", "h"), one], held, x=("N", 8))
    assert sizes(found(proto) if shuffled else check(proto, x=(8,))) == groups


@pytest.mark.parametrize(("width", "groups"), [(16, [2, 16]), (32, [4]), (64, [2, 2])])
def test_heads_and_widths_of_heads_meet_blocks(width: int, groups: list[int]) -> None:
    """Blocks of 32 over 4 heads of 16: pairs of heads; of 32: heads; over 2 of 64: heads, and halves of
    them."""
    heads = 4 if width < 64 else 2
    n = heads * width
    held, _ = stored("a", 5, n, 32)
    held |= {"w": normal(8, n), "split": np.array([0, heads, width]), "merged": np.array([0, n])}
    nodes = [
        node("MatMul", "x w", "h"),
        node("Reshape", "h split", "s"),
        node("Softsign", "s", "t"),
        node("Reshape", "t merged", "m"),
        product("a", "m", "y", 5, n, 32, zeros=True),
    ]
    coupling = check(contributed(nodes, held, x=("N", 8)), x=(8,))
    assert sizes(coupling) == groups[:1] if width == 16 else sizes(coupling) == groups


@pytest.mark.parametrize("kind", [np.uint8, np.int8, ml_dtypes.uint4, ml_dtypes.int4])
@pytest.mark.parametrize("n", [64, 72])
def test_constants_that_are_dequantized_in_blocks(kind, n: int) -> None:
    rng = np.random.default_rng(0)
    blocks = -(-n // 16)
    q = rng.integers(0, 8, (n, 5)).astype(kind)
    zero = rng.integers(0, 8, (blocks, 5)).astype(kind)
    weights = {
        "w": normal(8, n),
        "q": q,
        "s": rng.uniform(0.1, 0.2, (blocks, 5)).astype(np.float32),
        "z": zero,
    }
    nodes = [
        node("MatMul", "x w", "h"),
        node("Tanh", "h", "t"),
        node("DequantizeLinear", "q s z", "d", axis=0, block_size=16),
        node("MatMul", "t d", "y"),
    ]
    coupling = check(model(nodes, weights, x=("N", 8), opset=21), x=(8,))
    assert sizes(coupling) == [n // 16]


def bnb4(name: str, x: str, y: str, n: int, k: int, block: int) -> onnx.NodeProto:
    inputs = [x, f"{name}_q", f"{name}_s"]
    return helper.make_node(
        "MatMulBnb4", inputs, [y], name=y, domain=MICROSOFT, N=n, K=k, block_size=block, quant_type=1
    )


@pytest.mark.parametrize(("k", "groups"), [(64, [4, 80]), (72, [80])])
def test_blocks_in_a_row(k: int, groups: list[int]) -> None:
    """Rows go one by one, inputs in blocks, as long as no block reaches from one row into the next."""
    rng = np.random.default_rng(0)
    weights = {"w": normal(8, k), "v": normal(80, 5)}
    weights["a_q"] = rng.integers(0, 256, 80 * k // 2).astype(np.uint8)
    weights["a_s"] = rng.uniform(0.05, 0.1, 80 * k // 16).astype(np.float32)
    nodes = [node("MatMul", "x w", "h"), bnb4("a", "h", "m", 80, k, 16), node("MatMul", "m v", "y")]
    coupling = check(contributed(nodes, weights, x=("N", 8)), x=(8,))
    assert sizes(coupling) == (groups if k == 64 else [])
    if k == 64:
        small = coupling.model.clone()
        RemoveChannels({0: np.arange(4) > 0, 1: np.arange(80) > 9}).call(small)
        held = tensors_of(small)
        expected = weights["a_q"].reshape(80, 4, 8)[10:, 1:].reshape(-1)
        np.testing.assert_array_equal(held["a_q"], expected)
        np.testing.assert_array_equal(held["a_s"], weights["a_s"].reshape(80, 4)[10:, 1:].reshape(-1))


@pytest.mark.parametrize("form", ["bytes", "bytes and zeros", "8 bits", "int4", "uint4 and zeros"])
def test_tables_in_blocks(form: str) -> None:
    """Widths of embeddings go in blocks of 16, with those of what is added to them."""
    rng, width = np.random.default_rng(0), 64
    each = 2 if form.startswith("bytes") else 1
    bits = 8 if form == "8 bits" else 4
    numbers = rng.integers(0, 1 << bits, (30, width)).astype(np.uint8)
    zeros = rng.integers(0, 1 << bits, (30, width // 16)).astype(np.uint8)
    table, points = (packed(numbers, bits), packed(zeros, bits)) if each == 2 else (numbers, zeros)
    if form == "int4":
        table = (numbers.astype(np.int8) - 8).astype(ml_dtypes.int4)
    elif form.startswith("uint4"):
        table, points = numbers.astype(ml_dtypes.uint4), zeros.astype(ml_dtypes.uint4)
    weights = {"t": table, "s": rng.uniform(0.1, 0.2, (30, width // 16)).astype(np.float32)}
    weights |= {"z": points} if "zeros" in form else {}
    weights |= {"a": normal(8, width), "v": normal(width, 5), "end": np.array(29.0, np.float32)}
    gathered = helper.make_node(
        "GatherBlockQuantized",
        ["t", "ids", "s", *(["z"] if "zeros" in form else [])],
        ["e"],
        name="e",
        domain=MICROSOFT,
        bits=bits,
        block_size=16,
        gather_axis=0,
        quantize_axis=1,
    )
    nodes = [
        node("ReduceSum", "x", "total", keepdims=0, noop_with_empty_axes=0),
        node("Abs", "total", "size"),
        node("Min", "size end", "low"),
        node("Cast", "low", "ids", to=onnx.TensorProto.INT64),
        gathered,
        node("MatMul", "x a", "h"),
        node("Add", "h e", "m"),
        node("MatMul", "m v", "y"),
    ]
    coupling = check(contributed(nodes, weights, x=("N", 8)), x=(8,))
    assert sizes(coupling) == [4]
    small = coupling.model.clone()
    RemoveChannels({0: np.array([True, False, True, True])}).call(small)
    held = tensors_of(small)
    assert held["t"].shape == (30, 48 // each)
    assert held["s"].shape == (30, 3)
    if form == "bytes and zeros":
        (points,) = (n.inputs[3].const_value.numpy() for n in small.graph if n.name == "e")
        np.testing.assert_array_equal(unpacked(points, 4, 3), zeros[:, [0, 2, 3]])


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("zeros", [False, True])
def test_a_table_in_blocks_gives_a_width_in_blocks(bits: int, zeros: bool) -> None:
    """Rows of 64 numbers in blocks of 16, which a product in blocks and a plain one read."""
    rng, rows, width, size = np.random.default_rng(0), 20, 64, 16
    numbers = rng.integers(0, 1 << bits, (rows, width)).astype(np.uint8)
    weights = {
        "table": packed(numbers, bits),
        "scales": rng.uniform(0.1, 1, (rows, width // size)).astype(np.float32),
        "w": normal(width, 5),
    }
    if zeros:
        weights["zeros"] = packed(rng.integers(0, 1 << bits, (rows, width // size)).astype(np.uint8), bits)
    inputs = ["table", "ids", "scales", *["zeros"] * zeros]
    attributes = {"bits": bits, "block_size": size, "gather_axis": 0, "quantize_axis": 1}
    nodes = [
        node("Cast", "x", "ids", to=7),
        helper.make_node("GatherBlockQuantized", inputs, ["h"], "embed", domain=MICROSOFT, **attributes),
        node("Relu", "h", "r"),
        node("MatMul", "r w", "y"),
    ]
    proto = contributed(nodes, weights, x=("N",))
    coupling = found(proto)
    assert sizes(coupling) == [4]
    ids = np.array([0, 7, 19, 3], np.float32)
    for keep in ([True, False, True, True], [False, True, False, True]):
        small, mask = coupling.model.clone(), {0: np.array(keep)}
        RemoveChannels(mask).call(small)
        silent = silence(coupling.model, mask)
        np.testing.assert_allclose(run(small, ids), run(silent, ids), rtol=1e-5, atol=1e-5)
        assert tensors_of(small)["table"].shape == (rows, sum(keep) * size * bits // 8)
