"""prune() from end to end: the promises are checked on the written file, with code of their own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from fixed_batches import BUILT, feed_of, fixed
from nets import run_proto
from onnx import TensorProto, helper, numpy_helper
from repository import MODELS

from obs_onnx import ObsPrune, prune
from obs_onnx.passes.batch.free_batch import free_batches
from obs_onnx.passes.channels.keep_file import replay
from obs_onnx.passes.errors import OptionError
from obs_onnx.runtimes.onnxruntime import OrtSession

MLP = MODELS / "digits_mlp.onnx"
FAST = {"mode": "weights", "effort": "quick", "threads": 1, "latency": False}
HALF = {"sparsity": 0.5}


def weights_of(proto: onnx.ModelProto | Path) -> dict[str, np.ndarray]:
    proto = onnx.load(proto) if isinstance(proto, Path) else proto
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


def zero_share(*arrays: np.ndarray) -> float:
    return sum(int((array == 0).sum()) for array in arrays) / sum(array.size for array in arrays)


def normal(seed: int, *shape: int, scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=shape) * scale).astype(np.float32)


@pytest.fixture
def mlp(make_proto) -> onnx.ModelProto:
    """8-16-4 with a bias on both layers."""
    return make_proto(
        "g (float[N,8] x) => (float[N,4] y) { a = Gemm(x, w1, b1) r = Relu(a) y = Gemm(r, w2, b2) }",
        {
            "w1": normal(1, 8, 16, scale=0.4),
            "b1": normal(2, 16, scale=0.1),
            "w2": normal(3, 16, 4, scale=0.3),
            "b2": normal(4, 4),
        },
    )


@pytest.fixture(scope="module")
def convnet() -> onnx.ModelProto:
    """A residual net with a strided, a grouped and a depthwise convolution, and free batch."""
    tensors = {
        "stem": normal(0, 8, 3, 3, 3, scale=0.3),
        "stem_b": normal(1, 8, scale=0.1),
        "a": normal(2, 8, 8, 3, 3, scale=0.2),
        "a_b": normal(3, 8, scale=0.1),
        "b": normal(4, 8, 4, 3, 3, scale=0.2),
        "b_b": normal(5, 8, scale=0.1),
        "down": normal(6, 16, 8, 3, 3, scale=0.2),
        "depth": normal(7, 16, 1, 3, 3, scale=0.3),
        "head": normal(8, 5, 16, scale=0.4),
        "head_b": normal(9, 5),
    }
    same = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["x", "stem", "stem_b"], ["s"], **same),
        helper.make_node("Relu", ["s"], ["sr"]),
        helper.make_node("Conv", ["sr", "a", "a_b"], ["c"], **same),
        helper.make_node("Relu", ["c"], ["cr"]),
        helper.make_node("Conv", ["cr", "b", "b_b"], ["d"], group=2, **same),
        helper.make_node("Add", ["d", "sr"], ["e"]),
        helper.make_node("Relu", ["e"], ["er"]),
        helper.make_node("Conv", ["er", "down"], ["f"], strides=[2, 2], **same),
        helper.make_node("Relu", ["f"], ["fr"]),
        helper.make_node("Conv", ["fr", "depth"], ["h"], group=16, **same),
        helper.make_node("GlobalAveragePool", ["h"], ["p"]),
        helper.make_node("Flatten", ["p"], ["q"]),
        helper.make_node("Gemm", ["q", "head", "head_b"], ["y"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "residual",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 5])],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
    onnx.checker.check_model(model, full_check=True)
    return model


IMAGES = {"x": normal(10, 120, 3, 8, 8)}
ROWS = {"x": normal(11, 200, 8)}


class TestDigits:
    def test_sparsity(self, tmp_path: Path, run_model) -> None:
        output = tmp_path / "out.onnx"
        report = prune(
            MLP, output, targets={"sparsity": 0.9}, eval=MODELS / "digits_mlp.test.npz", **FAST
        ).report
        after = weights_of(output)
        layers = [after[f"fc{n}.weight"] for n in (1, 2, 3)]
        removed = sum(int((array == 0).sum()) for array in layers)
        assert removed == round(0.9 * 50200)
        assert report.met
        shares = [zero_share(array) for array in layers]
        assert max(shares) - min(shares) > 0.05
        test = np.load(MODELS / "digits_mlp.test.npz")
        scores = run_model(onnx.load(output), {"input": test["input"]})["logits"]
        assert report.after.accuracy == np.mean(scores.argmax(1) == test["labels"])
        assert report.after.accuracy > report.before.accuracy - 0.02

    def test_error_holds_on_unseen_data(self, tmp_path: Path, run_model) -> None:
        output = tmp_path / "out.onnx"
        report = prune(MLP, output, **{**FAST, "effort": "normal"}).report
        x = np.load(MODELS / "digits_mlp.test.npz")["input"]
        dense, pruned = (run_model(onnx.load(path), {"input": x})["logits"] for path in (MLP, output))
        assert report.targets == {"error": 0.05}
        assert report.met
        assert report.output_error <= 0.05
        assert np.linalg.norm(pruned - dense) <= 0.06 * np.linalg.norm(dense)
        assert zero_share(*(weights_of(output)[f"fc{n}.weight"] for n in (1, 2, 3))) > 0.86

    @pytest.mark.parametrize("pattern", ["2:4", "1x4"])
    def test_patterns_lie_along_the_contracted_axis(self, tmp_path: Path, pattern: str) -> None:
        output = tmp_path / "out.onnx"
        targets = None if pattern == "2:4" else HALF
        prune(MLP, output, pattern=pattern, targets=targets, task="classification", **FAST)
        for n in (1, 2, 3):  # transB = 1: rows are outputs
            runs = (weights_of(output)[f"fc{n}.weight"] != 0).reshape(-1, 4).sum(axis=1)
            if pattern == "2:4":
                assert (runs <= 2).all()
            else:
                assert (runs == 0).sum() > 0
                assert np.isin(runs, (0, 4)).mean() > 0.99  # dead pixels may give zeros inside a block

    def test_the_neighbour_is_the_calibration_data_and_nothing_is_written(self, tmp_path: Path) -> None:
        (tmp_path / "m.onnx").write_bytes(MLP.read_bytes())
        with pytest.raises(OptionError, match=r"m\.calib\.npz"):
            prune(tmp_path / "m.onnx", targets=HALF, **FAST)
        (tmp_path / "m.calib.npz").write_bytes((MODELS / "digits_mlp.calib.npz").read_bytes())
        prune(tmp_path / "m.onnx", targets=HALF, criterion="magnitude", **FAST)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["m.calib.npz", "m.onnx"]

    @pytest.mark.parametrize("given", ["m.onnx", "link.onnx"])
    def test_the_model_itself_is_no_output(self, tmp_path: Path, given: str) -> None:
        (tmp_path / "m.onnx").write_bytes(MLP.read_bytes())
        (tmp_path / "link.onnx").symlink_to(tmp_path / "m.onnx")
        with pytest.raises(OptionError, match="is the model itself"):
            prune(tmp_path / "m.onnx", tmp_path / given, calib={"input": normal(0, 9, 64)}, **FAST)

    def test_two_runs_give_the_same_bytes(self, tmp_path: Path) -> None:
        for name in ("one", "two"):
            prune(MLP, tmp_path / name, targets={"sparsity": 0.9}, **FAST)
        assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()

    def test_a_tiny_memory_costs_no_quality(self, tmp_path: Path) -> None:
        """Other numbers of samples at once round otherwise, so that zeros that are as good change places."""
        whole, tiny = (
            prune(MLP, tmp_path / "out", targets={"sparsity": 0.9}, memory=memory, **FAST).report
            for memory in (1 << 30, 1000)
        )
        assert tiny.output_error == pytest.approx(whole.output_error, rel=0.1)
        assert tiny.after.nonzero == pytest.approx(whole.after.nonzero, rel=0.01)


class TestPatternsOfConvolutions:
    def test_2_of_4_input_channels_of_every_kernel_offset(self, convnet) -> None:
        result = prune(convnet, calib=IMAGES, pattern="2:4", **FAST)
        after = weights_of(ir.to_proto(result.model))
        for name in ("a", "b", "down"):
            o, i, *_ = after[name].shape
            runs = (after[name] != 0).reshape(o, i // 4, 4, 9).sum(axis=2)
            assert (runs <= 2).all()
            assert zero_share(after[name]) == pytest.approx(0.5, abs=0.02)
        reasons = {frozen.reason for frozen in result.report.frozen}
        assert reasons == {
            "3 input channels are no multiple of 4 (pattern 2:4)",
            "1 input channels are no multiple of 4 (pattern 2:4)",
        }
        assert np.count_nonzero(after["stem"]) == after["stem"].size

    def test_blocks(self, convnet) -> None:
        result = prune(convnet, calib=IMAGES, pattern="2x4", targets=HALF, **FAST)
        after = weights_of(ir.to_proto(result.model))
        kept = 0
        for name in ("a", "b", "down"):
            groups = 2 if name == "b" else 1
            o, i, *_ = after[name].shape
            blocks = (after[name] != 0).reshape(groups, o // groups // 2, 2, i // 4, 4, 9).sum(axis=(2, 4))
            assert set(np.unique(blocks)) <= {0, 8}
            kept += int(blocks.sum())
        assert result.report.met
        sizes = sum(after[name].size for name in ("a", "b", "down", "head"))
        assert kept + np.count_nonzero(after["head"]) <= sizes / 2


class TestChoices:
    def test_protected_layers_stay_as_they_are(self, mlp) -> None:
        result = prune(mlp, calib=ROWS, targets=HALF, protect=["w2"], **FAST)
        after = weights_of(ir.to_proto(result.model))
        np.testing.assert_array_equal(after["w2"], weights_of(mlp)["w2"])
        np.testing.assert_array_equal(after["b2"], weights_of(mlp)["b2"])
        assert zero_share(after["w1"]) == 0.5
        assert [frozen.reason for frozen in result.report.frozen] == ["protected by the user"]

    def test_protecting_by_the_name_of_a_node(self, convnet) -> None:
        named = onnx.ModelProto()
        named.CopyFrom(convnet)
        named.graph.node[0].name = "first"
        result = prune(named, calib=IMAGES, targets=HALF, protect=["fir*"], **FAST)
        after = weights_of(ir.to_proto(result.model))
        np.testing.assert_array_equal(after["stem"], weights_of(convnet)["stem"])

    def test_layer_sparsity_counts_towards_the_whole(self, mlp) -> None:
        result = prune(mlp, calib=ROWS, targets=HALF, layer_sparsity={"w2": 0.25}, **FAST)
        after = weights_of(ir.to_proto(result.model))
        assert zero_share(after["w2"]) == 0.25
        assert zero_share(after["w1"], after["w2"]) == 0.5

    def test_layer_sparsity_in_the_way_of_the_target(self, mlp) -> None:
        report = prune(mlp, calib=ROWS, targets=HALF, layer_sparsity={"*": 0.25}, **FAST).report
        assert not report.met

    @pytest.mark.parametrize("criterion", ["obs", "admm", "lobs", "magnitude", "random"])
    @pytest.mark.parametrize("options", [{}, {"compensate": False}, {"sequential": False}, {"rounds": 2}])
    def test_every_criterion(self, mlp, criterion: str, options: dict[str, object]) -> None:
        result = prune(mlp, calib=ROWS, targets=HALF, criterion=criterion, **options, **FAST)
        before, after = weights_of(mlp), weights_of(ir.to_proto(result.model))
        assert zero_share(after["w1"], after["w2"]) == 0.5
        assert result.report.met
        assert {layer.method for layer in result.report.layers} == {criterion}
        if options == {"compensate": False}:
            for name in ("w1", "w2"):
                np.testing.assert_array_equal(after[name], np.where(after[name] == 0, 0, before[name]))
            np.testing.assert_array_equal(after["b1"], before["b1"])
        else:
            assert not np.array_equal(after["b1"], before["b1"])

    def test_compensation_and_the_surgeon_pay(self, mlp) -> None:
        errors = {
            (criterion, compensate): prune(
                mlp, calib=ROWS, targets=HALF, criterion=criterion, compensate=compensate, **FAST
            ).report.output_error
            for criterion in ("auto", "magnitude", "random")
            for compensate in (True, False)
        }
        assert errors["auto", True] < errors["magnitude", True] < errors["random", True]
        assert errors["magnitude", True] < errors["magnitude", False]

    def test_rounds_of_a_search_never_end_worse(self, mlp) -> None:
        for rounds in (1, 2):
            report = prune(mlp, calib=ROWS, targets={"error": 0.1}, rounds=rounds, **FAST).report
            assert report.met
            assert report.output_error <= 0.1

    def test_a_dry_run_writes_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "m.onnx").write_bytes(MLP.read_bytes())
        result = prune(tmp_path / "m.onnx", calib=MODELS / "digits_mlp.calib.npz", dry_run=True, **FAST)
        assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]
        assert result.report.output is None
        assert result.report.before == result.report.after

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"mode": "neurons"}, "mode 'neurons' is unknown"),
            ({"effort": "lazy"}, "effort 'lazy' is unknown"),
            ({"rounds": 0}, "use at least 1"),
            ({"seed": -1}, "seed -1: use at least 0"),
            ({"loss": "l1", "targets": HALF}, "loss 'l1' is unknown"),
            ({"pattern": "2:4", "layer_sparsity": {"*": 0.5}}, "leave out layer_sparsity"),
        ],
    )
    def test_options_that_make_no_sense(self, mlp, options: dict[str, object], words: str) -> None:
        with pytest.raises(OptionError, match=words):
            prune(mlp, calib=ROWS, **{**FAST, **options})


class TestModels:
    def test_what_survives(self, tmp_path: Path, convnet) -> None:
        convnet = onnx.ModelProto.FromString(convnet.SerializeToString())
        convnet.producer_name, convnet.doc_string, convnet.model_version = "maker", "about it", 7
        helper.set_model_props(convnet, {"author": "me", "classes": "5"})
        onnx.save(convnet, tmp_path / "m.onnx")
        prune(tmp_path / "m.onnx", tmp_path / "m.pruned.onnx", calib=IMAGES, targets=HALF, **FAST)
        pruned = onnx.load(tmp_path / "m.pruned.onnx")
        assert pruned.ir_version == 7
        assert [(entry.domain, entry.version) for entry in pruned.opset_import] == [("", 13)]
        assert (pruned.producer_name, pruned.doc_string, pruned.model_version) == ("maker", "about it", 7)
        assert {entry.key: entry.value for entry in pruned.metadata_props} == {"author": "me", "classes": "5"}
        assert pruned.graph.name == "residual"
        assert pruned.graph.input == convnet.graph.input
        assert pruned.graph.output == convnet.graph.output
        assert set(weights_of(pruned)) == set(weights_of(convnet))
        assert [node.op_type for node in pruned.graph.node] == [node.op_type for node in convnet.graph.node]

    def test_free_batch_stays_free(self, convnet, run_model) -> None:
        result = prune(convnet, calib=IMAGES, targets=HALF, **FAST)
        for samples in (1, 7):
            assert run_model(result.model, {"x": IMAGES["x"][:samples]})["y"].shape == (samples, 5)

    def test_a_model_in_memory_is_not_changed(self, mlp) -> None:
        model = ir.from_proto(mlp)
        before = ir.to_proto(model).SerializeToString(deterministic=True)
        from_ir = prune(model, calib=ROWS, targets=HALF, **FAST).model
        assert ir.to_proto(model).SerializeToString(deterministic=True) == before
        from_proto = prune(mlp, calib=ROWS, targets=HALF, **FAST).model
        assert ir.to_proto(from_ir) == ir.to_proto(from_proto)

    def test_external_data(self, tmp_path: Path, convnet) -> None:
        onnx.save(
            onnx.ModelProto.FromString(convnet.SerializeToString()),
            tmp_path / "m.onnx",
            save_as_external_data=True,
            location="m.onnx.data",
            size_threshold=100,
        )
        before = (tmp_path / "m.onnx.data").read_bytes()
        output = tmp_path / "m.pruned.onnx"
        report = prune(tmp_path / "m.onnx", output, calib=IMAGES, targets=HALF, **FAST).report
        assert (tmp_path / "m.onnx.data").read_bytes() == before
        prunable = [
            array for name, array in weights_of(tmp_path / "m.pruned.onnx").items() if "_" not in name
        ]
        assert zero_share(*prunable) == pytest.approx(0.5, abs=1e-3)
        assert report.after.file_bytes == sum(path.stat().st_size for path in tmp_path.glob("m.pruned.onnx*"))
        in_memory = prune(convnet, calib=IMAGES, targets=HALF, **FAST).model
        for name, array in weights_of(ir.to_proto(in_memory)).items():
            np.testing.assert_array_equal(weights_of(tmp_path / "m.pruned.onnx")[name], array)

    def test_fixed_batch(self, make_proto) -> None:
        fixed = make_proto(
            "g (float[4,8] x) => (float[4,3] y) { y = Gemm(x, w, b) }",
            {"w": normal(0, 8, 3), "b": normal(1, 3)},
        )
        result = prune(fixed, calib=ROWS, targets=HALF, **FAST)
        assert zero_share(weights_of(ir.to_proto(result.model))["w"]) == 0.5

    def test_several_outputs_and_types_of_input(self, make_proto, run_model) -> None:
        proto = make_proto(
            "g (float[N,8] x, int64[N] i) => (float[N,4] y, float[N,16] r, int64[N] j)"
            "{ e = Gather(table, i) a = Gemm(x, w1, b1) s = Add(a, e) r = Relu(s) y = MatMul(r, w2)"
            " j = Add(i, i) }",
            {"w1": normal(0, 8, 16), "b1": normal(1, 16), "w2": normal(2, 16, 4), "table": normal(3, 10, 16)},
        )
        feeds = {**ROWS, "i": np.arange(200) % 10}
        result = prune(proto, calib=feeds, targets={"error": 0.1}, **FAST)
        dense, pruned = run_model(proto, feeds), run_model(result.model, feeds)
        errors = [np.linalg.norm(pruned[n] - dense[n]) / np.linalg.norm(dense[n]) for n in ("y", "r")]
        assert 0.01 < np.sqrt(np.mean(np.square(errors))) < 0.12
        np.testing.assert_array_equal(pruned["j"], dense["j"])

    @pytest.mark.parametrize("dtype", [np.float16, np.float64])
    def test_types_of_weights(self, make_proto, dtype: type) -> None:
        name = {np.float16: "float16", np.float64: "double"}[dtype]
        proto = make_proto(
            f"g ({name}[N,8] x) => ({name}[N,4] y) {{ a = Gemm(x, w, b) r = Relu(a) y = MatMul(r, v) }}",
            {
                "w": normal(0, 8, 16).astype(dtype),
                "b": normal(1, 16).astype(dtype),
                "v": normal(2, 16, 4).astype(dtype),
            },
        )
        result = prune(proto, calib={"x": ROWS["x"].astype(dtype)}, targets=HALF, **FAST)
        after = weights_of(ir.to_proto(result.model))
        assert {array.dtype for array in after.values()} == {np.dtype(dtype)}
        assert zero_share(after["w"], after["v"]) == 0.5
        assert result.report.output_error < 0.5

    def test_class_numbers_as_the_only_output(self, make_proto) -> None:
        text = (
            "g (float[N,8] x) => (int64[N] y)"
            "{ a = Gemm(x, w1, b1) r = Relu(a) s = MatMul(r, w2) y = ArgMax<axis = 1, keepdims = 0>(s) }"
        )
        proto = make_proto(text, {"w1": normal(0, 8, 16), "b1": normal(1, 16), "w2": normal(2, 16, 4)})
        for targets, limit in ((None, 0.05), ({"error": 0.1}, 0.1)):
            report = prune(proto, calib=ROWS, targets=targets, **FAST).report
            assert 0 < report.output_error <= limit  # of the scores in front
            assert "measured at s" in report.notes[0]
        report = prune(proto, calib=ROWS, targets=HALF, **FAST).report
        assert report.task == "classification"  # the ArgMax behind says so
        assert report.agreement > 0.55
        assert all(0.1 < layer.kept < 0.9 for layer in report.layers)

    def test_parameters_are_a_share_of_those_that_came_in(self, make_proto) -> None:
        """An exporter stores equal biases once; that each layer gets its own makes the model no larger."""
        heads = range(6)
        nodes = [f"a{i} = Gemm(x, w{i}, b)  r{i} = Relu(a{i})  y{i} = MatMul(r{i}, v{i})" for i in heads]
        text = f"g (float[N,8] x) => (float[N,4] y) {{ {' '.join(nodes)}  y = Sum(y0, y1, y2, y3, y4, y5) }}"
        tensors = {f"w{i}": normal(i, 8, 16) for i in heads} | {f"v{i}": normal(9 + i, 16, 4) for i in heads}
        options = {"calib": ROWS, "effort": "quick", "round_to": 1, "targets": {"params": 0.7}}
        report = prune(make_proto(text, {**tensors, "b": normal(20, 16)}), **options).report
        assert report.before.parameters == 6 * 12 * 16 + 16
        assert report.met
        assert 0.6 < report.after.parameters / report.before.parameters <= 0.7

    def test_a_generator_of_samples_for_a_model_of_one(self, make_proto) -> None:
        tensors = {"w": normal(0, 8, 16), "b": normal(1, 16), "v": normal(2, 16, 4)}
        text = "g (float[1,8] x) => (float[1,4] y) { a = Gemm(x, w, b) r = Relu(a) y = MatMul(r, v) }"
        proto, x = make_proto(text, tensors), ROWS["x"]
        items = ({"x": x[row : row + 1]} for row in range(len(x)))
        found = prune(proto, calib=items, targets=HALF, **FAST)
        like = prune(proto, calib=[{"x": x[row : row + 1]} for row in range(len(x))], targets=HALF, **FAST)
        for name, array in weights_of(ir.to_proto(found.model)).items():
            np.testing.assert_array_equal(weights_of(ir.to_proto(like.model))[name], array)

    def test_masked_scores(self, make_proto) -> None:
        text = "g (float[N,8] x) => (float[N,4] y) { a = Gemm(x, w, b) y = Add(a, m) }"
        masked = np.array([0, 0, -np.inf, 0], np.float32)
        proto = make_proto(text, {"w": normal(0, 8, 4), "b": normal(1, 4), "m": masked})
        report = prune(proto, calib=ROWS, targets={"error": 0.2}, **FAST).report
        assert 0.05 < report.output_error <= 0.2
        assert report.bound.spectral >= report.output_error

    def test_shapes_that_an_exporter_left_behind(self, mlp) -> None:
        stale = onnx.ModelProto.FromString(mlp.SerializeToString())
        for name in ("a", "r"):
            stale.graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 16]))
        expected = prune(mlp, calib=ROWS, targets=HALF, correct=True, **FAST).model
        actual = prune(stale, calib=ROWS, targets=HALF, correct=True, **FAST).model
        for name, array in weights_of(ir.to_proto(expected)).items():
            np.testing.assert_array_equal(weights_of(ir.to_proto(actual))[name], array)

    def test_a_layer_that_no_output_needs(self, make_proto) -> None:
        text = "g (float[N,8] x) => (float[N,4] y) { d = MatMul(x, v) y = MatMul(x, w) }"
        proto = make_proto(text, {"v": normal(0, 8, 400), "w": normal(1, 8, 4)})
        for pattern, targets in ((None, HALF), ("2:4", None)):
            result = prune(proto, calib=ROWS, targets=targets, pattern=pattern, **FAST)
            after = weights_of(ir.to_proto(result.model))
            assert (zero_share(after["v"]), zero_share(after["w"])) == (0, 0.5)

    def test_a_beta_of_zero(self, make_proto) -> None:
        text = (
            "g (float[N,8] x) => (float[N,4] y) { a = Gemm<beta = 0.0>(x, w1, b1) r = Relu(a) "
            "y = Gemm<alpha = 0.5, beta = 2.0, transB = 1>(r, w2, b2) }"
        )
        tensors = {"w1": normal(0, 8, 16), "b1": normal(1, 16), "w2": normal(2, 4, 16), "b2": normal(3, 4)}
        for sequential in (True, False):
            result = prune(make_proto(text, tensors), calib=ROWS, targets=HALF, sequential=sequential, **FAST)
            assert result.report.output_error < 0.35

    def test_batch_normalization_of_the_oldest_opset(self) -> None:
        tensors = {
            **{name: np.ones(3, np.float32) for name in ("s", "v")},
            **{name: np.zeros(3, np.float32) for name in ("b", "m")},
            "w": normal(0, 4, 3, 3, 3, scale=0.2),
            "h": normal(1, 4, 2),
        }
        graph = helper.make_graph(
            [
                helper.make_node("BatchNormalization", ["x", "s", "b", "m", "v"], ["n"]),
                helper.make_node("Conv", ["n", "w"], ["c"], kernel_shape=[3, 3]),
                helper.make_node("Relu", ["c"], ["r"]),
                helper.make_node("GlobalAveragePool", ["r"], ["p"]),
                helper.make_node("Flatten", ["p"], ["f"]),
                helper.make_node("MatMul", ["f", "h"], ["y"]),
            ],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])]
            + [helper.make_tensor_value_info(n, TensorProto.FLOAT, a.shape) for n, a in tensors.items()],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2])],
            [numpy_helper.from_array(array, name) for name, array in tensors.items()],
        )
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 7)], ir_version=3)
        onnx.checker.check_model(proto)
        for sequential in (True, False):
            result = prune(proto, calib=IMAGES, targets=HALF, sequential=sequential, **FAST)
            written = ir.to_proto(result.model)
            assert (written.ir_version, written.opset_import[0].version) == (3, 7)
            assert {value.name for value in written.graph.input} == {"x", *tensors}


class Reader:
    """Like onnxruntime's CalibrationDataReader."""

    def __init__(self) -> None:
        self.rewind()

    def rewind(self) -> None:
        self._left = [{"x": ROWS["x"][first : first + 20]} for first in range(0, 200, 20)]

    def get_next(self):
        return self._left.pop(0) if self._left else None


