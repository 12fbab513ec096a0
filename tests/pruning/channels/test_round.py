"""The target latency from end to end, on a runtime whose time is a known function of the widths."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nets
import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from formula_runtime import FormulaRuntime, in_steps, slower_when_smaller
from nets import Net

from obs_onnx import prune
from obs_onnx.cli import main
from obs_onnx.passes.errors import OptionError
from obs_onnx.pruning.effort import EFFORTS
from obs_onnx.runtimes import open_runtime

QUICK = {"effort": "quick", "threads": 1}


def net() -> onnx.ModelProto:
    """Wide enough for steps of channels, with a residual connection, and classes that all occur."""
    made = Net(8)
    x = made.op("Relu", made.conv("x", "stem", 64, 3))
    y = made.op("Relu", made.conv(x, "inner", 64, 64))
    x = made.op("Relu", made.op("Add", made.conv(y, "outer", 64, 64), x))
    made.op("Identity", made.dense(made.pooled(x), "head", 64, 6), name="y")
    logits = nets.run_proto(made.proto({"x": [3, 4, 4]}, {"y": [6]}), {"x": nets.data(1, 256, 3, 4, 4)})["y"]
    made.tensors["head.bias"] -= logits.mean(0)
    return made.proto({"x": [3, 4, 4]}, {"y": [6]})


def calibration(samples: int = 128) -> dict[str, np.ndarray]:
    x = nets.data(0, samples, 3, 4, 4)
    labels = nets.run_proto(net(), {"x": x})["y"].argmax(1)
    return {"x": x, "labels": labels}


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[FormulaRuntime], FormulaRuntime]:
    """Let a runtime be the one where models will run; they are calibrated on onnxruntime."""

    def choose(runtime: FormulaRuntime) -> FormulaRuntime:
        monkeypatch.setattr("obs_onnx.pruning.inputs.open_runtime", lambda *_: runtime)
        monkeypatch.setattr(
            "obs_onnx.pruning.inputs.calibration_runtime", lambda *_: open_runtime("onnxruntime", 1)
        )
        monkeypatch.setitem(EFFORTS, "quick", replace(EFFORTS["quick"], widths=3, trials=3))
        return runtime

    return choose


def ratio(formula: Callable[[onnx.ModelProto], float], small: onnx.ModelProto) -> float:
    return formula(small) / formula(net())


def pruned(targets: dict[str, object], folder: Path, **options: object):
    """Model in the written file, and the report."""
    onnx.save(net(), folder / "m.onnx")
    given = {"calib": calibration(), "targets": targets, **QUICK, **options}
    report = prune(folder / "m.onnx", folder / "m.pruned.onnx", **given).report
    return onnx.load(folder / "m.pruned.onnx"), report


@pytest.mark.parametrize("share", [0.7, 0.5, 0.3])
def test_a_share_is_reached_and_not_overshot(use, tmp_path: Path, share: float) -> None:
    formula = in_steps(16)
    use(FormulaRuntime(formula))
    small, report = pruned({"latency": share}, tmp_path)
    assert report.met
    assert 0.7 * share < ratio(formula, small) <= share
    assert report.targets == {"latency": share}
    assert report.after.latency_ms.median == pytest.approx(1e3 * formula(small))
    assert report.before.latency_ms.median == pytest.approx(1e3 * formula(net()))
    assert any("steps of 16 channels" in note for note in report.notes)


def test_a_time_in_milliseconds(use, tmp_path: Path) -> None:
    formula = in_steps(16)
    use(FormulaRuntime(formula))
    limit = 0.6e3 * formula(net())
    small, report = pruned({"latency": f"{limit:.6f}ms"}, tmp_path)
    assert report.met
    assert 0.4 * limit < 1e3 * formula(small) <= limit


def test_predictions_that_are_wrong_are_corrected(use, tmp_path: Path) -> None:
    """Whole models have a cost that no block and no smooth function of the weights shows."""
    formula = in_steps(16)

    def dearer(model: onnx.ModelProto) -> float:
        (stem,) = [t for t in model.graph.initializer if t.name == "stem.weight"] or [None]
        layers = [n for n in model.graph.node if n.op_type in ("Conv", "Gemm")]
        extra = 0.25e-3 if len(layers) > 2 and stem is not None and stem.dims[0] < 64 else 0.0
        return formula(model) + extra

    use(FormulaRuntime(dearer))
    small, report = pruned({"latency": 0.6}, tmp_path)
    assert report.met
    assert dearer(small) / dearer(net()) <= 0.6


def test_several_targets(use, tmp_path: Path) -> None:
    formula = in_steps(16)
    use(FormulaRuntime(formula))
    small, report = pruned({"latency": 0.8, "params": 0.35}, tmp_path)
    assert report.met
    assert ratio(formula, small) <= 0.8
    assert report.after.parameters <= 0.35 * report.before.parameters
    assert report.targets == {"params": 0.35, "latency": 0.8}


def test_with_a_limit_on_accuracy(use, tmp_path: Path) -> None:
    formula = in_steps(16)
    use(FormulaRuntime(formula))
    small, report = pruned({"latency": 0.6, "drop": "60%"}, tmp_path)
    assert report.met
    assert ratio(formula, small) <= 0.6
    _, report = pruned({"latency": 0.05, "drop": "0.1%"}, tmp_path, eval=calibration(2000))
    assert not report.met
    assert report.after.accuracy < report.before.accuracy - 0.001


def test_the_fastest_within_an_error(use, tmp_path: Path) -> None:
    formula = in_steps(16)
    use(FormulaRuntime(formula))
    found = {}
    for error in (0.05, 0.4):
        small, report = pruned({"latency": "min", "error": error}, tmp_path)
        assert report.met
        assert report.output_error <= error
        found[error] = ratio(formula, small)
    assert found[0.4] < found[0.05] <= 1
    small, report = pruned({"latency": "min"}, tmp_path)  # as much error as without any targets
    assert report.targets == {"error": 0.05, "latency": "min"}
    assert ratio(formula, small) == pytest.approx(found[0.05])


def test_a_runtime_that_likes_no_removal_keeps_the_model(use, tmp_path: Path) -> None:
    use(FormulaRuntime(slower_when_smaller))
    small, report = pruned({"latency": 0.8}, tmp_path)
    assert not report.met
    assert {g.kept for g in report.groups} == {64}
    shapes = [{t.name: tuple(t.dims) for t in m.graph.initializer} for m in (small, net())]
    assert shapes[0] == shapes[1]
    assert report.missed[0].advice == "no removal of channels makes the model faster: it stays as it is"


def command(*arguments: str) -> Result:
    return CliRunner(catch_exceptions=False).invoke(main, list(arguments))


def test_what_cannot_be_reached(use, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    formula = in_steps(16)
    use(FormulaRuntime(lambda model: 1e-3 + formula(model)))  # most of the time is fixed
    monkeypatch.chdir(tmp_path)
    onnx.save(net(), "m.onnx")
    np.savez("m.calib.npz", **calibration())
    options = ["--effort", "quick", "--threads", "1", "-q", "--json", "r.json"]
    result = command("prune", "m.onnx", "--target", "latency=0.3", *options)
    assert result.exit_code == 3
    (line,) = result.stderr.splitlines()
    assert line.startswith("obs-onnx: target latency=0.3 is missed: ")
    assert line.endswith(" was reached; no faster model was found")
    report = json.loads(Path("r.json").read_text())
    assert report["met"] is False
    (missed,) = report["missed"]
    assert (missed["target"], missed["wanted"]) == ("latency", 0.3)
    assert missed["reached"] > 0.3
    small = onnx.load("m.pruned.onnx")
    widths = {t.name: t.dims[0] for t in small.graph.initializer}
    assert max(widths["stem.weight"], widths.get("inner.weight", 0)) <= 16


def test_the_batch_is_the_one_that_was_asked_for(use, tmp_path: Path) -> None:
    runtime = use(FormulaRuntime(in_steps(16)))
    pruned({"latency": 0.5}, tmp_path, batch=200)  # more than there are samples
    whole = [shapes["x"] for shapes in runtime.feeds if set(shapes) == {"x"} and len(shapes["x"]) == 4]
    assert {shape[0] for shape in whole if shape[1:] == (3, 4, 4)} == {200}


def test_zeros_do_not_lower_a_latency(tmp_path: Path) -> None:
    for target in ("0.5", "4ms", "min"):
        with pytest.raises(OptionError, match="target latency needs channel removal"):
            prune(net(), calib=calibration(), targets={"latency": target}, mode="weights")


def test_rounds_end_within_the_limit(use, tmp_path: Path) -> None:
    formula = in_steps(16)
    use(FormulaRuntime(formula))
    small, report = pruned({"latency": 0.5}, tmp_path, rounds=2)
    assert report.met
    assert ratio(formula, small) <= 0.5


def test_multiples_stay_multiples(use, tmp_path: Path) -> None:
    use(FormulaRuntime(in_steps(16)))
    _, report = pruned({"latency": 0.4}, tmp_path, round_to=24)
    assert report.met
    assert {g.kept for g in report.groups} <= {0, 24, 48, 64}
