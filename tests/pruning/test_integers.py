"""Whole runs on models whose weights are stored as integers: they come out so, refitted and proven."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from integer_graphs import quantized
from nets import Net, data, residual
from onnx import numpy_helper

from obs_onnx import prune, replay
from obs_onnx.io.onnx_file import serialize

FORMATS = {
    "int8 for each output": {"per_channel": True, "weight": "QInt8"},
    "int8": {"per_channel": False, "weight": "QInt8"},
    "uint8": {"per_channel": False, "weight": "QUInt8", "symmetric": False},
    "uint8 for each output": {"per_channel": True, "weight": "QUInt8", "symmetric": False},
}


def outputs(proto: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> np.ndarray:
    return ort.InferenceSession(proto.SerializeToString()).run(None, feeds)[0]


def of(model) -> onnx.ModelProto:
    return onnx.ModelProto.FromString(serialize(model))


def kinds(proto: onnx.ModelProto) -> dict[str, set[int]]:
    """Types of the initializers that each operator reads at its first two inputs."""
    held = {one.name: one.data_type for one in proto.graph.initializer}
    found: dict[str, set[int]] = {}
    for node in proto.graph.node:
        for name in node.input[:2]:
            if name in held:
                found.setdefault(node.op_type, set()).add(held[name])
    return found


def stored_bytes(proto: onnx.ModelProto) -> int:
    return sum(numpy_helper.to_array(one).nbytes for one in proto.graph.initializer)


@pytest.mark.parametrize("form", FORMATS)
class TestQdq:
    @pytest.fixture
    def dense(self, form: str, tmp_path: Path) -> onnx.ModelProto:
        return quantized(residual(), data(0, 64, 3, 8, 8), tmp_path, **FORMATS[form])

    def test_it_comes_out_as_it_went_in_and_refitted(self, dense: onnx.ModelProto) -> None:
        x, test = data(1, 256, 3, 8, 8), data(2, 256, 3, 8, 8)
        expected = outputs(dense, {"x": test})
        errors = []
        for compensate in (True, False):
            found = prune(dense, calib={"x": x}, targets={"macs": 0.5}, compensate=compensate, effort="quick")
            small = of(found.model)
            assert found.report.met
            assert kinds(small) == kinds(dense)
            assert stored_bytes(small) < 0.75 * stored_bytes(dense)
            assert not found.report.alerts
            assert found.report.proof.differences == {"y": pytest.approx(0.0, abs=1e-6)}
            errors.append(np.linalg.norm(outputs(small, {"x": test}) - expected))
        assert errors[0] < 0.8 * errors[1]


class TestBlocks:
    @pytest.fixture(params=[True, False], ids=["symmetric", "zero points"])
    def dense(self, request: pytest.FixtureRequest) -> onnx.ModelProto:
        tool = pytest.importorskip("onnxruntime.quantization.matmul_nbits_quantizer")
        net, x, sizes = Net(3), "x", (24, 192, 128, 5)
        for number, (i, o) in enumerate(itertools.pairwise(sizes)):
            x = net.op("MatMul", x, net.weight(f"w{number}", i, o, fan_in=i))
            x = net.op("Add", x, net.weight(f"b{number}", o))
            x = net.op("Relu", x) if o != sizes[-1] else net.op("Identity", x, name="y")
        plain = net.proto({"x": [24]}, {"y": [5]})
        made = tool.MatMulNBitsQuantizer(plain, block_size=16, is_symmetric=request.param)
        made.process()
        assert [node.op_type for node in made.model.model.graph.node].count("MatMulNBits") == 3
        return made.model.model

    def test_blocks_go_and_the_rest_is_refitted(self, dense: onnx.ModelProto) -> None:
        x, test = data(1, 512, 24), data(2, 256, 24)
        expected = outputs(dense, {"x": test})
        errors = []
        for compensate in (True, False):
            found = prune(dense, calib={"x": x}, targets={"macs": 0.6}, compensate=compensate)
            small = of(found.model)
            assert found.report.met
            assert kinds(small) == kinds(dense)
            assert stored_bytes(small) < 0.75 * stored_bytes(dense)
            assert found.report.proof.largest < found.report.proof.tolerance
            errors.append(np.linalg.norm(outputs(small, {"x": test}) - expected))
        assert errors[0] < 0.8 * errors[1]

    def test_what_is_kept_is_kept_again(self, dense: onnx.ModelProto, tmp_path: Path) -> None:
        x = data(1, 256, 24)
        found = prune(
            dense, calib={"x": x}, targets={"macs": 0.6}, compensate=False, output=tmp_path / "small.onnx"
        )
        again = replay(dense, keep=tmp_path / "small.keep.json")
        feeds = {"x": data(2, 64, 24)}
        np.testing.assert_allclose(
            outputs(of(again.model), feeds), outputs(of(found.model), feeds), rtol=1e-4, atol=1e-5
        )

    def test_zeros_are_zeros_of_the_integers(self, dense: onnx.ModelProto) -> None:
        x = data(1, 512, 24)
        found = prune(dense, calib={"x": x}, mode="weights", targets={"sparsity": 0.5})
        small = of(found.model)
        assert found.report.met
        assert kinds(small) == kinds(dense)
        assert stored_bytes(small) <= stored_bytes(dense)


def test_cast_and_mul_stay_integers(tmp_path: Path) -> None:
    net, rng = Net(), np.random.default_rng(0)
    x = "x"
    for name, i, o in (("a", 24, 96), ("b", 96, 64), ("c", 64, 5)):
        w = rng.standard_normal((i, o)) * (2 / i) ** 0.5
        scale = np.abs(w).max(axis=0, keepdims=True) / 127
        net.constant(f"{name}_q", np.rint(w / scale), np.int8)
        net.constant(f"{name}_s", scale)
        numbers = net.op("Mul", net.op("Cast", f"{name}_q", to=onnx.TensorProto.FLOAT), f"{name}_s")
        x = net.op("MatMul", x, numbers)
        x = net.op("Relu", x) if name != "c" else net.op("Identity", x, name="y")
    dense = net.proto({"x": [24]}, {"y": [5]})
    path = tmp_path / "small.onnx"
    found = prune(dense, calib={"x": data(1, 512, 24)}, targets={"params": 0.6}, output=path)
    small = onnx.load(path)
    assert found.report.met
    assert kinds(small)["Cast"] == {onnx.TensorProto.INT8}
    assert path.stat().st_size < 0.7 * len(dense.SerializeToString())
