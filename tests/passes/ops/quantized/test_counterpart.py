"""Operators on integers: what is left without channels is what the silenced model gives, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from channel_graphs import found, model, node, normal, sizes
from channel_helpers import random_keep, run
from onnx import helper

from obs_onnx.io.onnx_file import from_proto
from obs_onnx.passes.canonical.plainer.written_form import in_integers
from obs_onnx.passes.channels.coupling import Coupling
from obs_onnx.passes.channels.keep_file import keep_file, replay
from obs_onnx.passes.channels.remove_channels import RemoveChannels
from obs_onnx.passes.channels.silence import silence
from obs_onnx.passes.costs.macs import count_macs

MICROSOFT = "com.microsoft"
RNG = np.random.default_rng(7)


def own(op_type: str, inputs: str, outputs: str, **attributes: object) -> onnx.NodeProto:
    """A node of onnxruntime's own; ``-`` is an input that is left out."""
    names = ["" if name == "-" else name for name in inputs.split()]
    return helper.make_node(
        op_type, names, outputs.split(), name=outputs.split()[0], domain=MICROSOFT, **attributes
    )


def integers(*shape: int, kind: type = np.int8) -> np.ndarray:
    info = np.iinfo(kind)
    return RNG.integers(info.min, info.max + 1, shape).astype(kind)


def steps(n: int) -> np.ndarray:
    return RNG.uniform(0.005, 0.02, n).astype(np.float32)


BASE = {
    "s": np.float32(0.03),
    "z": np.uint8(121),
    "t": np.float32(0.05),
    "u": np.uint8(100),
    "w1": normal(6, 3, 1, 1),
    "w2": normal(8, 3, 1, 1),
}
"""Two scales and zero points of activations, and convolutions to six and to eight channels."""

HEAD = [node("Conv", "x w1", "h"), node("QuantizeLinear", "h s z", "q")]
TWIN = [node("Conv", "x w1b", "g"), node("QuantizeLinear", "g t u", "p")]


def contributed(
    nodes: Sequence[onnx.NodeProto], weights: dict[str, np.ndarray], **more: object
) -> onnx.ModelProto:
    proto = model(nodes, BASE | weights, opset=21, **more)
    proto.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
    return proto


def exact(
    nodes: Sequence[onnx.NodeProto],
    weights: dict[str, np.ndarray],
    x: Sequence[int] = (3, 5, 5),
    rtol: float = 0.0,
) -> Coupling:
    """Removal against silence, and removal by the record of what stays.

    Args:
        nodes: from x to y.
        weights: initializers.
        x: shape of a sample.
        rtol: 0 where all that is summed is integers.
    """
    return equal(contributed(nodes, weights, x=("N", *x)), x, rtol)


def equal(proto: onnx.ModelProto, x: Sequence[int], rtol: float = 0.0) -> Coupling:
    coupling = found(proto)
    for seed in range(4):
        keep = random_keep(coupling, seed)
        small = coupling.model.clone()
        RemoveChannels(keep).call(small)
        reference = in_integers(silence(coupling.model, keep, coupling))
        for batch in (1, 3):
            values = normal(batch, *x)
            expected = run(reference, values)
            np.testing.assert_allclose(
                run(in_integers(small), values), expected, rtol, rtol * np.abs(expected).max()
            )
        again = replay(from_proto(proto), keep_file(from_proto(proto), coupling, keep)["tensors"])
        np.testing.assert_array_equal(run(again, values), run(in_integers(small), values))
    return coupling


def tail(name: str, channels: int, *, scale: str = "t", zero: str = "u") -> tuple[list, dict]:
    """A convolution of integers to two channels, and numbers."""
    held = {"v": integers(2, channels, 1, 1), "vs": steps(2), "vz": integers(2)}
    nodes = [
        node("QLinearConv", f"{name} {scale} {zero} v vs vz ys yz", "o"),
        node("DequantizeLinear", "o ys yz", "y"),
    ]
    return nodes, held | {"ys": np.float32(0.2), "yz": np.uint8(128)}