class TestData:
    @pytest.mark.parametrize(
        "make",
        [
            Reader,
            lambda: [{"x": ROWS["x"][first : first + 20]} for first in range(0, 200, 20)],
            lambda: lambda: ({"x": ROWS["x"][first : first + 20]} for first in range(0, 200, 20)),
            lambda: ROWS["x"],
        ],
        ids=["reader", "list", "generator function", "array"],
    )
    def test_kinds_of_source(self, mlp, make) -> None:
        result = prune(mlp, calib=make(), targets=HALF, **FAST)
        after = weights_of(ir.to_proto(result.model))
        assert zero_share(after["w1"], after["w2"]) == 0.5
        assert result.report.output_error < 0.35

    def test_labels_make_accuracy_and_the_target_drop(self, mlp, run_model) -> None:
        labels = run_model(mlp, ROWS)["y"].argmax(1)
        with pytest.raises(Exception, match="labelled data"):
            prune(mlp, calib=ROWS, targets={"drop": "2%"}, **FAST)
        held = {"x": normal(12, 400, 8)}
        held["labels"] = run_model(mlp, {"x": held["x"]})["y"].argmax(1)
        report = prune(mlp, calib=ROWS, eval=held, targets={"drop": "2%"}, **FAST).report
        assert report.before.accuracy == 1
        assert 0.98 <= report.after.accuracy < 1
        assert report.met
        without = prune(mlp, calib={**ROWS, "labels": labels}, targets=HALF, **FAST).report
        assert without.before.accuracy == 1


