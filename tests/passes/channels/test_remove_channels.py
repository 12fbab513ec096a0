"""Removal equals silence: on random graphs, on hand-made ones, numerically and for other batch sizes."""

from __future__ import annotations

import os

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from channel_graphs import check, model, node, normal, sizes
from channel_helpers import random_keep, run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_graphs import BUILDERS, SIZE, build

from obs_onnx.passes.canonical.own_constants import prepare
from obs_onnx.passes.channels.coupling import Coupling, couple
from obs_onnx.passes.channels.keep_file import keep_file, replay
from obs_onnx.passes.channels.remove_channels import RemoveChannels
from obs_onnx.passes.channels.silence import silence

EXAMPLES = int(os.environ.get("OBS_ONNX_EXAMPLES", "60"))  # random graphs; hundreds find rare cases

ort.set_default_logger_severity(4)


def removed_equals_silenced(proto: onnx.ModelProto, seed: int, canonical: bool = True) -> Coupling:
    coupling = couple(prepare(ir.from_proto(proto), canonical))
    keep = random_keep(coupling, seed)
    reference, small = silence(coupling.model, keep), coupling.model.clone()
    RemoveChannels(keep).call(small)
    onnx.checker.check_model(ir.to_proto(small), full_check=True)
    for batch in (1, 4):
        x = np.random.default_rng(seed).standard_normal((batch, 3, SIZE, SIZE)).astype(np.float32)
        expected, got = run(reference, x), run(small, x)
        assert got.shape == expected.shape
        np.testing.assert_allclose(
            got, expected, rtol=2e-4, atol=2e-4 * max(1.0, float(np.abs(expected).max()))
        )
    again = replay(ir.from_proto(proto), keep_file(ir.from_proto(proto), coupling, keep)["tensors"])
    before, after = ({v.name: v.shape for n in m.graph for v in n.outputs} for m in (small, again))
    assert all(after[name] == shape for name, shape in before.items() if name in after)
    return coupling


steps = st.lists(
    st.tuples(st.sampled_from(sorted(BUILDERS)), st.integers(0, 2), st.integers(0, 2**16)),
    min_size=1,
    max_size=12,
)


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(steps, st.integers(0, 2**16), st.sampled_from([18, 21, 23]), st.booleans())
def test_random_graphs(chosen: list[tuple[str, int, int]], seed: int, opset: int, canonical: bool) -> None:
    removed_equals_silenced(build(chosen, opset), seed, canonical)


@pytest.mark.parametrize("name", sorted(BUILDERS))
@pytest.mark.parametrize("seed", range(3))
def test_each_operator(name: str, seed: int) -> None:
    before = {2: ["global_pool"], 3: ["tokens"], 4: []}
    for lead in before.values():
        chosen = [(one, 0, 1) for one in lead] + [(name, 0, seed), (name, 0, seed + 10)]
        removed_equals_silenced(build(chosen, (18, 21, 23)[seed]), seed)


TOKENS = [
    node("MatMul", "x a", "h"),
    node("Shape", "h", "hs"),
    node("Slice", "hs zero one", "n"),
    node("Concat", "n one one", "es", axis=0),
    node("Expand", "learnt es", "e"),
]
"""Four learnt tokens for each sample (e), and as many computed ones (h) as it has, of six channels."""

HALVES = {
    "sum": [node("Concat", "e h", "c", axis=1), node("Slice", "c four end one", "t")],
    "cut across": [node("Concat", "e h", "c", axis=1), node("Slice", "c two ten one", "t")],
    "cut far": [node("Concat", "e h", "c", axis=1), node("Slice", "c two thirty one", "t")],
    "from behind": [node("Concat", "h e", "c", axis=1), node("Slice", "c behind end one", "t")],
    "picked": [node("Concat", "e h", "c", axis=1), node("Gather", "c places", "t", axis=1)],
    "picked from behind": [node("Concat", "h e", "c", axis=1), node("Gather", "c ends", "t", axis=1)],
    "count": [
        node("Concat", "e h", "c", axis=1),
        node("Shape", "c", "cs"),
        node("Slice", "cs one two", "count"),
        node("Cast", "count", "many", to=onnx.TensorProto.FLOAT),
        node("Div", "c many", "d"),
        node("Slice", "d four end one", "t"),
    ],
    "size": [
        node("Concat", "e h", "c", axis=1),
        node("Size", "c", "count"),
        node("Cast", "count", "many", to=onnx.TensorProto.FLOAT),
        node("Div", "c many", "d"),
        node("Slice", "d four end one", "t"),
    ],
    "reshaped": [
        node("Concat", "e h", "c", axis=1),
        node("Shape", "c", "cs"),
        node("Slice", "cs zero two", "lead"),
        node("Concat", "lead two three", "as", axis=0),
        node("Reshape", "c as", "p"),
        node("Transpose", "p", "q", perm=[0, 2, 1, 3]),
        node("Relu", "q", "r"),
        node("Transpose", "r", "s", perm=[0, 2, 1, 3]),
        node("Reshape", "s cs", "d"),
        node("Slice", "d four end one", "t"),
    ],
    "rows": [
        node("Concat", "e h", "c", axis=1),
        node("Shape", "c", "cs"),
        node("Gather", "cs zero", "n0"),
        node("Gather", "cs one", "n1"),
        node("Mul", "n0 n1", "rows"),
        node("Concat", "rows six", "fs", axis=0),
        node("Reshape", "c fs", "f"),
        node("Relu", "f", "g"),
        node("Reshape", "g cs", "d"),
        node("Slice", "d four end one", "t"),
    ],
    "parts": [
        node("Concat", "e h", "c", axis=1),
        node("Slice", "hs one two", "rest"),
        node("Concat", "four rest", "sizes", axis=0),
        node("Split", "c sizes", "front t", axis=1),
        node("ReduceMax", "front", "unused"),
    ],
}
PRUNABLE = {"sum", "cut across", "cut far", "picked", "count", "reshaped", "rows", "parts"}