@pytest.mark.parametrize("domain", ["", MICROSOFT])
@pytest.mark.parametrize("kind", [np.int8, np.uint8])
@pytest.mark.parametrize("per_channel", [False, True])
def test_convolution(domain: str, kind: type, per_channel: bool) -> None:
    """Its scales, zero points and bias of integers go with its outputs."""
    n = 8 if per_channel else 1
    zero = (RNG.integers(3, 9, n) if kind is np.uint8 or not per_channel else np.zeros(n)).astype(kind)
    weights = {"b": integers(8, 6, 3, 3, kind=kind), "bs": steps(n), "bz": zero}
    weights |= {"bias": RNG.integers(-4000, 4000, 8).astype(np.int32)}
    weights = {key: value[0] if value.shape == (1,) else value for key, value in weights.items()}
    middle = node("QLinearConv", "q s z b bs bz t u bias", "c", pads=[1] * 4)
    middle.domain = domain
    nodes, held = tail("c", 8)
    if domain:  # of onnxruntime: the weights of one model of operators of both
        nodes[0].domain = ""
    coupling = exact([*HEAD, middle, *nodes], weights | held)
    assert sizes(coupling) == [6, 8]
    group = coupling.groups[1]
    assert len(group.sites) == (6 if per_channel else 3)


def test_grouped_and_depthwise_convolutions() -> None:
    weights = {"d": integers(6, 1, 3, 3), "ds": steps(6), "dz": np.zeros(6, np.int8)}
    weights |= {"e": integers(8, 3, 1, 1), "es": steps(8), "ez": np.zeros(8, np.int8)}
    nodes, held = tail("e1", 8)
    coupling = exact(
        [
            *HEAD,
            node("QLinearConv", "q s z d ds dz t u", "d1", group=6, pads=[1] * 4),
            node("QLinearConv", "d1 t u e es ez t u", "e1", group=2),
            *nodes,
        ],
        weights | held,
    )
    assert len(coupling.groups) >= 2


ELEMENTWISE = {
    "QLinearAdd": ("q s z p t u t u", {}),
    "QLinearMul": ("q s z p t u t u", {}),
    "QLinearSigmoid": ("q s z t u", {}),
    "QLinearLeakyRelu": ("q s z t u", {"alpha": 0.1}),
    "QLinearWhere": ("mask q s z p t u t u", {}),
    "QLinearAveragePool": ("q s z t u", {"kernel_shape": [2, 2]}),
    "QLinearGlobalAveragePool": ("q s z t u", {}),
}


@pytest.mark.parametrize("op_type", ELEMENTWISE)
def test_element_by_element(op_type: str) -> None:
    operands, attributes = ELEMENTWISE[op_type]
    first = [*HEAD, *(TWIN if " p " in operands else [])]
    weights = {"w1b": normal(6, 3, 1, 1), "mask": RNG.random((6, 1, 5)) < 0.5}
    used = {
        key: value
        for key, value in weights.items()
        if any(key in one.input for one in first) or key in operands
    }
    nodes, held = tail("m", 6)
    coupling = exact([*first, own(op_type, operands, "m", **attributes), *nodes], used | held)
    assert sizes(coupling) == [6]


def test_concatenation() -> None:
    nodes, held = tail("m", 14)
    second = [node("Conv", "x w2", "g"), node("QuantizeLinear", "g s z", "p")]
    joined = own("QLinearConcat", "t u q s z p s z", "m", axis=1)
    assert sizes(exact([*HEAD, *second, joined, *nodes], held)) == [6, 8]


@pytest.mark.parametrize(("axes", "groups"), [([2, 3], [6]), ([1], [])])
def test_means_over_places_but_not_over_channels(axes: list[int], groups: list[int]) -> None:
    """No kernel of onnxruntime computes them."""
    reduced = own("QLinearReduceMean", "q s z t u", "m", axes=axes, keepdims=1)
    nodes, held = tail("m", 6) if axes == [2, 3] else ([node("DequantizeLinear", "m t u", "y")], {})
    assert sizes(found(contributed([*HEAD, reduced, *nodes], held))) == groups