QUICK = {"effort": "quick", "threads": 1, "latency": False, "round_to": 1}


class TestParts:
    """A head with boxes up to 320 beside scores up to 1 in one output."""

    X = normal(30, 160, 12)

    @pytest.fixture
    def head(self, make_proto) -> onnx.ModelProto:
        shapes = {"w": (12, 40), "u": (40, 24), "v": (40, 24), "b": (24, 4), "s": (24, 6)}
        tensors = {name: normal(40 + i, *shape, scale=0.3) for i, (name, shape) in enumerate(shapes.items())}
        text = """g (float[N,12] x) => (float[N,10] y) {
            a = MatMul(x, w) h = Relu(a) p = MatMul(h, u) p1 = Relu(p) p2 = MatMul(p1, b) p3 = Sigmoid(p2)
            boxes = Mul(p3, size) q = MatMul(h, v) q1 = Relu(q) q2 = MatMul(q1, s) scores = Sigmoid(q2)
            y = Concat <axis = 1> (boxes, scores) }"""
        return make_proto(text, {**tensors, "size": np.float32(320)})

    def errors(self, run_model, proto, model, x) -> list[float]:
        y, z = (run_model(one, {"x": x})["y"] for one in (proto, model))
        spreads = [np.sqrt(np.mean((y[:, s] - y[:, s].mean(0)) ** 2)) for s in (slice(0, 4), slice(4, 10))]
        off = [np.sqrt(np.mean((z - y)[:, s] ** 2)) for s in (slice(0, 4), slice(4, 10))]
        return [a / b for a, b in zip(off, spreads, strict=True)]

    @pytest.mark.parametrize("mode", ["channels", "weights"])
    def test_an_error_holds_for_every_part(self, head, run_model, mode: str) -> None:
        options = {k: v for k, v in QUICK.items() if mode == "channels" or k != "round_to"}
        found = prune(head, calib={"x": self.X}, targets={"error": 0.3}, mode=mode, **options)
        report = found.report
        assert report.met
        assert {part.name for part in report.parts} == {"y[0:4]", "y[4:10]"}
        assert report.output_error == report.parts[0].error <= 0.3
        assert report.agreement is None
        assert max(self.errors(run_model, head, found.model, normal(31, 400, 12))) < 0.45
        if mode == "weights":
            assert report.bound.spectral >= report.output_error

    def test_weights_say_what_counts(self, head, run_model) -> None:
        found = [
            prune(head, calib={"x": self.X}, targets={"macs": 0.5}, weight=weight, **QUICK)
            for weight in ({"y[0:4]": 0}, {"y[4:10]": 0})
        ]
        scores, boxes = (self.errors(run_model, head, one.model, self.X) for one in found)
        assert boxes[0] < scores[0]
        assert scores[1] < boxes[1]
        (part,) = found[0].report.parts
        assert part.name == "y[4:10]"
        assert any("not compared, as their weight is 0: y[0:4]" in note for note in found[0].report.notes)

    def test_a_metric_of_ones_own_limits_what_is_lost(self, head) -> None:
        def width(outputs, labels):
            assert labels is None
            return float(outputs["y"][:, :4].std())

        dense = prune(head, calib={"x": self.X}, dry_run=True, metric=width, **QUICK).report
        assert dense.metric == "width"
        options = {"eval": {"x": normal(32, 64, 12)}, "targets": {"drop": 5.0}, "metric": width}
        report = prune(head, calib={"x": self.X}, **options, **QUICK).report
        assert report.met
        assert report.before.metric - report.after.metric <= 5
        assert report.after.macs < report.before.macs
        assert report.after.accuracy is None
        width.lower_is_better = True
        with pytest.raises(OptionError, match="drop=5"):
            prune(head, calib={"x": self.X, "labels": np.zeros(160, int)}, targets={"drop": 5.0}, **QUICK)

    def test_a_softmax_or_the_task_makes_a_class(self, mlp) -> None:
        options = {"calib": ROWS, "targets": HALF, **FAST}
        assert prune(mlp, **options).report.agreement is None
        report = prune(mlp, task="classification", **options).report
        assert (report.task, report.agreement > 0.5, report.measures["kl"] > 0) == (
            "classification",
            True,
            True,
        )
        with pytest.raises(OptionError, match="task segmentation needs an output"):
            prune(mlp, task="segmentation", **options)


