"""What comes behind a written result: measured on the user's samples; what fails takes nothing back."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import nets
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from command_line import run

from obs_onnx import prune
from obs_onnx.passes.errors import ModelError
from obs_onnx.pruning import run_report

FAST = {"effort": "quick", "threads": 1}
HALF = {"macs": 0.5}


def feeds_of(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    (value,) = proto.graph.input
    return {"x": nets.data(0, 64, *(dim.dim_value for dim in value.type.tensor_type.shape.dim[1:]))}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model and its data, in the working directory."""
    monkeypatch.chdir(tmp_path)
    proto = nets.mlp()
    onnx.save(proto, "m.onnx")
    np.savez("c.npz", **feeds_of(proto))
    return tmp_path


def no_clock(*args: object, **kwargs: object) -> None:
    raise ModelError("no clock")


@pytest.mark.usefixtures("folder")
class TestFailures:
    ARGUMENTS = (
        "prune",
        "m.onnx",
        "--calib",
        "c.npz",
        "--effort",
        "quick",
        "--threads",
        "1",
        "-q",
        "-o",
        "s.onnx",
    )

    def test_latency(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(run_report, "bench", no_clock)
        aloud = [one for one in self.ARGUMENTS if one != "-q"]
        result = run(*aloud, "--target", "macs=0.5", "--json", "r.json", "--report", "r.html")
        assert result.exit_code == 4
        assert "failed: latency was not measured: no clock" in result.stdout
        assert "latency was not measured: no clock; s.onnx is complete and written" in result.stderr
        found = json.loads(Path("r.json").read_text())
        assert (found["met"], found["failures"]) == (True, ["latency was not measured: no clock"])
        assert found["after"]["latency_ms"] is None
        assert found["after"]["macs"] <= 0.5 * found["before"]["macs"]
        assert "no clock" in Path("r.html").read_text()
        onnxruntime.InferenceSession("s.onnx")

    def test_a_missed_target_counts_more(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(run_report, "bench", no_clock)
        result = run(*self.ARGUMENTS, "--target", "macs=0.001", "--target", "error=1e-9")
        assert result.exit_code == 3
        assert "no clock" in result.stderr

    def test_figures(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(run_report, "measured", no_clock)
        result = run(*self.ARGUMENTS, "--target", "macs=0.5", "--no-latency", "--json", "r.json")
        assert result.exit_code == 4
        found = json.loads(Path("r.json").read_text())
        assert found["failures"] == ["the result was not measured: no clock"]
        assert found["after"]["macs"] is None
        assert 0 < found["after"]["parameters"] < found["before"]["parameters"]

    def test_an_interrupt_names_what_is_written(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def stop(*args: object, **kwargs: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(run_report, "bench", stop)
        result = run(*self.ARGUMENTS, "--target", "macs=0.5")
        assert result.exit_code == 130
        line = result.stderr.strip()
        assert line.startswith("obs-onnx: interrupted; complete and written: ")
        names = line.partition("written: ")[2].split(", ")
        assert {Path(name).name for name in names} == {"s.onnx", "s.keep.json"}
        onnx.checker.check_model("s.onnx")


def test_models_are_timed_on_samples_that_the_user_gave(make_proto) -> None:
    """One name for the sizes of inputs of other ranks, which no invented data would get right."""
    rng = np.random.default_rng(0)
    proto = make_proto(
        """g (float[B,S,8] x, float[B,1,S,S] m) => (float[B,S,4] y) {
            h = MatMul(x, a)  r = Relu(h)  k = Squeeze(m, one)  z = MatMul(k, r)  y = MatMul(z, b) }""",
        {
            "a": rng.standard_normal((8, 16)).astype(np.float32),
            "b": rng.standard_normal((16, 4)).astype(np.float32),
            "one": np.array([1]),
        },
    )
    feed = {"x": nets.data(0, 40, 5, 8), "m": rng.random((40, 1, 5, 5)).astype(np.float32)}
    report = prune(proto, calib=feed, targets=HALF, **FAST).report
    assert report.failures == ()
    assert report.after.latency_ms is not None


class TestVarying:
    """Dropout and BatchNormalization in training mode, and random numbers."""

    def model(self, make_proto, middle: str, **more: object) -> onnx.ModelProto:
        rng = np.random.default_rng(0)
        held = {"a": (8, 16), "b": (16, 16), "c": (16, 4)}
        weights = {name: rng.standard_normal(shape).astype(np.float32) / 3 for name, shape in held.items()}
        text = f"""g (float[N,8] x) => (float[N,4] y) {{
            h = MatMul(x, a)  r = Relu(h)  {middle}  i = MatMul(s, b)  j = Relu(i)  y = MatMul(j, c) }}"""
        return make_proto(text, {**weights, **more})

    @pytest.mark.parametrize("mode", ["channels", "weights"])
    def test_dropout_is_off_and_stays_in_the_file(self, make_proto, mode: str) -> None:
        given = {"ratio": np.float32(0.4), "on": np.array(True)}
        target = HALF if mode == "channels" else {"sparsity": 0.5}
        noisy, clean = (
            prune(
                self.model(make_proto, middle, **more),
                calib={"x": nets.data(0, 64, 8)},
                targets=target,
                mode=mode,
                latency=False,
                **FAST,
            )
            for middle, more in (("s = Dropout(r, ratio, on)", given), ("s = Identity(r)", {}))
        )
        assert noisy.report.output_error == pytest.approx(clean.report.output_error, rel=1e-6)
        (dropout,) = (node for node in noisy.model.graph if node.op_type == "Dropout")
        assert dropout.inputs[2] is not None
        (note,) = (note for note in noisy.report.notes if "Dropout" in note)
        assert "in training mode: turned off in all measurements" in note
        assert not any("training mode" in note for note in clean.report.notes)

    def test_noise_is_the_same_for_all(self, make_proto) -> None:
        proto = self.model(make_proto, "n = RandomNormalLike<scale=0.5>(r)  s = Add(r, n)")
        calib = {"x": nets.data(0, 64, 8)}
        report = prune(
            proto, calib=calib, targets={"error": 1e-3}, mode="weights", latency=False, **FAST
        ).report
        assert report.met
        assert report.output_error <= 1e-3
        assert any("RandomNormalLike" in note and "same fixed ones" in note for note in report.notes)

    def test_statistics_of_the_batch_are_named(self, make_proto) -> None:
        held = {name: np.ones(16, np.float32) for name in ("scale", "shift", "mean", "var")}
        middle = "s, rm, rv = BatchNormalization<training_mode=1>(r, scale, shift, mean, var)"
        report = prune(
            self.model(make_proto, middle, **held),
            calib={"x": nets.data(0, 64, 8)},
            targets=HALF,
            latency=False,
            **FAST,
        ).report
        assert any("BatchNormalization" in note and "batches of 8 samples" in note for note in report.notes)


def talking(seed: int = 0) -> onnx.ModelProto:
    """An encoder, a predictor of durations, and a decoder over as many frames as these say."""
    rng = np.random.default_rng(seed)
    held = {
        "emb": rng.standard_normal((12, 16)),
        "enc": rng.standard_normal((16, 24)) / 4,
        "hid": rng.standard_normal((24, 16)) / 5,
        "dur": 2 * np.abs(rng.standard_normal((16, 1))),
        "dec": rng.standard_normal((24, 20)) / 5,
        "out": rng.standard_normal((20, 3)) / 4,
    }
    text = """g (int64[T] ids) => (float[L,3] y) {
        e = Gather(emb, ids)  a = MatMul(e, enc)  h = Relu(a)  p = MatMul(h, hid)  q = Relu(p)
        d = MatMul(q, dur)  s = Softplus(d)  t = Ceil(s)  v = Squeeze(t, last)  c = CumSum(v, zero)
        m = ReduceMax<keepdims=0>(c)  n = Cast<to=7>(m)  r = Range(zero, n, one)  f = Cast<to=1>(r)
        g2 = Unsqueeze(f, last)  b = Sub(c, v)  lo = GreaterOrEqual(g2, b)  hi = Less(g2, c)
        w = And(lo, hi)  k = Cast<to=1>(w)  z = MatMul(k, h)
        i = MatMul(z, dec)  j = Relu(i)  y = MatMul(j, out) }"""
    weights = {name: array.astype(np.float32) for name, array in held.items()}
    ints = {"last": np.array([1]), "zero": np.array(0), "one": np.array(1)}
    return nets.build_model(text, weights | ints)


@pytest.mark.parametrize(("mode", "targets"), [("channels", {"params": 0.6}), ("weights", {"sparsity": 0.7})])
def test_lengths_that_follow_from_the_data(mode: str, targets: dict[str, float]) -> None:
    rng = np.random.default_rng(1)
    calib = [{"ids": rng.integers(0, 12, 7)} for _ in range(40)]
    found = prune(talking(), calib=calib, targets=targets, mode=mode, latency=False, **FAST)
    (note,) = (note for note in found.report.notes if "refitted on what the dense model gives" in note)
    assert "dec" in note
    assert "enc" not in note
    (alert,) = (alert for alert in found.report.alerts if "another size" in alert)
    assert alert.startswith("output y has another size than the dense model's in ")
    session = onnxruntime.InferenceSession(ir.to_proto(found.model).SerializeToString())
    assert session.run(None, calib[0])[0].shape[1:] == (3,)


@pytest.mark.parametrize(("mode", "targets"), [("channels", HALF), ("weights", {"sparsity": 0.5})])
def test_an_operator_that_only_the_runtime_knows(make_proto, mode: str, targets: dict[str, float]) -> None:
    rng = np.random.default_rng(0)
    held = {"a": rng.standard_normal((8, 16)), "s": np.ones(16), "b": rng.standard_normal((16, 4))}
    proto = make_proto(
        """g (float[N,8] x) => (float[N,4] y) {
            h = MatMul(x, a)  r = Relu(h)
            n = SimplifiedLayerNormalization<axis=-1>(r, s)  y = MatMul(n, b) }""",
        {name: array.astype(np.float32) for name, array in held.items()},
    )
    report = prune(
        proto, calib={"x": nets.data(0, 64, 8)}, targets=targets, mode=mode, latency=False, **FAST
    ).report
    assert report.met
    assert report.output_error < 1


def test_samples_whose_class_changed_are_those_of_both_models() -> None:
    proto, x = nets.mlp(), nets.data(0, 256, 12)
    found = prune(proto, calib={"x": x}, task="classification", targets={"macs": 0.1}, latency=False, **FAST)
    report = found.report
    assert report.agreement is not None
    assert 1 <= len(report.changed) <= 8
    assert len(report.changed) <= round((1 - report.agreement) * len(x) / 8)
    sure = [one.sure_before for one in report.changed]
    assert sure == sorted(sure, reverse=True)
    for one in report.changed:
        row = np.array([float(part) for part in one.texts["x"].split(", ")])
        (sample,) = np.flatnonzero(np.abs(x - row).max(axis=1) < 1e-3)
        for model, own in ((proto, one.before), (ir.to_proto(found.model), one.after)):
            (scores,) = nets.run_proto(model, {"x": x[sample : sample + 1]}).values()
            assert scores.argmax() == own
    assert "texts" not in json.dumps(report.to_json()["changed"])


@pytest.mark.usefixtures("folder")
def test_the_data_has_a_check_sum() -> None:
    x = np.load("c.npz")["x"]
    np.savez("e.npz", x=x, labels=np.zeros(len(x), np.int64))
    Path("many").mkdir()
    for number, part in enumerate(np.array_split(x, 4)):
        np.savez(f"many/{number}.npz", x=part)
    made = prune(
        "m.onnx", calib="c.npz", eval="e.npz", targets=HALF, latency=False, **FAST
    ).report.environment
    for what, file in (("calibration data", "c.npz"), ("evaluation data", "e.npz")):
        assert made[what] == file
        assert made[f"{what} sha256"] == hashlib.sha256(Path(file).read_bytes()).hexdigest()
    first = prune("m.onnx", calib="many", targets=HALF, latency=False, **FAST).report.environment
    Path("many/0.npz").rename("many/00.npz")
    second = prune("m.onnx", calib="many", targets=HALF, latency=False, **FAST).report.environment
    assert first["calibration data sha256"] != second["calibration data sha256"]
    bare = prune("m.onnx", calib={"x": x}, targets=HALF, latency=False, **FAST).report.environment
    assert "calibration data" not in bare
