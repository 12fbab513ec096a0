"""quantize(): a model in integers, beside the float one."""

from __future__ import annotations

import json
from pathlib import Path

import nets
import numpy as np
import onnx
import pytest
from nets import mlp, run_proto
from repository import MODELS

import obs_onnx
from obs_onnx.passes.errors import ModelError, OptionError

ROWS = {"x": nets.data(0, 96, 12)}
KINDS = ["int8", "int8-weights", "int4-weights"]


@pytest.mark.parametrize("to", KINDS)
def test_a_file_and_its_report(tmp_path: Path, to: str) -> None:
    onnx.save(mlp(), tmp_path / "m.onnx")
    result = obs_onnx.quantize(tmp_path / "m.onnx", tmp_path / f"m.{to}.onnx", calib=ROWS, to=to, threads=1)
    report = result.report
    assert report.output == str(tmp_path / f"m.{to}.onnx")
    assert {path.name for path in tmp_path.iterdir()} == {"m.onnx", f"m.{to}.onnx"}
    reference, found = (run_proto(onnx.load(tmp_path / n), ROWS)["y"] for n in ("m.onnx", f"m.{to}.onnx"))
    assert 0 < np.linalg.norm(found - reference) < 0.2 * np.linalg.norm(reference)
    rows = {one.model: one for one in report.combinations}
    assert list(rows) == ["float", to]
    assert rows[to].file_bytes == (tmp_path / f"m.{to}.onnx").stat().st_size
    assert rows["float"].output_error is None
    assert 0 < rows[to].output_error < 0.2
    assert rows[to].latency_ms.median > 0
    assert "error feedback" in " ".join(report.notes)
    written = json.loads(json.dumps(report.to_json()))
    assert written["schema"] == 1
    assert written["to"] == to


def test_operators_on_integers(tmp_path: Path) -> None:
    """The same accuracy and no operator on numbers; it is a model that can be pruned in its form."""
    given = {"calib": MODELS / "digits_lenet.calib.npz", "eval": MODELS / "digits_lenet.test.npz"}
    given |= {"latency": False, "threads": 1}
    net = MODELS / "digits_lenet.onnx"
    found = {
        form: obs_onnx.quantize(net, tmp_path / f"{form}.onnx", quantize_format=form, **given).report
        for form in ("qdq", "qoperator")
    }
    pairs, operators = ({one.model: one for one in found[form].combinations}["int8"] for form in found)
    assert operators.accuracy == pytest.approx(pairs.accuracy, abs=0.002)
    assert operators.output_error == pytest.approx(pairs.output_error, rel=0.02)
    assert "operators on integers give" in " ".join(found["qoperator"].notes)
    kinds = {node.op_type for node in onnx.load(tmp_path / "qoperator.onnx").graph.node}
    assert "QLinearConv" in kinds
    assert not {"Conv", "Gemm", "MatMul"} & kinds


def test_a_fixed_batch_comes_back(tmp_path: Path) -> None:
    proto = mlp()
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    path = tmp_path / "q.onnx"
    obs_onnx.quantize(proto, path, calib=ROWS, to="int8-weights", latency=False, threads=1)
    found = onnx.load(path)
    assert found.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 4
    assert run_proto(found, {"x": ROWS["x"][:4]})["y"].shape == (4, 5)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"to": "int4"}, OptionError, "use one of int8"),
        ({"block_size": 20, "to": "int4-weights"}, OptionError, "no power of two"),
        ({"to": "int4-weights", "quantize_format": "qoperator"}, OptionError, "leave it out"),
        ({"custom_ops": ["x.so"]}, OptionError, "libraries of custom operators"),
    ],
)
def test_bad_options(tmp_path: Path, options: dict[str, object], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        obs_onnx.quantize(mlp(), tmp_path / "q.onnx", calib=ROWS, **options)
    assert not list(tmp_path.iterdir())


def test_nothing_to_quantize(make_proto, tmp_path: Path) -> None:
    proto = make_proto("g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }", {})
    with pytest.raises(ModelError, match="no layers"):
        obs_onnx.quantize(proto, tmp_path / "q.onnx", calib={"x": nets.data(0, 20, 4)})


def test_a_quantized_model_is_refused(tmp_path: Path) -> None:
    found = obs_onnx.quantize(mlp(), calib=ROWS, latency=False, threads=1).model
    with pytest.raises((OptionError, ModelError), match=r"quantized already|no layers"):
        obs_onnx.quantize(found, tmp_path / "q.onnx", calib=ROWS)
