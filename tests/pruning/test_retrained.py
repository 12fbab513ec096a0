"""Steps of all weights together behind pruning: what they bring is in the file, and promises are kept."""

from __future__ import annotations

import nets
import numpy as np
import onnx
import pytest

from obs_onnx import prune

OPTIONS = {"latency": False, "seed": 0}
MODES = {"weights": {"sparsity": 0.8}, "channels": {"macs": 0.5}}


@pytest.fixture(scope="module")
def net():
    return nets.mlp()


@pytest.fixture(scope="module")
def calib(net):
    return {net.graph.input[0].name: nets.data(1, 512, 12, factors=12)}


def told(report) -> list[str]:
    return [note for note in report.notes if "all weights together" in note]


def arrays(model) -> dict[str, np.ndarray]:
    return {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}


@pytest.mark.parametrize("mode", MODES)
def test_the_output_error_falls_and_zeros_and_proof_stay(net, calib, mode, tmp_path) -> None:
    given = {"calib": calib, "mode": mode, "targets": MODES[mode], **OPTIONS}
    plain, better = (prune(net, **given, refine=refine) for refine in (False, True))
    assert not told(plain.report)
    (note,) = told(better.report)
    assert better.report.met
    assert better.report.output_error < plain.report.output_error
    assert f"{plain.report.output_error:.4g} -> {better.report.output_error:.4g}" in note
    before, after = arrays(plain.model), arrays(better.model)
    for name, array in before.items():
        assert after[name].shape == array.shape
        if mode == "weights":
            assert not after[name][array == 0].any()
    if mode == "channels":
        assert better.report.proof.largest <= better.report.proof.tolerance
        assert better.keep == plain.keep
    work = {**given, "work": tmp_path / "work"}
    first = prune(net, **work)
    again = prune(net, **work, resume=True)
    for name, array in arrays(first.model).items():
        np.testing.assert_array_equal(array, after[name])
        np.testing.assert_array_equal(array, arrays(again.model)[name])


def test_too_little_to_judge_it_by_is_said(net, calib) -> None:
    few = {name: array[:64] for name, array in calib.items()}
    report = prune(net, calib=few, mode="weights", targets={"sparsity": 0.8}, **OPTIONS).report
    assert told(report) == [
        "all weights together were not corrected: 8 samples are held out to judge it, and 32 are needed"
    ]


def test_protected_layers_stay(net, calib) -> None:
    last = [t.name for t in net.graph.initializer if len(t.dims) > 1][-1]
    found = prune(net, calib=calib, mode="weights", targets={"sparsity": 0.5}, protect=[last], **OPTIONS)
    assert told(found.report)
    dense = {t.name: onnx.numpy_helper.to_array(t) for t in net.graph.initializer}
    np.testing.assert_array_equal(arrays(found.model)[last], dense[last])


def test_quick_effort_takes_none(net, calib) -> None:
    given = {"calib": calib, "mode": "weights", "targets": {"sparsity": 0.8}, "effort": "quick"}
    assert not told(prune(net, **given, **OPTIONS).report)