@pytest.mark.parametrize("name", HALVES)
def test_sizes_follow_at_every_length(name: str) -> None:
    """Learnt tokens are joined with others, of which there are 13 when sizes are taken."""
    numbers = {"zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "six": 6, "ten": 10, "thirty": 30}
    weights = {key: np.array([value]) for key, value in numbers.items()}
    weights |= {"end": np.array([2**40]), "behind": np.array([-6]), "places": np.array([1, 5])}
    weights |= {"ends": np.array([-1, -2]), "learnt": normal(1, 4, 6), "a": normal(5, 6), "w": normal(6, 2)}
    proto = model([*TOKENS, *HALVES[name], node("MatMul", "t w", "y")], weights, x=("N", "T", 5))
    coupling = couple(prepare(ir.from_proto(proto)))
    tokens = [group for group in coupling.groups for site in group.sites if site == ("learnt", 1)]
    assert bool(tokens) == (name in PRUNABLE)
    for seed in range(3):
        keep = random_keep(coupling, seed)
        small = coupling.model.clone()
        RemoveChannels(keep).call(small)
        reference = silence(coupling.model, keep)
        for samples, length in ((2, 13), (1, 2), (3, 40), (2, 7)):
            x = normal(samples, length, 5)
            np.testing.assert_allclose(run(small, x), run(reference, x), rtol=1e-4, atol=1e-5)


def test_values_keep_their_names_where_they_are_computed_otherwise() -> None:
    """Local response normalisation becomes other nodes; what it gave is still found under its name."""
    nodes = [node("Conv", "x a", "h"), node("LRN", "h", "l", size=3), node("Conv", "l b", "y")]
    proto = model(nodes, {"a": normal(6, 3, 1, 1), "b": normal(2, 6, 1, 1)})
    coupling = check(proto)
    (group,) = coupling.groups
    small = coupling.model.clone()
    RemoveChannels({group.id: np.arange(6) > 1}).call(small)
    named = {str(value.name): value for one in small.graph for value in one.outputs}
    assert named["l"].producer().op_type == "Div"
    assert named["l"].shape[1] == 4


@pytest.mark.parametrize("op_type", ["MatMulInteger", "ConvInteger"])
@pytest.mark.parametrize("zero", [None, 0, 7])
def test_zero_points_of_what_is_silenced(op_type: str, zero: int | None) -> None:
    """A removed input counts as nothing: the zero point stands in the weight it meets."""
    convolution = op_type == "ConvInteger"
    integers = np.random.default_rng(0).integers(0, 200, (6, 4) if not convolution else (4, 6, 1, 1))
    weights = {"a": normal(3, 6, 1, 1).transpose(1, 0, 2, 3), "b": integers.astype(np.uint8)}
    weights |= {"scale": np.float32(0.05), "zx": np.uint8(128), "k": np.uint8(zero or 0)}
    operands = "i b" if zero is None else "i b zx k"
    nodes = [node("Conv", "x a", "h"), node("QuantizeLinear", "h scale zx", "q")]
    nodes.append(node("Transpose", "q", "i", perm=[0, 1, 2, 3] if convolution else [0, 2, 3, 1]))
    nodes += [node(op_type, operands, "m"), node("Cast", "m", "y", to=onnx.TensorProto.FLOAT)]
    coupling = check(model(nodes, weights))
    assert sizes(coupling) == [6]
