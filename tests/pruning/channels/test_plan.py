"""Channels from end to end: what prune() promises, measured on the written file with code of its own."""

from __future__ import annotations

import json
import os
from pathlib import Path

import nets
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nets import run_proto
from onnx import numpy_helper
from random_graphs import BUILDERS, SIZE, build

from obs_onnx import prune
from obs_onnx.criteria.channels import CRITERIA
from obs_onnx.passes.channels.keep_file import replay
from obs_onnx.passes.errors import DataError, OptionError

FAST = {"rotate": False, "effort": "quick", "threads": 1, "latency": False}
CLASSES = {"task": "classification"}
BARE = {**FAST, "compensate": False, "criterion": "magnitude"}
EXAMPLES = int(os.environ.get("OBS_ONNX_EXAMPLES", "10"))  # random graphs; hundreds find rare cases

ort.set_default_logger_severity(4)


def tensors_of(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


def feeds_of(proto: onnx.ModelProto, seed: int = 0, samples: int = 240) -> dict[str, np.ndarray]:
    """Data for a model of which all inputs are floats with the batch first."""
    return {
        value.name: nets.data(seed, samples, *(dim.dim_value for dim in value.type.tensor_type.shape.dim[1:]))
        for value in proto.graph.input
    }


def error_of(small: onnx.ModelProto, dense: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> float:
    """Relative output error by the definition of the report: root mean square over the outputs."""
    y, z = run_proto(dense, feeds), run_proto(small, feeds)
    return float(np.sqrt(np.mean([np.sum((z[name] - y[name]) ** 2) / np.sum(y[name] ** 2) for name in y])))


def written(
    proto: onnx.ModelProto, folder: Path, **options: object
) -> tuple[onnx.ModelProto, dict[str, dict[str, list[int]]], object]:
    """Prune a file; the model that lies there afterwards, its keep.json, and the report."""
    onnx.save(proto, folder / "m.onnx")
    options.setdefault("calib", feeds_of(proto) if "calib" not in options else None)
    report = prune(folder / "m.onnx", folder / "m.pruned.onnx", **{**FAST, **options}).report
    keep = json.loads((folder / "m.pruned.keep.json").read_text())
    assert set(keep) == {"schema", "tensors"}
    assert keep["schema"] == 1
    return onnx.load(folder / "m.pruned.onnx"), keep["tensors"], report


def sliced(array: np.ndarray, axes: dict[str, list[int]]) -> np.ndarray:
    for axis, kept in axes.items():
        array = array.take(kept, axis=int(axis))
    return array


def check(small: onnx.ModelProto, keep: dict[str, dict[str, list[int]]], dense: onnx.ModelProto) -> None:
    """Valid, free in its batch, and what keep.json says in terms of the dense model."""
    onnx.checker.check_model(small, full_check=True)
    assert small.graph.input == dense.graph.input
    assert small.graph.output == dense.graph.output
    for samples in (1, 5):
        feeds = feeds_of(dense, 1, samples)
        expected = run_proto(dense, feeds)
        assert {k: v.shape for k, v in run_proto(small, feeds).items()} == {
            k: v.shape for k, v in expected.items()
        }
    before, after = tensors_of(dense), tensors_of(small)
    assert set(keep) <= set(before)
    for name, axes in keep.items():
        for axis, kept in axes.items():
            assert kept == sorted(set(kept))
            assert 0 < len(kept) < before[name].shape[int(axis)]
            assert 0 <= kept[0] <= kept[-1] < before[name].shape[int(axis)]
        if name in after and after[name].dtype.kind == "f" and after[name].ndim == before[name].ndim:
            assert sliced(before[name], axes).shape == after[name].shape
    for name in set(before) & set(after) - set(keep):
        assert before[name].shape == after[name].shape
    again = ir.to_proto(replay(ir.from_proto(dense), keep))
    onnx.checker.check_model(again, full_check=True)
    shapes, found = nets.shapes_of(again, 3), nets.shapes_of(small, 3)
    computed = {name for node in small.graph.node for name in node.output} & set(shapes)
    assert len(computed) > len(small.graph.node) // 2
    assert {name: shapes[name] for name in computed} == {name: found[name] for name in computed}


@pytest.fixture(params=sorted(nets.NETS))
def net(request: pytest.FixtureRequest) -> onnx.ModelProto:
    return nets.NETS[request.param]()


class TestTargets:
    def test_multiply_accumulates(self, net: onnx.ModelProto, tmp_path: Path) -> None:
        small, keep, report = written(net, tmp_path, targets={"macs": 0.5}, **CLASSES)
        check(small, keep, net)
        assert 0.3 * nets.macs(net) < nets.macs(small) <= 0.5 * nets.macs(net)
        assert (report.before.macs, report.after.macs) == (nets.macs(net), nets.macs(small))
        assert report.met
        assert report.mode == "channels"
        error = error_of(small, net, feeds_of(net, 5))
        assert error < 0.3
        assert 0.5 < report.output_error / error < 2

    def test_parameters_and_size_of_the_file(self, net: onnx.ModelProto, tmp_path: Path) -> None:
        small, keep, report = written(net, tmp_path, targets={"params": 0.5, "size": "70%"}, **BARE)
        check(small, keep, net)
        assert 0.25 * nets.params(net) < nets.params(small) <= 0.5 * nets.params(net)
        sizes = [(tmp_path / name).stat().st_size for name in ("m.onnx", "m.pruned.onnx")]
        assert sizes[1] <= 0.7 * sizes[0]
        assert [report.before.file_bytes, report.after.file_bytes] == sizes
        assert report.after.parameters <= nets.params(small)
        assert report.met

    @pytest.mark.parametrize("size", ["14KB", "0.5"])
    def test_size(self, size: str, tmp_path: Path) -> None:
        proto = nets.residual()
        small, keep, report = written(proto, tmp_path, targets={"size": size}, **BARE)
        check(small, keep, proto)
        before, after = ((tmp_path / name).stat().st_size for name in ("m.onnx", "m.pruned.onnx"))
        limit = 14_000 if size == "14KB" else before / 2
        assert 0.75 * limit < after <= limit
        assert report.met

    def test_the_default_is_an_error_of_five_percent(self, net: onnx.ModelProto, tmp_path: Path) -> None:
        small, keep, report = written(net, tmp_path, **CLASSES)
        check(small, keep, net)
        assert report.targets == {"error": 0.05}
        assert report.met
        assert 0.01 < report.output_error <= 0.05
        assert error_of(small, net, feeds_of(net, 5)) < 0.08
        assert nets.macs(small) < nets.macs(net)

    def test_accuracy(self, tmp_path: Path) -> None:
        proto = nets.mlp()
        labelled = feeds_of(proto, 7, 500)
        labels = run_proto(proto, labelled)["y"].argmax(1)
        labelled["labels"] = labels
        small, keep, report = written(proto, tmp_path, targets=["drop=5%"], eval=labelled)
        check(small, keep, proto)
        reached = np.mean(run_proto(small, {"x": labelled["x"]})["y"].argmax(1) == labels)
        assert report.before.accuracy == 1
        assert report.after.accuracy == reached
        assert 0.95 <= reached < 1
        assert report.met
        with pytest.raises(DataError, match="drop needs labelled data"):
            prune(proto, calib=feeds_of(proto), targets=["drop=5%"], **FAST)

    def test_all_of_several_hold(self, tmp_path: Path) -> None:
        proto = nets.residual()
        targets = {"macs": 0.7, "params": 0.5, "size": "15KB", "error": 0.2}
        small, keep, report = written(proto, tmp_path, targets=targets, **CLASSES)
        check(small, keep, proto)
        assert nets.macs(small) <= 0.7 * nets.macs(proto)
        assert nets.params(small) <= 0.5 * nets.params(proto)
        assert (tmp_path / "m.pruned.onnx").stat().st_size <= 15_000
        assert error_of(small, proto, feeds_of(proto, 5)) < 0.22
        assert report.output_error <= 0.2
        assert report.met

    @pytest.mark.parametrize(
        "targets", [{"macs": 0.001}, {"params": 0.001}, {"size": "100"}, {"macs": 0.3, "error": 1e-4}]
    )
    def test_out_of_reach(self, targets: dict[str, object], tmp_path: Path) -> None:
        small, keep, report = written(nets.grouped(), tmp_path, targets=targets)
        assert not report.met
        check(small, keep, nets.grouped())
        assert nets.macs(small) < 0.4 * nets.macs(nets.grouped())

    def test_an_error_that_no_channel_allows(self, tmp_path: Path) -> None:
        proto = nets.mlp((4, 6, 20))
        report = prune(proto, calib=feeds_of(proto), targets={"error": 1e-6}, **FAST).report
        assert not report.met or report.output_error <= 1e-6


class TestChoices:
    @pytest.mark.parametrize("protect", [["reduce.weight"], ["Conv_reduce"], ["car*"]])
    @pytest.mark.parametrize("rounds", [1, 2])
    def test_protected(self, protect: list[str], rounds: int, tmp_path: Path) -> None:
        proto = nets.grouped()
        name = "cardinal" if protect == ["car*"] else "reduce"
        targets = {"macs": 0.8}
        small, keep, report = written(proto, tmp_path, targets=targets, protect=protect, rounds=rounds)
        check(small, keep, proto)
        before, after = tensors_of(proto), tensors_of(small)
        assert report.met
        for part in ("weight", "bias"):
            np.testing.assert_array_equal(after[f"{name}.{part}"], before[f"{name}.{part}"])
            assert f"{name}.{part}" not in keep
        assert ("protected", "Conv") in {(one.reason, one.op_type) for one in report.frozen}

    @pytest.mark.parametrize("quantum", [1, 3, 4])
    def test_counts_are_multiples(self, quantum: int, tmp_path: Path) -> None:
        proto = nets.residual()
        small, keep, report = written(proto, tmp_path, targets={"macs": 0.5}, round_to=quantum, **BARE)
        check(small, keep, proto)
        counts = [group.kept for group in report.groups if group.kept < group.channels]
        assert counts
        assert all(count % quantum == 0 for count in counts)
        assert [group.channels for group in report.groups] == [12, 16, 20, 16]
        after = tensors_of(small)
        assert [group.kept for group in report.groups] == [
            len(after[f"{name}.weight"]) for name in ("stem", "a1", "b1", "b2")
        ]

    def test_without_compensation_weights_are_slices(self, tmp_path: Path) -> None:
        for name in ("mlp", "grouped", "mobile"):
            proto = nets.NETS[name]()
            small, keep, _ = written(proto, tmp_path, targets={"macs": 0.5}, **BARE)
            before = tensors_of(proto)
            for key, array in tensors_of(small).items():
                np.testing.assert_array_equal(array, sliced(before[key], keep.get(key, {})))

    @pytest.mark.parametrize("name", ["mlp", "residual", "transformer"])
    def test_compensation_and_its_order_pay(self, name: str) -> None:
        proto, errors = nets.NETS[name](), []
        for more in ({}, {"sequential": False}, {"compensate": False}):
            options = {**FAST, "targets": {"macs": 0.5}, "criterion": "magnitude", "round_to": 1, **more}
            result = prune(proto, calib=feeds_of(proto, samples=400), **options)
            errors.append(error_of(ir.to_proto(result.model), proto, feeds_of(proto, 5)))
        assert errors[0] < errors[1] < errors[2]

    def test_the_surgeon_pays(self) -> None:
        proto = nets.mlp()
        error = {}
        for criterion in ("obs", "magnitude", "random"):
            options = {**FAST, "targets": {"macs": 0.4}, "criterion": criterion, "round_to": 1}
            small = prune(proto, calib=feeds_of(proto), **options).model
            error[criterion] = error_of(ir.to_proto(small), proto, feeds_of(proto, 5))
        assert error["obs"] < error["magnitude"]
        assert error["obs"] < error["random"]

    @pytest.mark.parametrize("sequential", [True, False])
    @pytest.mark.parametrize("name", ["residual", "transformer"])
    def test_rounds(self, name: str, sequential: bool, tmp_path: Path) -> None:
        proto = nets.NETS[name]()
        options = {"targets": {"macs": 0.4}, "round_to": 1, "sequential": sequential}
        small, keep, report = written(proto, tmp_path, rounds=2, **options)
        check(small, keep, proto)
        assert 0.3 * nets.macs(proto) < nets.macs(small) <= 0.4 * nets.macs(proto)
        assert report.met
        searched = prune(proto, calib=feeds_of(proto), rounds=2, round_to=1, **BARE).report
        assert searched.met
        assert searched.output_error <= 0.05

    @pytest.mark.parametrize("criterion", ["auto", *CRITERIA])
    @pytest.mark.parametrize("name", ["mobile", "transformer"])
    def test_every_criterion_is_deterministic(self, criterion: str, name: str, tmp_path: Path) -> None:
        proto = nets.transformer(4, 12, 2) if name == "transformer" else nets.mobile()
        options = {**FAST, "targets": {"macs": 0.5}, "criterion": criterion, "seed": 3}
        calib = feeds_of(proto, samples=80)
        models = []
        for run in ("one", "two"):
            report = prune(proto, tmp_path / f"{run}.onnx", calib=calib, **options).report
            assert report.met
            assert report.criterion == criterion
            models.append((tmp_path / f"{run}.onnx").read_bytes())
        assert models[0] == models[1]
        assert (tmp_path / "one.keep.json").read_bytes() == (tmp_path / "two.keep.json").read_bytes()

    def test_seeds_of_random_differ(self) -> None:
        proto = nets.mlp()
        kept = {
            tuple(
                tensors_of(ir.to_proto(prune(proto, calib=feeds_of(proto), seed=s, **options).model))[
                    "fc1.bias"
                ]
            )
            for s in range(3)
            for options in [{**BARE, "criterion": "random", "targets": {"macs": 0.5}}]
        }
        assert len(kept) == 3

    def test_dry_run(self, tmp_path: Path) -> None:
        onnx.save(nets.mlp(), tmp_path / "m.onnx")
        result = prune(tmp_path / "m.onnx", calib=feeds_of(nets.mlp()), dry_run=True, **FAST)
        assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]
        assert result.report.output is None
        assert result.report.before == result.report.after
        assert any("measuring 2 groups of channels" in note for note in result.report.notes)

    def test_the_self_check_is_in_the_report(self) -> None:
        proto = nets.mlp()
        report = prune(proto, calib=feeds_of(proto), targets={"macs": 0.5}, **FAST).report
        removed = sum(group.channels - group.kept for group in report.groups)
        (note,) = [note for note in report.notes if "equal those of the dense model" in note]
        assert f"{removed} channels silenced" in note

    def test_the_report_says_what_the_self_check_left_out(self, make_proto) -> None:
        rng = np.random.default_rng(0)
        tensors = {"w1": (6, 8), "w2": (8, 4)}
        weights = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in tensors.items()}
        layers = "a = MatMul(x, w1)  h = Relu(a)  f = MatMul(h, w2)  n = RandomNormalLike(f)"
        feed = {"x": nets.data(0, 64, 6)}
        proto = make_proto(f"g (float[N,6] x) => (float[N,4] n) {{ {layers} }}", weights)
        report = prune(proto, calib=feed, targets={"macs": 0.5}, **FAST).report
        (alert,) = report.alerts
        assert alert.startswith("nothing could be compared with the dense model, so nothing is proven")
        assert "output n is drawn at random by node RandomNormalLike" in alert
        assert not any("relative difference" in note for note in report.notes)
        assert report.proof is not None
        assert report.proof.largest is None
        outputs = "float[N,4] f, float[N,4] n, float[N,4] y"
        proto = make_proto(f"g (float[N,6] x) => ({outputs}) {{ {layers}  y = Add(n, f) }}", weights)
        report = prune(proto, calib=feed, targets={"macs": 0.5}, **FAST).report
        assert any(note.startswith("outputs f, y equal those") for note in report.notes)
        assert any("drawn by RandomNormalLike" in note and "same fixed ones" in note for note in report.notes)
        (alert,) = report.alerts
        assert alert.startswith("not compared with the dense model: output n is drawn at random")