def free_of(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same with a free batch, targets of Reshape included."""
    model = ir.from_proto(proto)
    free = next(free_batches(model)).model
    return ir.to_proto(free)


@pytest.mark.parametrize("name", ["flattened", "heads_first", "class_token", "detector"])
def test_a_fixed_batch_costs_as_much_as_a_free_one(name: str, tmp_path: Path, monkeypatch) -> None:
    proto = fixed(name, 1)
    (shape,) = [value.shape for value in feed_of(proto, 0).values()]
    calib = {"x": normal(0, 64, *shape[1:])}
    options = {"calib": calib, "targets": {"macs": 0.8}, "effort": "quick", "threads": 1, "latency": False}
    runs, run = [0], OrtSession.run

    def counted(self, *args):
        runs[-1] += 1
        return run(self, *args)

    monkeypatch.setattr(OrtSession, "run", counted)
    kept = []
    for k, model in enumerate((free_of(proto), proto)):
        result = prune(model, output=tmp_path / f"{k}.onnx", **options)
        kept.append(json.loads((tmp_path / f"{k}.keep.json").read_text())["tensors"])
        kept.append(result.report.before.macs)
        runs.append(0)
    assert kept[:2] == kept[2:]
    assert runs[1] <= runs[0] + 8  # that the one is the other is seen in so many runs


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("name", sorted(BUILT))
def test_what_is_written_has_the_batch_that_came_in(name: str, n: int, tmp_path: Path) -> None:
    proto, output = fixed(name, n), tmp_path / "small.onnx"
    feeds = [feed_of(proto, seed) for seed in range(24)]
    options = {"targets": {"params": 0.8}, "effort": "quick", "threads": 1, "latency": False}
    prune(proto, calib=feeds, output=output, compensate=False, **options)
    small = onnx.load(output)
    given, written = (
        [(v.name, v.type.tensor_type.shape) for v in (*one.graph.input, *one.graph.output)]
        for one in (proto, small)
    )
    assert given == written
    keep = json.loads(output.with_suffix(".keep.json").read_text())
    again = ir.to_proto(replay(ir.from_proto(proto), keep))
    feed = feed_of(proto, 99)
    for key, y in run_proto(small, feed).items():
        np.testing.assert_allclose(y, run_proto(again, feed)[key], atol=1e-5)


@pytest.mark.parametrize(("name", "state"), [("last_state", "h0"), ("one_state", "first")])
def test_a_first_state_keeps_its_rows(name: str, state: str, tmp_path: Path) -> None:
    proto, output = fixed(name, 4), tmp_path / "small.onnx"
    options = {"targets": {"params": 0.7}, "effort": "quick", "threads": 1, "latency": False, "round_to": 1}
    prune(proto, calib=[feed_of(proto, seed) for seed in range(24)], output=output, **options)
    rows = weights_of(output)[state].shape
    assert rows[:2] == (1, 4)
    assert rows[2] < 8


@pytest.mark.parametrize(
    "given",
    [{"mode": "weights", "targets": {"sparsity": 0.6}}, {"mode": "channels", "targets": {"macs": 0.6}}],
    ids=["weights", "channels"],
)
def test_little_memory_gives_what_much_gives(make_proto, tmp_path: Path, given: dict[str, object]) -> None:
    """Batches of 3 samples and of 128: other sums of rounded products, the same masks."""
    text = "g (float[N,16] x) => (float[N,8] y) { a = Gemm(x, w1, b1) r = Relu(a) y = Gemm(r, w2, b2) }"
    sizes = {"w1": (16, 24), "b1": (24,), "w2": (24, 8), "b2": (8,)}
    proto = make_proto(text, {name: normal(n, *shape) for n, (name, shape) in enumerate(sizes.items())})
    found = []
    for memory in (4000, None):
        prune(
            proto,
            out := tmp_path / "out.onnx",
            **FAST | given,
            calib={"x": normal(9, 500, 16)},
            memory=memory,
        )
        found.append(weights_of(out))
    few, many = found
    for name, array in few.items():
        np.testing.assert_array_equal(array == 0, many[name] == 0)
        np.testing.assert_allclose(array, many[name], rtol=1e-3, atol=1e-4)


class TestPruned:
    def test_it_is_short_and_is_saved_as_a_command_would(self, mlp, tmp_path: Path) -> None:
        options = {"calib": ROWS, "targets": {"macs": 0.6}, "effort": "quick", "threads": 1, "latency": False}
        found = prune(mlp, **options, round_to=1)
        assert repr(found).startswith("<Pruned: g -> memory: MACs 192 -> ")
        assert repr(found.report).startswith("<ReadableReport: ")
        assert found.summary() == found.report.summary()
        assert found.report.reached["macs"] == found.report.after.macs / found.report.before.macs
        found.save(tmp_path / "s.onnx")
        found.report.to_html(tmp_path / "s.html")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["s.html", "s.keep.json", "s.onnx"]
        assert json.loads((tmp_path / "s.keep.json").read_text()) == json.loads(json.dumps(found.keep))
        (y,) = run_proto(onnx.load(tmp_path / "s.onnx"), {"x": ROWS["x"]}).values()
        (same,) = run_proto(ir.to_proto(found.model), {"x": ROWS["x"]}).values()
        np.testing.assert_array_equal(y, same)
        hidden = len(found.keep["tensors"]["b1"]["0"])
        first, last = found.report.layers
        assert (first.widths, first.kept_widths) == ((8, 16), (8, hidden))
        assert (last.widths, last.kept_widths) == ((16, 4), (hidden, 4))
        assert first.writes == last.reads == found.report.groups[0].name
        kept = [point.kept for point in found.report.groups[0].curve]
        assert kept == sorted(kept, reverse=True)
        assert kept[0] < 1

    def test_zeros_have_no_indices(self, mlp) -> None:
        found = prune(mlp, calib=ROWS, targets=HALF, **FAST)
        assert found.keep is None
        assert found.report.reached["sparsity"] >= 0.5
        assert all(layer.curve and layer.kept_widths is None for layer in found.report.layers)


class TestPass:
    def test_in_a_pass_manager(self, mlp) -> None:
        told = []
        options = {"calib": ROWS, "targets": {"macs": 0.6}, "effort": "quick", "threads": 1, "latency": False}
        model = ir.from_proto(mlp)
        manager = ir.passes.PassManager([ObsPrune(tell=told.append, **options, round_to=1)])
        result = manager(model)
        (found,) = told
        assert result.modified
        assert result.model is found.model
        assert found.report.met
        assert model.graph.initializers["w1"].shape == (8, 16)

    def test_options_are_checked_at_once(self) -> None:
        with pytest.raises(OptionError, match="rounds 0"):
            ObsPrune(rounds=0)
        with pytest.raises(TypeError, match="round_too"):
            ObsPrune(round_too=0)


def test_progress_is_shown_where_it_is_asked_for(mlp, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"calib": ROWS, "targets": {"macs": 0.6}, "effort": "quick", "threads": 1, "latency": False}
    for progress in (False, "auto"):  # nothing here is a terminal
        prune(mlp, **options, progress=progress)
        assert capsys.readouterr() == ("", "")
    prune(mlp, **options, progress=True)
    assert "measuring 1 groups of channels" in capsys.readouterr().err
