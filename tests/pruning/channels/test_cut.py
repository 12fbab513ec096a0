"""Whole runs on models that end in a decision, or in what the runtime does not have."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from decided_nets import HEADS, decided, detector, images, plugin
from nets import run_proto

import obs_onnx
from obs_onnx.passes.channels.keep_file import replay

FAST = {"effort": "quick", "threads": 1, "latency": False}


def pruned(proto: onnx.ModelProto, folder: Path, **options: object) -> tuple[onnx.ModelProto, object]:
    """The file that is written, and the report."""
    onnx.save(proto, folder / "m.onnx")
    known = {"calib": {"x": images(48)}, **FAST, **options}
    report = obs_onnx.prune(folder / "m.onnx", output=folder / "s.onnx", **known).report
    return onnx.load(folder / "s.onnx"), report


def shapes(proto: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    return {tensor.name: tuple(tensor.dims) for tensor in proto.graph.initializer if tensor.name[0] in "wb"}


def silenced(proto: onnx.ModelProto, small: onnx.ModelProto, keep: dict[str, object]) -> onnx.ModelProto:
    """The dense model with the weights of ``small`` where they stay, and zeros where they went."""
    again, left = (
        onnx.ModelProto.FromString(proto.SerializeToString()),
        {t.name: t for t in small.graph.initializer},
    )
    for tensor in again.graph.initializer:
        if tensor.name not in left or tensor.name not in keep["tensors"]:
            continue
        full = np.zeros(tuple(tensor.dims), np.float32)
        kept = [keep["tensors"][tensor.name].get(str(axis), range(n)) for axis, n in enumerate(full.shape)]
        full[np.ix_(*kept)] = onnx.numpy_helper.to_array(left[tensor.name])
        tensor.CopyFrom(onnx.numpy_helper.from_array(full, tensor.name))
    return again


def test_a_detector_with_its_decision_prunes_as_far_as_without(tmp_path: Path) -> None:
    """Same channels; and what is chosen is chosen from the boxes and scores of the smaller model."""
    (tmp_path / "bare").mkdir()
    small, report = pruned(detector(), tmp_path, targets={"error": 0.5})
    bare, other = pruned(detector(nms=False), tmp_path / "bare", targets={"error": 0.5})
    assert report.output_error == pytest.approx(other.output_error, rel=1e-3)
    assert shapes(small) == shapes(bare)
    assert shapes(small) != shapes(detector())
    onnx.checker.check_model(small, full_check=True)
    assert small.graph.output == detector().graph.output
    assert any("bs, scores_, on which" in note for note in report.notes)
    keep = json.loads((tmp_path / "s.keep.json").read_text())
    reference = silenced(detector(), small, keep)
    for seed in range(5):
        expected = run_proto(reference, {"x": images(1, seed)})
        for name, y in run_proto(small, {"x": images(1, seed)}).items():
            np.testing.assert_allclose(y, expected[name], 1e-4, 1e-4)


def test_training_and_gradients_work_in_front_of_the_decision(tmp_path: Path) -> None:
    small, report = pruned(detector(), tmp_path, targets={"macs": 0.5}, finetune=20, criterion="taylor")
    assert report.met
    assert report.finetune["after"]["loss"] < report.finetune["before"]["loss"]
    assert run_proto(small, {"x": images(1)})["boxes"].shape[1] == 4


def test_a_map_of_classes_is_measured_by_its_scores(tmp_path: Path) -> None:
    proto = decided("m = Conv(br, wb)  y = ArgMax <axis = 1, keepdims = 0> (m)", "int64[N,4,4] y", "N")
    small, report = pruned(proto, tmp_path, targets={"error": 0.1})
    assert report.met
    assert 0 < report.output_error <= 0.1
    x = images(32, 5)
    assert np.mean(run_proto(small, {"x": x})["y"] == run_proto(proto, {"x": x})["y"]) > 0.9


def test_single_weights_and_integers_go_in_front_of_the_decision_too(tmp_path: Path) -> None:
    small, report = pruned(detector(), tmp_path, mode="weights", targets={"sparsity": 0.5})
    assert report.met
    assert run_proto(small, {"x": images(1)}).keys() == {"boxes", "scores", "labels"}
    pruned(detector(), tmp_path, targets={"macs": 0.6}, quantize="int8")
    assert run_proto(onnx.load(tmp_path / "s.int8.onnx"), {"x": images(1)})["scores"].ndim == 1


@pytest.mark.parametrize("domain", ["TRT", ""])
def test_a_plugin_is_put_back_and_the_report_says_that_it_did_not_run(tmp_path: Path, domain: str) -> None:
    proto = plugin(domain)
    small, report = pruned(proto, tmp_path, targets={"macs": 0.5})
    assert report.met
    last, before = small.graph.node[-1], proto.graph.node[-1]
    assert (last.domain, last.op_type, last.input) == (domain, "EfficientNMS_TRT", before.input)
    assert (last.output, last.attribute) == (before.output, before.attribute)
    assert small.graph.output == proto.graph.output
    assert any("not run" in note and "EfficientNMS_TRT" in note for note in report.notes)
    keep = json.loads((tmp_path / "s.keep.json").read_text())
    again = ir.to_proto(replay(ir.from_proto(proto), keep))
    assert shapes(again) == shapes(small)


def test_limits_on_parameters_and_files_count_what_lies_behind(tmp_path: Path) -> None:
    table = np.random.default_rng(0).standard_normal((3, 400)).astype(np.float32)
    nodes = "i = ArgMax <axis = 1, keepdims = 0> (scores_)  y = Gather(table, i)"
    proto = decided(HEADS + nodes, "float[1,16,400] y, float[1,16,4] boxes_", table=table)
    small, report = pruned(proto, tmp_path, targets={"params": 0.6})
    assert report.met
    counts = [
        sum(np.prod(t.dims) for t in one.graph.initializer if t.data_type == 1) for one in (proto, small)
    ]
    assert counts[1] <= 0.6 * counts[0]
    assert (report.before.parameters, report.after.parameters) == tuple(counts)