@pytest.mark.parametrize(("axis", "groups"), [(-1, [6]), (1, [])])
def test_softmax_keeps_what_it_weighs(axis: int, groups: list[int]) -> None:
    nodes, held = tail("m", 6)
    one = own("QLinearSoftmax", "q s z t u", "m", axis=axis, opset=13)
    assert sizes(exact([*HEAD, one, *nodes], held)) == groups


FLAT = [node("MatMul", "x a", "h"), node("QuantizeLinear", "h s z", "q")]
A = {"a": normal(4, 12)}


@pytest.mark.parametrize("per_column", [False, True])
@pytest.mark.parametrize(
    "form", ["QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat", "QGemm", "QGemm float"]
)
def test_products(form: str, per_column: bool) -> None:
    n = 10 if per_column else 1
    shape = (10, 12) if form.startswith("QGemm") else (12, 10)
    b = {
        "b": integers(*shape, kind=np.uint8),
        "bs": steps(n),
        "bz": RNG.integers(90, 140, n).astype(np.uint8),
    }
    if not per_column:
        b = {key: value[0] if value.shape == (1,) else value for key, value in b.items()}
    b |= {"bias": RNG.integers(-4000, 4000, 10).astype(np.int32), "fb": normal(10)}
    middle = {
        "QLinearMatMul": [
            node("QLinearMatMul", "q s z b bs bz t u", "m"),
            node("DequantizeLinear", "m t u", "f"),
        ],
        "MatMulInteger": [
            node("MatMulInteger", "q b z bz", "m"),
            node("Cast", "m", "c", to=onnx.TensorProto.FLOAT),
            node("Mul", "c bs", "f"),
        ],
        "MatMulIntegerToFloat": [own("MatMulIntegerToFloat", "q b s bs z bz fb", "f")],
        "QGemm": [
            own("QGemm", "q s z b bs bz bias t u", "m", transB=1),
            node("DequantizeLinear", "m t u", "f"),
        ],
        "QGemm float": [own("QGemm", "q s z b bs bz bias", "f", transB=1)],
    }[form]
    read = {name for one in middle for name in one.input}
    nodes = [*FLAT, *middle, node("QuantizeLinear", "f t u", "r"), *PRODUCT]
    coupling = exact(nodes, A | {key: value for key, value in b.items() if key in read} | SECOND, x=(4,))
    assert sizes(coupling) == [12, 10]
    assert count_macs(coupling.model, {"r": (1, 10)}) == 4 * 12 + 12 * 10 + 10 * 3


PRODUCT = [node("QLinearMatMul", "r t u e es ez ys yz", "o"), node("DequantizeLinear", "o ys yz", "y")]
SECOND = {"e": integers(10, 3), "es": np.float32(0.01), "ez": np.int8(-3), "ys": np.float32(0.2)}
SECOND |= {"yz": np.uint8(128)}


@pytest.mark.parametrize("zero", ["", "bz"])
def test_numbers_that_are_quantized_by_their_own_range(zero: str) -> None:
    """Removed channels count as zeros, which the range holds anyway."""
    weights = A | {"b": integers(12, 10, kind=np.uint8), "bs": steps(10), "fb": normal(10)}
    weights |= {"e": integers(10, 3, kind=np.uint8), "es": steps(3)}
    weights |= {"bz": RNG.integers(90, 140, 10).astype(np.uint8)} if zero else {}
    nodes = [
        node("MatMul", "x a", "h"),
        own("DynamicQuantizeMatMul", f"h b bs {zero or '-'} fb", "f"),
        own("DynamicQuantizeMatMul", "f e es", "y"),
    ]
    assert sizes(exact(nodes, weights, x=(4,))) == [12, 10]


