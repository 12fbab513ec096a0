"""pareto(): the models of a frontier are what it says they are, and it is a frontier."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from nets import run_proto
from onnx import numpy_helper, shape_inference
from repository import MODELS

from obs_onnx import Pareto, pareto, prune
from obs_onnx.passes.channels.keep_file import replay
from obs_onnx.passes.errors import DataError, MissingRuntimeError, ModelError, OptionError

TEST = MODELS / "digits_lenet.test.npz"

LENET = MODELS / "digits_lenet.onnx"


FAST = {"effort": "quick", "threads": 1, "seconds": 0.05, "latency": False}


BY_MACS = {**FAST, "cost": "macs", "points": 5}


def macs_of(proto: onnx.ModelProto) -> int:
    """Multiply-accumulates of one sample of a net of plain convolutions and Gemm, from its shapes."""
    proto = shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
    weights = {tensor.name: tensor.dims for tensor in proto.graph.initializer}
    values = [*proto.graph.value_info, *proto.graph.output]
    shapes = {v.name: [d.dim_value or 1 for d in v.type.tensor_type.shape.dim] for v in values}
    total = 0
    for node in proto.graph.node:
        if node.op_type == "Conv":
            total += math.prod(shapes[node.output[0]]) * math.prod(weights[node.input[1]][1:])
        elif node.op_type == "Gemm":
            total += math.prod(weights[node.input[1]])
    return total


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Pareto]:
    """A frontier by multiply-accumulates, and its folder."""
    folder = tmp_path_factory.mktemp("pareto") / "out"
    return folder, pareto(LENET, folder, eval=TEST, by="error", **{**BY_MACS, "latency": True})


class TestFolder:
    def test_nothing_is_dominated(self, traced: tuple[Path, Pareto]) -> None:
        frontier = traced[1].frontier
        points = [(point.macs, point.output_error) for point in (frontier.dense, *frontier.kept)]
        assert len(frontier.kept) >= 4
        for (more, less_error), (fewer, more_error) in pairwise(points):
            assert fewer < more
            assert less_error < more_error
        for point in frontier.points:
            worse = any(one[0] <= point.macs and one[1] <= point.output_error for one in points)
            assert worse if point.dominated else (point.macs, point.output_error) in points

    def test_models_are_what_the_list_says(self, traced: tuple[Path, Pareto]) -> None:
        folder, found = traced
        test = np.load(TEST)
        dense = run_proto(onnx.load(LENET), {"input": test["input"]})["logits"]
        errors = []
        for number, (point, model) in enumerate(zip(found.frontier.kept, found.models, strict=True), start=1):
            assert point.file == f"digits_lenet.{number:02d}.onnx"
            proto = onnx.load(folder / point.file)
            onnx.checker.check_model(proto, full_check=True)
            assert point.file_bytes == (folder / point.file).stat().st_size
            assert point.parameters == sum(numpy_helper.to_array(t).size for t in proto.graph.initializer)
            assert point.macs == macs_of(proto)
            y = run_proto(proto, {"input": test["input"]})["logits"]
            assert point.accuracy == np.mean(y.argmax(1) == test["labels"])
            assert np.allclose(run_proto(ir.to_proto(model), {"input": test["input"]})["logits"], y)
            errors.append(np.linalg.norm(y - dense) / np.linalg.norm(dense))
            assert errors[-1] == pytest.approx(point.output_error, rel=0.5)
            assert point.latency_ms == point.latency.median > 0
            assert point.ratio_interval[0] <= point.ratio <= point.ratio_interval[1]
        assert errors == sorted(errors)
        assert found.frontier.dense.macs == macs_of(onnx.load(LENET))

    def test_removals_can_be_repeated(self, traced: tuple[Path, Pareto]) -> None:
        folder, found = traced
        for point in found.frontier.kept:
            keep = json.loads((folder / point.file).with_suffix(".keep.json").read_text())
            small = onnx.load(folder / point.file)
            again = ir.to_proto(replay(ir.load(LENET), keep["tensors"]))
            sizes = [sorted(tuple(t.dims) for t in one.graph.initializer) for one in (small, again)]
            assert sizes[0] == sizes[1]

    def test_the_folder_is_complete(self, traced: tuple[Path, Pareto]) -> None:
        folder, found = traced
        names = [name for p in found.frontier.kept for name in (p.file, p.file.replace("onnx", "keep.json"))]
        assert sorted(path.name for path in folder.iterdir()) == sorted([*names, "pareto.json", "pareto.svg"])
        assert [path.name for path in folder.parent.iterdir()] == ["out"]
        assert "<svg" in (folder / "pareto.svg").read_text()

    def test_json(self, traced: tuple[Path, Pareto]) -> None:
        folder, found = traced
        read = json.loads((folder / "pareto.json").read_text(), parse_constant=pytest.fail)
        assert read == json.loads(json.dumps(found.frontier.to_json()))
        assert read["schema"] == 1
        keys = {"latency_ms", "ratio", "macs", "parameters", "file_bytes", "output_error", "agreement"}
        assert all({*keys, "accuracy", "file", "dominated"} <= set(point) for point in read["points"])
        assert [p["file"] for p in read["points"] if not p["dominated"]] == [
            p.file for p in found.frontier.kept
        ]

    def test_the_last_point_is_what_prune_gives(self, traced: tuple[Path, Pareto], tmp_path: Path) -> None:
        options = {"effort": "quick", "threads": 1, "latency": False, "eval": TEST}
        report = prune(LENET, tmp_path / "one.onnx", targets={"macs": 0.2}, **options).report
        last = traced[1].frontier.points[-1]
        assert (last.macs, last.parameters) == (report.after.macs, report.after.parameters)
        assert last.output_error == pytest.approx(report.output_error, rel=1e-6)


def test_a_model_in_memory_leaves_no_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    data = {"input": np.load(MODELS / "digits_lenet.calib.npz")["input"]}
    found = pareto(onnx.load(LENET), calib=data, **{**BY_MACS, "points": 2})
    assert list(tmp_path.iterdir()) == []
    assert [point.file for point in found.frontier.kept] == [None] * len(found.models)
    assert len(found.models) == 2
    assert all(point.latency_ms is None for point in found.frontier.points)


def test_by_accuracy(tmp_path: Path) -> None:
    found = pareto(LENET, tmp_path / "out", eval=TEST, **{**BY_MACS, "points": 4})
    assert found.frontier.by == "accuracy"
    kept = found.frontier.kept
    assert kept
    assert all(a.accuracy > b.accuracy and a.macs > b.macs for a, b in pairwise(kept))
    fewest = min(found.frontier.points, key=lambda point: point.macs)
    assert not fewest.dominated


def test_by_latency(make_proto: Callable[..., onnx.ModelProto], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    proto = make_proto(
        "g (float[N,256] x) => (float[N,8] y) { a = Gemm(x, w, b) r = Relu(a) y = Gemm(r, v) }",
        {
            "w": rng.normal(size=(256, 1024)).astype(np.float32) / 16,
            "b": rng.normal(size=1024).astype(np.float32),
            "v": rng.normal(size=(1024, 8)).astype(np.float32) / 32,
        },
    )
    x = (rng.normal(size=(256, 12)) @ rng.normal(size=(12, 256))).astype(np.float32)
    onnx.save(proto, tmp_path / "m.onnx")
    options = {**FAST, "latency": True, "seconds": 0.1}
    options |= {"calib": {"x": x}, "points": 3, "batch": 16, "round_to": 64}
    found = pareto(tmp_path / "m.onnx", tmp_path / "m.pareto", **options)
    frontier = found.frontier
    points = (frontier.dense, *frontier.kept)
    assert frontier.kept, "a hidden layer of 1,024 units for data of rank 12 can be smaller and faster"
    for a, b in pairwise(points):
        assert b.ratio < a.ratio
        assert b.latency_ms < a.latency_ms
        assert b.output_error > a.output_error
    assert frontier.kept[-1].ratio < 0.7
    assert {path.name for path in (tmp_path / "m.pareto").glob("m.??.onnx")} == {
        p.file for p in frontier.kept
    }


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "match"),
        [
            ({"points": 0}, "points 0"),
            ({"points": 100}, "points 100"),
            ({"cost": "sparsity"}, "sparsity"),
            ({"least": 1.0}, "least"),
            ({"least": float("nan")}, "least"),
            ({"by": "beauty"}, "beauty"),
            ({"effort": "none"}, "none"),
            ({"seconds": 0.0}, "seconds"),
            ({"seed": -1}, "seed"),
            ({"memory": 0}, "memory"),
            ({"cost": "latency"}, "latency"),
            ({"criterion": "best"}, "best"),
            ({"calib": "random:64", "by": "accuracy"}, "labelled"),
        ],
    )
    def test_options(self, tmp_path: Path, options: Mapping[str, object], match: str) -> None:
        with pytest.raises((OptionError, DataError), match=match):
            pareto(LENET, tmp_path / "out", **{**BY_MACS, **options})
        assert list(tmp_path.iterdir()) == []

    def test_folders(self, tmp_path: Path) -> None:
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "note.txt").write_text("mine")
        with pytest.raises(OptionError, match=r"full exists: choose another folder"):
            pareto(LENET, tmp_path / "full", **BY_MACS)
        with pytest.raises(OptionError, match="does not exist"):
            pareto(LENET, tmp_path / "no" / "out", **BY_MACS)
        with pytest.raises(OptionError, match=r"note\.txt exists"):
            pareto(LENET, tmp_path / "full" / "note.txt", **BY_MACS)
        assert (tmp_path / "full" / "note.txt").read_text() == "mine"

    def test_without_matplotlib(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        with pytest.raises(MissingRuntimeError, match=r"obs-onnx\[report\]"):
            pareto(LENET, tmp_path / "out", plot=True, **BY_MACS)
        assert list(tmp_path.iterdir()) == []
        found = pareto(LENET, tmp_path / "out", **{**BY_MACS, "points": 1})
        assert not (tmp_path / "out" / "pareto.svg").exists()
        assert any("plot" in note for note in found.frontier.notes)


def test_the_folder_is_complete_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import obs_onnx.entrypoints.pareto as home

    save, count = home.save_model, [0]

    def fails(*args: object) -> None:
        count[0] += 1
        if count[0] == 2:
            raise ModelError("the disk is full")
        save(*args)

    monkeypatch.setattr(home, "save_model", fails)
    (tmp_path / "out").mkdir()
    with pytest.raises(ModelError, match="full"):
        pareto(LENET, tmp_path / "out", **{**BY_MACS, "points": 3})
    assert count[0] == 2
    assert [path.name for path in tmp_path.rglob("*")] == ["out"]
