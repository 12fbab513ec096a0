"""Nets that went through onnxruntime's optimizer are pruned as those that did not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from nets import build_model, data, run_proto

import obs_onnx
from obs_onnx.passes.errors import ModelError

Build = Callable[[int], onnx.ModelProto]

BASIC = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
EXTENDED = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
ALL = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
INPUT = {"cnn": (3, 8, 8), "depthwise": (3, 8, 8), "transformer": (5, 12), "lstm": (5, 12)}


class Weights(dict[str, np.ndarray]):
    """Initializers with a scale that keeps activations as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.rng = np.random.default_rng(0)

    def add(self, name: str, *shape: int, fan: int) -> str:
        self[name] = (self.rng.standard_normal(shape) * np.sqrt(2 / fan)).astype(np.float32)
        return name

    def conv(self, y: str, x: str, o: int, i: int, k: int = 3, group: int = 1) -> str:
        """A convolution and a BatchNormalization, whose result is ``y``."""
        self.add(f"{y}.w", o, i // group, k, k, fan=i // group * k * k)
        for part, low, high in (("s", 0.5, 1.5), ("b", -0.2, 0.2), ("m", -0.2, 0.2), ("v", 0.5, 1.5)):
            self[f"{y}.{part}"] = self.rng.uniform(low, high, o).astype(np.float32)
        pads = [k // 2] * 4
        return (
            f'"{y}.c" = Conv<pads = {pads}, group = {group}>({x}, "{y}.w") '
            f'{y} = BatchNormalization("{y}.c", "{y}.s", "{y}.b", "{y}.m", "{y}.v") '
        )

    def dense(self, y: str, x: str, i: int, o: int) -> str:
        self.add(f"{y}.w", i, o, fan=i)
        self.add(f"{y}.b", o, fan=200)
        return f'"{y}.p" = MatMul({x}, "{y}.w") {y} = Add("{y}.p", "{y}.b") '


def cnn(opset: int) -> onnx.ModelProto:
    w = Weights()
    body = (
        w.conv("a", "x", 16, 3)
        + "b = Relu(a) "
        + w.conv("c", "b", 24, 16)
        + "d = LeakyRelu<alpha = 0.1>(c) "
        + w.conv("e", "d", 16, 24)
        + "f = Add(e, b) g = Relu(f) "
        + w.conv("h", "g", 24, 16)
        + "i = Sigmoid(h) j = GlobalAveragePool(i) k = Flatten(j) y = Gemm(k, head, bias)"
    )
    w.add("head", 24, 5, fan=24)
    w.add("bias", 5, fan=200)
    return build_model(f"g (float[N,3,8,8] x) => (float[N,5] y) {{ {body} }}", w, opset=opset, ir_version=8)


def depthwise(opset: int) -> onnx.ModelProto:
    w = Weights()
    body = (
        w.conv("a", "x", 16, 3)
        + "b = Relu(a) "
        + w.conv("c", "b", 32, 16, k=1)
        + "d = Relu(c) "
        + w.conv("e", "d", 32, 32, group=32)
        + "f = Sigmoid(e) g = Mul(e, f) "
        + w.conv("h", "g", 16, 32, k=1)
        + "i = Add(h, b) j = GlobalAveragePool(i) k = Flatten(j) y = Gemm(k, head, bias)"
    )
    w.add("head", 16, 5, fan=16)
    w.add("bias", 5, fan=200)
    return build_model(f"g (float[N,3,8,8] x) => (float[N,5] y) {{ {body} }}", w, opset=opset, ir_version=8)


def _mean(y: str, x: str, axis: int, opset: int, keepdims: int = 1) -> str:
    if opset >= 18:
        return f"{y} = ReduceMean<keepdims = {keepdims}>({x}, axis{axis + 1}) "
    return f"{y} = ReduceMean<axes = [{axis}], keepdims = {keepdims}>({x}) "


def _norm(y: str, x: str, opset: int) -> str:
    return (
        _mean(f"{y}m", x, -1, opset)
        + f"{y}d = Sub({x}, {y}m) {y}q = Pow({y}d, two) "
        + _mean(f"{y}v", f"{y}q", -1, opset)
        + f"{y}e = Add({y}v, tiny) {y}r = Sqrt({y}e) {y}n = Div({y}d, {y}r) "
        + f"{y}s = Mul({y}n, scale) {y} = Add({y}s, shift) "
    )


def transformer(opset: int) -> onnx.ModelProto:
    """A block with attention of four heads, with normalizations and Gelu spelled out as old exporters do."""
    w, width = Weights(), 24
    w.update(
        {
            "axis0": np.array([-1]),
            "axis2": np.array([1]),
            "two": np.float32(2),
            "tiny": np.float32(1e-5),
            "scale": w.rng.uniform(0.5, 1.5, width).astype(np.float32),
            "shift": w.rng.uniform(-0.2, 0.2, width).astype(np.float32),
            "split": np.array([0, 0, 4, 6]),
            "merge": np.array([0, 0, width]),
            "root": np.float32(6**0.5),
            "root2": np.float32(2**0.5),
            "one": np.float32(1),
            "half": np.float32(0.5),
        }
    )
    heads = "".join(
        w.dense(part, "n0", width, width)
        + f"{part}s = Reshape({part}, split) {part}t = Transpose<perm = {perm}>({part}s) "
        for part, perm in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3]))
    )
    body = (
        w.dense("h0", "x", 12, width)
        + _norm("n0", "h0", opset)
        + heads
        + "s0 = MatMul(qt, kt) s1 = Div(s0, root) s2 = Softmax<axis = 3>(s1) s3 = MatMul(s2, vt) "
        + "s4 = Transpose<perm = [0, 2, 1, 3]>(s3) s5 = Reshape(s4, merge) "
        + w.dense("o", "s5", width, width)
        + "r1 = Add(o, n0) "
        + _norm("n1", "r1", opset)
        + w.dense("u", "n1", width, 4 * width)
        + "g0 = Div(u, root2) g1 = Erf(g0) g2 = Add(g1, one) g3 = Mul(u, g2) g4 = Mul(g3, half) "
        + w.dense("z", "g4", 4 * width, width)
        + "r2 = Add(z, n1) "
        + _norm("n2", "r2", opset)
        + _mean("pooled", "n2", 1, opset, keepdims=0)
        + w.dense("y", "pooled", width, 5)
    )
    if opset < 18:
        del w["axis0"], w["axis2"]
    return build_model(f"g (float[N,T,12] x) => (float[N,5] y) {{ {body} }}", w, opset=opset, ir_version=8)


