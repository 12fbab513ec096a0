"""Which streams can be rotated, and why others cannot."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from channel_graphs import found, node
from rotations import N, rms, stream

from obs_onnx.passes.channels.rotation.rotatable import rotatable
from obs_onnx.passes.channels.rotation.scan import Rotatable, Stays


def of(proto: onnx.ModelProto) -> Rotatable:
    coupling = found(proto)
    return rotatable(coupling, next(group for group in coupling.groups if group.n == N))


def test_a_linear_stream_turns_freely() -> None:
    one = of(stream(node("Mul", "h c", "z")))
    assert (one.keeps_ones, one.readers, one.normed) == (False, ("v",), ())


def test_readers_behind_a_norm_are_known() -> None:
    one = of(stream(*rms("h", "n"), node("Mul", "n s", "z")))
    assert (one.keeps_ones, one.normed) == (False, ("v",))
    assert [site.initializer for site, how in one.sites.items() if how.unit] == ["s"]


@pytest.mark.parametrize(
    "nodes",
    [
        [node("LayerNormalization", "h s t", "z", axis=-1)],
        [node("Add", "h c", "z")],
        [node("ReduceMean", "h last", "mean"), node("Sub", "h mean", "z")],
    ],
)
def test_means_and_what_is_added_to_all_keep_the_ones(nodes: list[onnx.NodeProto]) -> None:
    assert of(stream(*nodes)).keeps_ones


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ([node("Relu", "h", "z")], "z \\(Relu\\) does not treat all of its channels alike"),
        ([node("Mul", "h h", "z")], "reads squares of single channels"),
        ([*rms("h", "n"), node("Add", "n n_p", "z")], "z \\(Add\\) reads squares"),
        ([node("Sigmoid", "h", "g"), node("Mul", "h g", "z")], "g \\(Sigmoid\\)"),
        ([node("Mul", "h s", "k"), node("Add", "h k", "z")], "different scales per channel"),
        ([node("Mul", "h s", "k"), *rms("k", "z")], "follows a scale per channel"),
        ([node("Div", "s h", "z")], "is not linear in its channels"),
    ],
)
def test_what_is_not_linear_keeps_the_axes(nodes: list[onnx.NodeProto], reason: str) -> None:
    with pytest.raises(Stays, match=reason):
        of(stream(*nodes))


def test_a_scale_of_zero_cannot_move() -> None:
    scale = np.ones(N, np.float32)
    scale[2] = 0
    with pytest.raises(Stays, match="zero for some channels"):
        of(stream(node("LayerNormalization", "h s t", "z", axis=-1), s=scale))


def test_a_tied_table_stays_where_its_uses_differ() -> None:
    """The head would take in the scale, the embedding would not."""
    table = np.random.default_rng(0).standard_normal((300, N)).astype(np.float32)
    nodes = [
        node("Gather", "table index", "e"),
        node("Add", "h e", "k"),
        node("RMSNormalization", "k s", "z", axis=-1),
        node("Gemm", "flat table", "logits", transB=1),
        node("ReduceMax", "logits", "top", keepdims=0),
    ]
    flat = node("Reshape", "z rows", "flat")
    held = {"table": table, "index": np.array([1, 2, 3, 4, 5]), "rows": np.array([-1, N])}
    proto = stream(*nodes[:3], flat, *nodes[3:], opset=23, **held)
    proto.graph.output.append(onnx.helper.make_tensor_value_info("top", 1, ()))
    with pytest.raises(Stays, match="serves several nodes"):
        of(proto)