class TestModels:
    def test_in_memory(self) -> None:
        proto = nets.residual()
        model, stored = ir.from_proto(proto), proto.SerializeToString(deterministic=True)
        before = ir.to_proto(model).SerializeToString(deterministic=True)
        from_ir = prune(model, calib=feeds_of(proto), targets={"macs": 0.5}, **BARE)
        from_proto = prune(proto, calib=feeds_of(proto), targets={"macs": 0.5}, **BARE)
        assert ir.to_proto(from_ir.model) == ir.to_proto(from_proto.model)
        assert proto.SerializeToString(deterministic=True) == stored
        assert ir.to_proto(model).SerializeToString(deterministic=True) == before
        assert from_ir.report.output is None

    @pytest.mark.parametrize("dtype", ["float16", "double", "bfloat16"])
    def test_types_of_weights(self, dtype: str, make_proto, tmp_path: Path) -> None:
        import ml_dtypes

        kind = {"float16": np.float16, "double": np.float64, "bfloat16": ml_dtypes.bfloat16}[dtype]
        rng = np.random.default_rng(0)
        values = {
            "w": rng.normal(0, 0.4, (12, 32)),
            "b": rng.normal(0, 0.1, 32),
            "v": rng.normal(0, 0.3, (32, 4)),
        }
        text = f"({dtype}[N,12] x) => ({dtype}[N,4] y) {{ a = Gemm(x, w, b) r = Relu(a) y = MatMul(r, v) }}"
        proto = make_proto(f"g {text}")
        for name, array in values.items():
            tensor = ir.to_proto(ir.tensor(array.astype(kind), name=name))
            proto.graph.initializer.append(tensor)
        x = nets.data(0, 200, 12)
        calib = {"x": x if dtype == "bfloat16" else x.astype(kind)}
        small, keep, report = written(proto, tmp_path, targets={"macs": 0.5}, calib=calib)
        onnx.checker.check_model(small, full_check=True)
        assert {tensor.data_type for tensor in small.graph.initializer} == {
            tensor.data_type for tensor in proto.graph.initializer
        }
        sizes = {tensor.name: list(tensor.dims) for tensor in small.graph.initializer}
        assert sizes == {"w": [12, 16], "b": [16], "v": [16, 4]}
        assert keep["w"]["1"] == keep["b"]["0"] == keep["v"]["0"]
        assert report.met
        assert report.output_error < 0.4
        again = replay(ir.from_proto(proto), keep)
        assert list(again.graph.initializers["w"].shape) == [12, 16]

    def test_feeds_of_a_fixed_shape_in_a_folder(self, tmp_path: Path, make_proto) -> None:
        """The first axis is no batch: windows of one signal, one feed for each file."""
        rng = np.random.default_rng(0)
        proto = make_proto(
            "g (float[20,12] x, float[1,12] c) => (float[20,4] y)"
            "{ s = Add(x, c) a = Gemm<transB = 1>(s, w, b) r = Relu(a) y = MatMul(r, v) }",
            {
                "w": rng.normal(0, 0.4, (24, 12)).astype(np.float32),
                "b": rng.normal(0, 0.1, 24).astype(np.float32),
                "v": rng.normal(0, 0.3, (24, 4)).astype(np.float32),
            },
        )
        (tmp_path / "feeds").mkdir()
        for number in range(16):
            feed = {"x": nets.data(number, 20, 12), "c": nets.data(100 + number, 1, 12)}
            np.savez(tmp_path / "feeds" / f"{number:02}.npz", **feed)
        small, keep, report = written(
            proto, tmp_path, targets={"macs": 0.5}, calib=tmp_path / "feeds", criterion="mutual-information"
        )
        onnx.checker.check_model(small, full_check=True)
        assert tensors_of(small)["w"].shape == (12, 12)
        assert len(keep["w"]["0"]) == 12
        fresh = {"x": nets.data(50, 20, 12), "c": nets.data(51, 1, 12)}
        assert error_of(small, proto, fresh) < 0.4
        assert report.met

    def test_a_fixed_batch(self, tmp_path: Path) -> None:
        proto = nets.residual()
        for value in (*proto.graph.input, *proto.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = 4
        small, _, report = written(proto, tmp_path, targets={"macs": 0.5})
        assert report.met
        assert error_of(small, proto, feeds_of(proto, 5, 4)) < 0.3
        assert nets.macs(small) <= 0.5 * nets.macs(proto)

    def test_integer_inputs_and_several_outputs(self, tmp_path: Path) -> None:
        net = nets.Net(8)
        net.weight("table", 30, 24, fan_in=2)
        x = net.op("Relu", net.op("Add", net.op("Gather", "table", "ids"), net.dense("x", "in", 12, 24)))
        net.op("Identity", net.dense(x, "a", 24, 4), name="y")
        net.op("Identity", net.dense(net.op("Tanh", net.dense(x, "b", 24, 16)), "c", 16, 3), name="z")
        proto = net.proto({"x": [12], "ids": []}, {"y": [4], "z": [3]})
        feeds = {"x": nets.data(0, 240, 12), "ids": np.arange(240) % 30}
        small, keep, report = written(proto, tmp_path, targets={"params": 0.6}, calib=feeds)
        onnx.checker.check_model(small, full_check=True)
        assert report.met
        assert nets.params(small) <= 0.6 * nets.params(proto)
        assert keep["table"]["1"] == keep["in.weight"]["0"] == keep["a.weight"]["1"] == keep["b.weight"]["1"]
        assert set(keep["table"]) == {"1"}
        fresh = {"x": nets.data(5, 200, 12), "ids": np.arange(200) % 30}
        assert error_of(small, proto, fresh) < 0.5

    def test_class_numbers_as_the_only_output(self, make_proto) -> None:
        text = (
            "g (float[N,12] x) => (int64[N] y)"
            "{ a = Gemm(x, w, b) r = Relu(a) s = MatMul(r, v) y = ArgMax<axis = 1, keepdims = 0>(s) }"
        )
        rng = np.random.default_rng(0)
        tensors = {"w": rng.normal(size=(12, 32)), "b": rng.normal(size=32), "v": rng.normal(size=(32, 4))}
        proto = make_proto(text, {name: array.astype(np.float32) for name, array in tensors.items()})
        options = {"calib": {"x": nets.data(0, 200, 12)}, "task": "classification", **FAST}
        assert prune(proto, **options).report.output_error <= 0.05  # of the scores in front
        report = prune(proto, targets={"macs": 0.5}, **options).report
        assert report.met
        assert report.agreement > 0.6


class TestBadInput:
    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"criterion": "entropy"}, "criterion 'entropy' does not rank channels: use auto, obs"),
            ({"criterion": "admm"}, "criterion 'admm' does not rank channels"),
            ({"targets": {"sparsity": 0.5}}, "sparsity is about single weights: use mode='weights'"),
            ({"pattern": "2:4"}, "pattern is about single weights: use mode='weights'"),
            ({"layer_sparsity": {"*": 0.5}}, "layer_sparsity is about single weights: use mode='weights'"),
            ({"correct": True}, "correct is about single weights: use mode='weights'"),
            ({"protect": ["conv*"]}, r"protect 'conv\*' matches no node or weight"),
            ({"protect": ["*"]}, "no channels that can be removed: run inspect"),
            ({"round_to": 0}, "round_to 0: use at least 1"),
            (
                {"mode": "weights", "targets": {"macs": 0.5}},
                "macs needs channel removal, zeros do not lower it: use mode='channels'",
            ),
            ({"mode": "weights", "targets": {"size": "1KB"}}, "size needs channel removal"),
            ({"mode": "weights", "round_to": 4}, "round_to is about channels: use mode='channels'"),
            ({"mode": "weights", "criterion": "apoz"}, "criterion 'apoz' does not rank weights"),
            ({"targets": {"size": "0"}}, "target size"),
            ({"targets": {"size": "much"}}, "'much' is not a size"),
            ({"targets": {"latency": "4"}}, "give a share between 0 and 1, a time such as 4ms, or min"),
            ({"damping": -1.0}, "damping"),
            ({"loss": "l1", "targets": {"macs": 0.5}}, "loss 'l1' is unknown"),
        ],
    )
    def test_one_line(self, options: dict[str, object], words: str) -> None:
        proto = nets.mlp()
        with pytest.raises(OptionError, match=words) as raised:
            prune(proto, calib=feeds_of(proto), **{**FAST, **options})
        assert "\n" not in str(raised.value)

    def test_nothing_to_remove(self, make_proto) -> None:
        proto = make_proto(
            "g (float[N,8] x) => (float[N,4] y) { y = MatMul(x, w) }", {"w": np.ones((8, 4), np.float32)}
        )
        with pytest.raises(OptionError, match="no channels that can be removed"):
            prune(proto, calib={"x": nets.data(0, 40, 8)}, **FAST)


steps = st.lists(
    st.tuples(st.sampled_from(sorted(BUILDERS)), st.integers(0, 2), st.integers(0, 2**16)),
    min_size=1,
    max_size=8,
)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps, st.integers(0, 2**16), st.sampled_from([18, 21, 23]), st.booleans())
def test_random_graphs(chosen: list[tuple[str, int, int]], seed: int, opset: int, compensate: bool) -> None:
    proto = build(chosen, opset)
    x = np.random.default_rng(seed).standard_normal((24, 3, SIZE, SIZE)).astype(np.float32)
    options = {**FAST, "criterion": "magnitude", "compensate": compensate, "targets": {"params": 0.6}}
    try:
        result = prune(proto, calib={"x": x}, **options)
    except OptionError as error:
        if "no channels that can be removed" in str(error):
            return
        raise
    small = ir.to_proto(result.model)
    onnx.checker.check_model(small, full_check=True)
    assert not result.report.met or nets.params(small) <= 0.6 * nets.params(proto) + 1
    for samples in (1, 5):
        y = run_proto(small, {"x": x[:samples]})["y"]
        assert y.shape == (samples, 4)
        assert np.isfinite(y).all() or not np.isfinite(run_proto(proto, {"x": x[:samples]})["y"]).all()