def lstm(opset: int) -> onnx.ModelProto:
    w, hidden = Weights(), 16
    w.add("lw", 1, 4 * hidden, 12, fan=12)
    w.add("lr", 1, 4 * hidden, hidden, fan=hidden)
    w["one"] = np.array([1])
    squeeze = "c = Squeeze(b, one)" if opset >= 13 else "c = Squeeze<axes = [1]>(b)"
    body = (
        "a = Transpose<perm = [1, 0, 2]>(x) "
        f"b = LSTM<hidden_size = {hidden}>(a, lw, lr) {squeeze} "
        + w.dense("d", "c", hidden, 24)
        + "e = Relu(d) "
        + w.dense("f", "e", 24, 5)
        + "y = Transpose<perm = [1, 0, 2]>(f)"
    )
    if opset < 13:
        del w["one"]
    return build_model(f"g (float[N,T,12] x) => (float[N,T,5] y) {{ {body} }}", w, opset=opset, ir_version=8)


NETS: dict[str, Build] = {"cnn": cnn, "depthwise": depthwise, "transformer": transformer, "lstm": lstm}


def saved(proto: onnx.ModelProto, path: Path, level: ort.GraphOptimizationLevel) -> Path:
    """The file that onnxruntime writes of what it makes of a model."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = level
    options.optimized_model_filepath = str(path)
    ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return path


@pytest.mark.parametrize(
    ("kind", "opset", "level"),
    [
        ("cnn", 9, EXTENDED),
        ("cnn", 17, BASIC),
        ("cnn", 22, EXTENDED),
        ("depthwise", 11, BASIC),
        ("depthwise", 14, EXTENDED),
        ("transformer", 12, EXTENDED),
        ("transformer", 13, BASIC),
        ("transformer", 20, EXTENDED),
        ("lstm", 8, EXTENDED),
        ("lstm", 18, BASIC),
    ],
)
def test_what_the_optimizer_saves_is_pruned(
    kind: str, opset: int, level: ort.GraphOptimizationLevel, tmp_path: Path
) -> None:
    path = saved(NETS[kind](opset), tmp_path / "m.onnx", level)
    x = data(0, 64, *INPUT[kind])
    options = {"targets": {"macs": 0.6}, "effort": "quick", "latency": False, "threads": 1, "round_to": 1}
    result = obs_onnx.prune(path, tmp_path / "m.pruned.onnx", calib=x, **options)
    assert result.report.met
    assert result.report.after.macs <= 0.6 * result.report.before.macs
    (before,) = run_proto(onnx.load(path), {"x": x}).values()
    (after,) = run_proto(onnx.load(tmp_path / "m.pruned.onnx"), {"x": x}).values()
    error = np.linalg.norm(after - before) / np.linalg.norm(before)
    assert 0 < error < 0.6


def test_a_layout_of_one_machine_is_refused(tmp_path: Path) -> None:
    path = saved(cnn(17), tmp_path / "m.onnx", ALL)
    domains = {node.domain for node in onnx.load(path).graph.node}
    if "com.microsoft.nchwc" not in domains:
        pytest.skip("onnxruntime keeps the layout on this machine")
    for run in (obs_onnx.inspect, obs_onnx.prune):
        with pytest.raises(ModelError, match=r"weights laid out for one machine .* level 'extended'"):
            run(path)
    assert [one.name for one in tmp_path.iterdir()] == ["m.onnx"]
