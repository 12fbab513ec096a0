"""Pairs of QuantizeLinear and DequantizeLinear as operators on integers: the same numbers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from integer_operators import outputs
from nets import Net
from onnxruntime import quantization

from obs_onnx.passes.canonical.plainer.integer_operators import as_operators


class Reader(quantization.CalibrationDataReader):
    def __init__(self, x: np.ndarray) -> None:
        self._feeds = iter([{"x": x}])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


def pairs(proto: onnx.ModelProto, x: np.ndarray, folder: Path, **given: object) -> onnx.ModelProto:
    """The model with pairs, by onnxruntime."""
    onnx.save(proto, folder / "float.onnx")
    quantization.quantize_static(
        folder / "float.onnx",
        folder / "qdq.onnx",
        Reader(x),
        quant_format=quantization.QuantFormat.QDQ,
        **given,
    )
    return onnx.load(folder / "qdq.onnx")


def net() -> Net:
    """Convolutions with a sum, Clip, MaxPool and a join, a mean, and a product."""
    made = Net(3)
    a = made.op("Relu", made.conv("x", "a", 8, 3))
    b = made.op("Add", made.conv(a, "b", 8, 8), a)
    c = made.op("MaxPool", made.op("Relu", b), kernel_shape=[2, 2], strides=[2, 2])
    top = made.constant("top", 6.0)
    e = made.op("Clip", made.conv(c, "c", 4, 8), made.constant("low", 0.0), top)
    d = made.op("Flatten", made.op("GlobalAveragePool", made.op("Concat", e, c, axis=1)))
    made.op("Identity", made.dense(d, "g", 12, 5), name="y")
    return made


@pytest.mark.parametrize("per_channel", [False, True])
def test_all_of_a_net(per_channel: bool, tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((16, 3, 8, 8)).astype(np.float32)
    proto = pairs(net().proto({"x": [3, 8, 8]}, {"y": [5]}), x, tmp_path, per_channel=per_channel)
    model = ir.from_proto(proto)
    found = as_operators(model)
    after = ir.to_proto(found)
    counts = Counter(node.op_type for node in after.graph.node)
    assert counts["QLinearConv"] == 3
    assert counts["QGemm"] == counts["QLinearAdd"] == counts["QLinearConcat"] == counts["MaxPool"] == 1
    assert not {"Conv", "Gemm", "Relu", "Clip", "Add", "Concat"} & set(counts)
    assert counts["QuantizeLinear"] == counts["DequantizeLinear"] == 1
    expected = outputs(proto, x)
    np.testing.assert_allclose(outputs(after, x), expected, atol=1e-2 * np.abs(expected).max())
    assert Counter(node.op_type for node in model.graph)["Conv"] == 3
    assert all(node.name for node in found.graph)


@pytest.mark.parametrize(("scale", "stays"), [(6 / 255, False), (8 / 255, True)])
def test_a_clip_goes_where_integers_end_with_it(scale: float, stays: bool, make_model) -> None:
    held = {"s": np.float32(scale), "z": np.uint8(0), "w": np.ones((2, 2, 1, 1), np.int8)}
    held |= {"t": np.float32(0.1), "k": np.int8(0), "low": np.float32(0), "high": np.float32(6)}
    model = make_model(
        "g (uint8[N,2,4,4] q) => (uint8[N,2,4,4] y) { x = DequantizeLinear(q, s, z)"
        "v = DequantizeLinear(w, t, k) c = Conv(x, v) d = Clip(c, low, high) y = QuantizeLinear(d, s, z) }",
        held,
    )
    kinds = [node.op_type for node in as_operators(model).graph]
    assert ("Clip" in kinds) == stays
    assert ("QLinearConv" in kinds) != stays
