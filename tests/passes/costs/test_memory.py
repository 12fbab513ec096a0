"""Memory of activations against a simulation on concrete shapes, removal, and onnxruntime's own figures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from channel_helpers import counted, random_keep
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nets import NETS, shapes_of
from random_graphs import BUILDERS, build
from simulated_memory import simulated_peak

from obs_onnx.passes.canonical.own_constants import prepare
from obs_onnx.passes.channels.coupling import Coupling, couple
from obs_onnx.passes.channels.remove_channels import RemoveChannels
from obs_onnx.passes.costs.memory import Memory, Peak, lifetimes, peak_memory, static_sizes

BY_HAND = """g (float[N,4] x) => (float[N,2] y) {
    [a] a = Gemm (x, w1)
    [b] b = Reshape (a, shape)
    [c] c = Relu (b)
    [d] d = Sqrt (c)
    [e] e = Add (c, b)
    [f] f = Add (e, d)
    [h] h = Flatten (f)
    [y] y = Gemm (h, w2)
}"""


def bytes_at(coupling: Coupling, shapes: Mapping[ir.Value, tuple[int, ...]]) -> dict[str, int]:
    dtypes = coupling.graph.concrete.dtypes
    return {str(value.name): int(np.prod(shape)) * dtypes[value].itemsize for value, shape in shapes.items()}


def test_by_hand(make_model) -> None:
    tensors = {
        "w1": np.ones((4, 6), np.float32),
        "w2": np.ones((6, 2), np.float32),
        "shape": np.array([0, 3, 2], np.int64),
    }
    model = make_model(BY_HAND, tensors)
    sizes = dict.fromkeys("abcdefh", 24) | {"x": 16, "y": 8}
    # at e: a (seen as b), c, d (needed by f) and e itself; x is gone
    assert peak_memory(model, sizes) == Peak(4 * 24, "e")
    spans = {str(value.name): span for value, span in lifetimes(model.graph).items()}
    assert spans == {
        "x": (0, 0),
        "a": (0, 4),
        "c": (2, 4),
        "d": (3, 5),
        "e": (4, 5),
        "f": (5, 7),
        "y": (7, 7),
    }


def test_bodies_weights_and_unused_values(make_model) -> None:
    model = make_model(
        "g (float[4] x, bool c) => (float[4] y) {"
        " a = Relu (x) b = Relu (a) v = Neg (w)"
        " r = If (c) <then_branch = t () => (float[4] p) { p = Sqrt (a) },"
        " else_branch = e () => (float[4] q) { q = Mul (b, v) }>"
        " unused = Neg (r) y = Abs (r) }",
        {"w": np.ones(4, np.float32)},
    )
    spans = {str(value.name): span for value, span in lifetimes(model.graph).items()}
    assert spans == {
        "x": (0, 0),
        "c": (0, 3),
        "a": (0, 3),
        "b": (1, 3),
        "r": (3, 5),
        "unused": (4, 4),
        "y": (5, 5),
    }


@pytest.mark.parametrize("name", sorted(NETS))
def test_pruned_nets(name: str) -> None:
    """Prediction, the formula on the pruned graph, and a simulation on the shapes that ONNX infers for it."""
    model = prepare(ir.from_proto(NETS[name]()))
    coupling = couple(model)
    shapes = shapes_of(ir.to_proto(model), samples=1)
    memory = Memory(coupling, {key: 4 * int(np.prod(shape)) for key, shape in shapes.items()})
    for seed in range(4):
        keep = random_keep(coupling, seed)
        small = model.clone()
        RemoveChannels(keep).call(small)
        proto = onnx.ModelProto.FromString(ir.to_proto(small).SerializeToString())
        after = {key: 4 * int(np.prod(shape)) for key, shape in shapes_of(proto, samples=1).items()}
        simulated = simulated_peak(proto, after)
        assert peak_memory(small, after).bytes == simulated
        assert memory.value(counted(keep)) == pytest.approx(simulated, rel=1e-12)


@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(BUILDERS)), st.integers(0, 2), st.integers(0, 2**16)),
        min_size=1,
        max_size=10,
    ),
    st.integers(0, 2**16),
)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_random_graphs(chosen: list[tuple[str, int, int]], seed: int) -> None:
    model = prepare(ir.from_proto(build(chosen)))
    coupling = couple(model)
    dense = bytes_at(coupling, coupling.graph.concrete.shapes)
    assert peak_memory(model, dense).bytes == simulated_peak(ir.to_proto(model), dense)
    memory, keep = Memory(coupling, dense), random_keep(coupling, seed)
    assert memory.value({}) == peak_memory(model, dense).bytes
    real = peak_memory(model, bytes_at(coupling, coupling.shapes(keep))).bytes
    counts = counted(keep)
    assert memory.value(counts) == pytest.approx(real, rel=1e-12)
    for limit in (0.7 * real, real * (1 + 1e-9), memory.value({})):
        assert all(cost.value(counts) <= most for cost, most in memory.limits(limit)) == (real <= limit)


def test_samples_of_the_run_count(make_model) -> None:
    text = "g (float[N,3,S] x) => (float[N,4,S] y) { h = Conv (x, w) r = Relu (h) y = Conv (r, v) }"
    tensors = {"w": np.ones((8, 3, 1), np.float32), "v": np.ones((4, 8, 1), np.float32)}
    coupling = couple(prepare(make_model(text, tensors)))
    sizes = {"x": 4 * 3 * 50, "h": 4 * 8 * 50, "r": 4 * 8 * 50, "y": 4 * 4 * 50}
    memory = Memory(coupling, sizes)
    assert memory.value({}) == 4 * 50 * 16
    assert memory.value({coupling.groups[0].id: 5}) == 4 * 50 * 10
    assert memory.value({coupling.groups[0].id: 1}) == 4 * 50 * 5
    assert static_sizes(coupling.model)["r"] == 4 * 8


@pytest.mark.parametrize("name", ["mlp", "residual"])
def test_against_what_onnxruntime_counts(name: str, tmp_path: Path) -> None:
    """A profile names the bytes that every node reads and writes: at least the largest sum is in memory."""
    model = prepare(ir.from_proto(NETS[name]()))
    sizes = static_sizes(model)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_profiling, options.profile_file_prefix = True, str(tmp_path / "profile")
    options.log_severity_level = 3
    session = ort.InferenceSession(
        ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    session.run(None, {s.name: np.zeros([1, *s.shape[1:]], np.float32) for s in session.get_inputs()})
    events = json.loads(Path(session.end_profiling()).read_text())
    kernels = {
        event["name"].removesuffix("_kernel_time"): event["args"]
        for event in events
        if event["name"].endswith("_kernel_time")
    }
    assert len(kernels) == len(model.graph)
    both = []
    for node in model.graph:
        args = kernels[str(node.name)]
        read = {value for value in node.inputs if value is not None and not value.is_initializer()}
        assert int(args["output_size"]) == sum(sizes[str(value.name)] for value in node.outputs)
        assert int(args["activation_size"]) == sum(sizes[str(value.name)] for value in read)
        if node.op_type not in ("Identity", "Flatten"):
            both.append(int(args["output_size"]) + int(args["activation_size"]))
    peak = peak_memory(model, sizes).bytes
    assert peak == max(both) if name == "mlp" else peak >= max(both)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenetv2", "resnet32", "vit"])
def test_real_models_are_exact(outside_data: Path, name: str) -> None:
    model = prepare(ir.load(outside_data / "models" / f"{name}.onnx"))
    coupling = couple(model)
    memory = Memory(coupling, static_sizes(model))
    for seed in range(3):
        keep = random_keep(coupling, seed)
        small = model.clone()
        RemoveChannels(keep).call(small)
        assert memory.value(counted(keep)) == peak_memory(small, static_sizes(small)).bytes