@pytest.mark.parametrize("convolution", [False, True])
def test_integers_and_their_range(convolution: bool) -> None:
    """What onnxruntime's dynamic quantization writes: a range, a product of integers, and two scales."""
    shape = (8, 6, 3, 3) if convolution else (6, 8)
    last = (2, 8, 1, 1) if convolution else (8, 2)
    weights = {"b": integers(*shape, kind=np.uint8), "bz": np.uint8(117), "bs": np.float32(0.01)}
    weights |= {"e": integers(*last, kind=np.uint8), "ez": np.uint8(130), "es": np.float32(0.02)}
    nodes = [node("Conv", "x w1", "h"), node("Transpose", "h", "h0", perm=[0, 2, 3, 1])]
    if convolution:
        nodes[1] = node("Relu", "h", "h0")
    for k, name in enumerate("be"):
        product = [f"{name}q", name, f"{name}xz", f"{name}z"]
        pads = {"pads": [1] * 4} if convolution and k == 0 else {}
        nodes += [
            node("DynamicQuantizeLinear", f"h{k}", f"{name}q {name}xs {name}xz"),
            node("ConvInteger" if convolution else "MatMulInteger", " ".join(product), f"{name}m", **pads),
            node("Cast", f"{name}m", f"{name}c", to=onnx.TensorProto.FLOAT),
            node("Mul", f"{name}xs {name}s", f"{name}t"),
            node("Mul", f"{name}c {name}t", f"h{k + 1}" if k == 0 else "y"),
        ]
    assert sizes(exact(nodes, weights)) == [6, 8]


@pytest.mark.parametrize("kind", [np.uint16, np.int16])
def test_sixteen_bits_of_onnxruntime(kind: type) -> None:
    weights = {"zz": kind(300), "w": normal(6, 2), "d": integers(6, 2, kind=kind), "dz": kind(12)}
    nodes = [
        node("MatMul", "x a", "h"),
        own("QuantizeLinear", "h s zz", "q"),
        own("DequantizeLinear", "q s zz", "f"),
        own("DequantizeLinear", "d ds dz", "dd", axis=0),
        node("MatMul", "f dd", "y"),
    ]
    weights = {
        "a": normal(4, 6),
        "zz": kind(300),
        "d": integers(6, 2, kind=kind),
        "dz": np.zeros(6, kind),
        "ds": steps(6),
    }
    assert sizes(exact(nodes, weights, x=(4,), rtol=1e-6)) == [6]


@pytest.mark.parametrize("per_column", [False, True])
def test_attention(per_column: bool) -> None:
    """Heads, and widths of queries and keys or of values, as in attention on numbers."""
    n = 24 if per_column else 1
    weights = {"a": normal(4, 10), "b": integers(10, 24), "bs": steps(n) / 10, "fb": normal(24)}
    weights |= {"bz": np.zeros(n, np.int8), "v": normal(8, 3), "i": np.uint8(121)}
    nodes = [
        node("MatMul", "x a", "h"),
        node("QuantizeLinear", "h s z", "q"),
        own("QAttention", "q b fb s bs - z bz", "f", num_heads=2),
        node("MatMul", "f v", "y"),
    ]
    if not per_column:
        weights |= {"bs": weights["bs"][0], "bz": np.int8(0)}
    del weights["i"]
    coupling = exact(nodes, weights, x=(5, 4), rtol=1e-6)
    assert sorted(sizes(coupling)) == [2, 4, 10]


@pytest.mark.parametrize("per_column", [False, True])
def test_a_recurrence(per_column: bool) -> None:
    width = 4 * 5
    shape = (1, width) if per_column else (1,)
    weights = {
        "a": normal(4, 6),
        "w": integers(1, 6, width),
        "r": integers(1, 5, width),
        "b": normal(1, 2 * width),
    }
    weights |= {f"{k}s": RNG.uniform(0.005, 0.01, shape).astype(np.float32) for k in "wr"}
    weights |= {f"{k}z": np.zeros(shape, np.int8) for k in "wr"} | {"v": normal(5, 3)}
    nodes = [
        node("MatMul", "x a", "m"),
        node("Transpose", "m", "t1", perm=[1, 0, 2]),
        own("DynamicQuantizeLSTM", "t1 w r b - - - - ws wz rs rz", "h", hidden_size=5),
        node("Squeeze", "h one", "g"),
        node("MatMul", "g v", "y"),
    ]
    coupling = exact(nodes, weights | {"one": np.array([1])}, x=(7, 4))
    assert sizes(coupling) == [6, 5]


