"""What a model holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from obs_onnx import inspect
from obs_onnx.evaluation.model_figures import figures
from obs_onnx.evaluation.run_cost import RunCost
from obs_onnx.passes.canonical.canonicalize import canonicalize
from obs_onnx.passes.costs.memory import Peak
from obs_onnx.passes.errors import OptionError


def test_inspect_and_figures(make_proto, tmp_path: Path) -> None:
    weight = np.ones((8, 16), np.float32)
    weight[:3] = 0
    proto = make_proto(
        "g (float[N,8] x, int64[N] i) => (float[N,4] y)"
        "{ e = Gather(table, i) a = Gemm(x, w1, b1) s = Add(a, e) y = MatMul(s, w2) }",
        {
            "w1": weight,
            "b1": np.ones(16, np.float32),
            "w2": np.ones((16, 4), np.float16).astype(np.float32),
            "table": np.ones((10, 16), np.float32),
        },
    )
    onnx.save(proto, tmp_path / "m.onnx")
    found = inspect(tmp_path / "m.onnx")
    assert [(one.name, one.weights, one.nonzero, one.macs) for one in found.layers] == [
        ("w1", 128, 80, 128),
        ("w2", 64, 64, 64),
    ]
    assert found.totals == {
        "parameters": 128 + 16 + 64 + 160,
        "prunable": 192,
        "macs": 192,
        "peak_activation_bytes": 3 * 4 * 16,
        "peak_node": found.peak.node,
    }
    assert found.peak == Peak(3 * 4 * 16, str(canonicalize(ir.from_proto(proto)).graph.node(2).name))
    assert [(one.op_type, one.reason) for one in found.frozen] == [("Gather", "lookup tables are not pruned")]
    keys = {"schema", "model", "layers", "frozen", "groups", "frozen_channels", "shapes", "free"}
    assert set(found.to_json()) == keys | set(found.totals)
    assert [(one.channels, set(one.tensors), one.macs) for one in found.groups] == [
        (16, {("w1", 1), ("b1", 0), ("table", 1), ("w2", 0)}, 180)
    ]
    assert {(one.op_type, one.reason) for one in found.frozen_channels} == {
        ("Gather", "it is indexed at run time"),
        ("MatMul", "an output of the model keeps its shape"),
    }
    size = figures(ir.from_proto(proto), tmp_path / "m.onnx", 0.5, RunCost(192, Peak(96, "s"), {}))
    assert (size.parameters, size.nonzero, size.macs, size.accuracy) == (368, 320, 192, 0.5)
    assert size.peak_activation_bytes == 96
    assert size.file_bytes == (tmp_path / "m.onnx").stat().st_size
    assert 0 < size.compressed_bytes < size.file_bytes
    assert figures(ir.from_proto(proto), None, None, None).file_bytes is None


def test_parameters_in_constant_nodes_count_like_initializers(make_proto) -> None:
    weight = onnx.numpy_helper.from_array(np.eye(8, dtype=np.float32))
    proto = make_proto("g (float[N,8] x) => (float[N,8] y) { y = MatMul(x, w) }")
    proto.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["w"], value=weight))
    model = ir.from_proto(proto)
    for one in (model, canonicalize(model)):
        assert (figures(one, None, None, None).parameters, figures(one, None, None, None).nonzero) == (64, 8)


def test_sizes_at_which_it_counts(make_proto, tmp_path: Path) -> None:
    weight = np.ones((4, 3, 3, 3), np.float32)
    proto = make_proto(
        "g (float[N,3,H,W] x) => (float[N,4,H2,W2] y) { r = Relu(x) y = Conv <pads = [1,1,1,1]> (r, w) }",
        {"w": weight},
    )
    onnx.save(proto, tmp_path / "m.onnx")
    small = inspect(proto)
    assert (small.macs, small.shapes, small.free) == (4 * 27, {"x": (1, 3, 1, 1)}, ("N", "H", "W"))
    for model in (tmp_path / "m.onnx", proto, ir.from_proto(proto)):
        found = inspect(model, sizes={"H": 6, "W": 5})
        assert (found.macs, found.shapes, found.free) == (30 * 4 * 27, {"x": (1, 3, 6, 5)}, ("N",))
        assert found.layers[0].macs == found.macs
    assert found.to_json()["shapes"] == {"x": (1, 3, 6, 5)}
    with pytest.raises(
        OptionError, match="sizes h: no input has an axis of that name, the names are N, H, W"
    ):
        inspect(proto, sizes={"h": 6})
    with pytest.raises(OptionError, match="sizes H=0: give a whole number"):
        inspect(proto, sizes={"H": 0})
    with pytest.raises(OptionError, match=r"sizes H=2\.5: give a whole number"):
        inspect(proto, sizes={"H": 2.5})