@pytest.mark.parametrize("form", ["QLinearMatMul", "MatMulInteger", "pairs"])
def test_products_of_activations(form: str) -> None:
    """Queries and keys: widths go from both, and count as zero points in the keys."""
    weights = {"a": normal(4, 12), "b": normal(4, 12), "ys": np.float32(0.2), "yz": np.uint8(128)}
    nodes = [
        node("MatMul", "x a", "h"),
        node("MatMul", "x b", "g"),
        node("Transpose", "g", "gt", perm=[0, 2, 1]),
    ]
    if form == "MatMulInteger":
        nodes += [
            node("DynamicQuantizeLinear", "h", "q qs qz"),
            node("DynamicQuantizeLinear", "gt", "k ks kz"),
            node("MatMulInteger", "q k qz kz", "m"),
            node("Cast", "m", "c", to=onnx.TensorProto.FLOAT),
            node("Mul", "qs ks", "qk"),
            node("Mul", "c qk", "y"),
        ]
    else:
        nodes += [node("QuantizeLinear", "h s z", "q"), node("QuantizeLinear", "gt t u", "k")]
        inner = [node("QLinearMatMul", "q s z k t u ys yz", "m")]
        if form == "pairs":
            inner = [
                node("DequantizeLinear", "q s z", "qd"),
                node("DequantizeLinear", "k t u", "kd"),
                node("MatMul", "qd kd", "md"),
                node("QuantizeLinear", "md ys yz", "m"),
            ]
        nodes += [*inner, node("DequantizeLinear", "m ys yz", "y")]
    proto = contributed(nodes, weights, x=("N", 5, 4), y=("N", 5, 5))
    for held in [one for one in proto.graph.initializer if not any(one.name in n.input for n in nodes)]:
        proto.graph.initializer.remove(held)
    assert sizes(equal(proto, (5, 4))) == [12]


def test_two_layers_that_share_their_scales() -> None:
    """Each of them keeps its own part of the vectors."""
    weights = {
        "b": integers(6, 6, 1, 1),
        "c": integers(6, 6, 1, 1),
        "bs": steps(6),
        "bz": np.zeros(6, np.int8),
    }
    nodes, held = tail("c1", 6)
    coupling = exact(
        [
            *HEAD,
            node("QLinearConv", "q s z b bs bz t u", "b1"),
            node("QLinearConv", "b1 t u c bs bz t u", "c1"),
            *nodes,
        ],
        weights | held,
    )
    assert sizes(coupling) == [6, 6, 6]


def test_channels_that_stand_last_stay() -> None:
    weights = {"b": integers(6, 6, 1, 1), "bs": steps(6), "bz": np.zeros(6, np.int8)}
    one = own("QLinearConv", "n s z b bs bz t u", "c", channels_last=1)
    nodes = [
        *HEAD,
        node("Transpose", "q", "n", perm=[0, 2, 3, 1]),
        one,
        node("DequantizeLinear", "c t u", "y"),
    ]
    coupling = found(contributed(nodes, weights, y=("N", 5, 5, 6)))
    assert not coupling.groups
    assert "its channels stand last" in " ".join(one.reason for one in coupling.frozen)


def test_weights_behind_a_transposition_are_silenced_as_integers() -> None:
    """Integers, numbers, Transpose and a product: the runtime fuses them, with and without the channels."""
    weights = A | {"b": integers(10, 12), "bs": steps(10), "bz": np.zeros(10, np.int8), "v": normal(10, 3)}
    nodes = [
        *FLAT,
        node("DequantizeLinear", "q s z", "f"),
        node("DequantizeLinear", "b bs bz", "d", axis=0),
        node("Transpose", "d", "dt", perm=[1, 0]),
        node("MatMul", "f dt", "m"),
        node("Relu", "m", "r"),
        node("MatMul", "r v", "y"),
    ]
    coupling = exact(nodes, weights, x=(4,), rtol=1e-6)
    assert sizes(coupling) == [12, 10]
    keep = {group.id: np.arange(group.n) > 2 for group in coupling.groups}
    silenced = silence(coupling.model, keep, coupling)
    (one,) = (
        value.const_value.numpy()
        for value in silenced.graph.initializers.values()
        if value.dtype == ir.DataType.INT8 and sorted(value.shape) == [10, 12] and value.uses()
    )
    assert not one.take(range(3), axis=one.shape.index(12)).any()
    assert one.any()
