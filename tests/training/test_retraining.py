"""Retraining inside pruning: zeros and removed channels stay away, rounds go on from trained weights."""

from __future__ import annotations

import nets
import numpy as np
import onnx
import pytest

from obs_onnx import prune
from obs_onnx.passes.errors import DataError, OptionError
from obs_onnx.pruning.weights import search as weights_search
from obs_onnx.pruning.weights import task as weights_task

OPTIONS = {"effort": "quick", "latency": False, "lr": 3e-3, "finetune": 100}


@pytest.fixture(scope="module")
def net():
    return nets.mlp()


@pytest.fixture(scope="module")
def calib(net):
    return {net.graph.input[0].name: nets.data(1, 512, 12, factors=12)}


def arrays(model):
    model = onnx.load(model) if not isinstance(model, onnx.ModelProto) else model
    return {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}


@pytest.mark.parametrize("rounds", [1, 2])
def test_zeros_of_weights_stay(net, calib, tmp_path, rounds):
    options = {"calib": calib, "mode": "weights", "targets": {"sparsity": 0.85}, "rounds": rounds}
    report = prune(net, tmp_path / "out.onnx", **options, **OPTIONS).report
    assert report.met
    assert report.finetune["after"]["loss"] < report.finetune["before"]["loss"]
    weights = {name: array for name, array in arrays(tmp_path / "out.onnx").items() if array.ndim > 1}
    zeros, size = (sum(f(w) for w in weights.values()) for f in (lambda w: (w == 0).sum(), np.size))
    assert zeros >= 0.85 * size
    assert report.finetune["masked"] == zeros
    runs = report.finetune["rounds"]
    assert [run["after"] for run in runs][-1] == report.finetune["after"]
    assert len(runs) == rounds
    assert report.finetune["total_steps"] == sum(run["steps"] for run in runs)


@pytest.mark.parametrize("rounds", [1, 2])
def test_channels_stay_removed(net, calib, tmp_path, rounds):
    options = {"calib": calib, "targets": {"macs": 0.4}, "rounds": rounds, "round_to": 1}
    report = prune(net, tmp_path / "out.onnx", **options, **OPTIONS).report
    assert report.met
    assert report.finetune["after"]["loss"] < report.finetune["before"]["loss"]
    assert nets.macs(onnx.load(tmp_path / "out.onnx")) <= 0.4 * nets.macs(net)


def test_rounds_go_on_from_trained_weights(net, calib):
    options = {**OPTIONS, "calib": calib, "targets": {"macs": 0.4}, "round_to": 1, "rounds": 2}
    options["compensate"] = False  # a refit would make up for most of it
    losses = [prune(net, **{**options, "finetune": k}).report.finetune["before"]["loss"] for k in (1, 50)]
    assert losses[1] < losses[0]


@pytest.mark.parametrize(("mode", "target"), [("weights", {"sparsity": 0.5}), ("channels", {"macs": 0.7})])
def test_protected_layers_are_not_trained(net, calib, mode, target):
    last = [name for name, array in arrays(net).items() if array.ndim > 1][-1]
    found = prune(net, calib=calib, mode=mode, targets=target, protect=[last], round_to=None, **OPTIONS)
    free = prune(net, calib=calib, mode=mode, targets=target, **OPTIONS)
    after, trained = (m.model.graph.initializers[last].const_value.numpy() for m in (found, free))
    before = arrays(net)[last]
    if after.shape == before.shape:
        assert np.array_equal(after, before)
    else:
        assert set(after.reshape(-1)) <= set(before.reshape(-1))
    assert not set(trained.reshape(-1)) <= set(before.reshape(-1))


def test_labels_are_learnt_where_they_are_named(net, calib):
    classes = nets.run_proto(net, calib)[net.graph.output[0].name].argmax(axis=1)
    options = {"calib": {**calib, "labels": classes}, "mode": "weights", "targets": {"sparsity": 0.8}}
    both, taught = prune(net, labels="labels", **options, **OPTIONS), prune(net, **options, **OPTIONS)
    assert both.report.finetune["before"]["loss"] != taught.report.finetune["before"]["loss"]


def test_the_last_round_may_be_followed_by_more_updates(net, calib, tmp_path):
    out = tmp_path / "out.onnx"
    options = {**OPTIONS, "calib": calib, "mode": "weights", "targets": {"sparsity": 0.9}, "rounds": 6}
    report = prune(net, out, **{**options, "finetune": 5, "finetune_last": 60}).report
    assert [run["steps"] for run in report.finetune["rounds"]] == [5] * 5 + [60]
    assert report.met
    weights = [array for array in arrays(out).values() if array.ndim > 1]
    assert sum((w == 0).sum() for w in weights) >= 0.9 * sum(w.size for w in weights)


def test_scores_of_a_round_are_those_of_the_weights_trained_before_it(net, calib, monkeypatch):
    judged = []

    class Spied(weights_task.LabelledBatches):
        def __init__(self, runtime, model, *others):
            judged.append({n: v.const_value.numpy().copy() for n, v in model.graph.initializers.items()})
            super().__init__(runtime, model, *others)

    monkeypatch.setattr(weights_task, "LabelledBatches", Spied)
    options = {**OPTIONS, "calib": calib, "mode": "weights", "targets": {"sparsity": 0.8}, "rounds": 3}
    prune(net, criterion="fisher", allocation="fisher", compensate=False, **options)
    zeros = [sum(int((w == 0).sum()) for w in of.values()) for of in judged[-3:]]  # first the forecast's
    assert zeros[0] < zeros[1] < zeros[2]


def test_a_sparse_model_is_approached_from_where_it_is(net, calib):
    options = {**OPTIONS, "calib": calib, "mode": "weights", "finetune": 0}
    half = prune(net, targets={"sparsity": 0.5}, **options).model
    seen = []
    options |= {"finetune": 1, "criterion": "magnitude", "rounds": 2}
    with pytest.MonkeyPatch.context() as patch:
        find = weights_search.attempt_pruning
        patch.setattr(weights_search, "attempt_pruning", lambda *given: seen.append(given[1]) or find(*given))
        prune(half, targets={"sparsity": 0.875}, **options)
    shares = [sum(removed.values()) / sum(layer_sizes(net)) for removed in seen]
    assert sorted(set(shares)) == pytest.approx([0.75, 0.875], abs=0.01)


def layer_sizes(net):
    return [array.size for array in arrays(net).values() if array.ndim > 1]


def test_other_data_to_learn_from(net, calib):
    name = next(iter(calib))
    labels = np.random.default_rng(3).integers(0, 5, len(calib[name]))
    options = {"targets": {"macs": 0.5}, **OPTIONS, "finetune": 40}
    taught = prune(net, calib=calib, **options).report.finetune["before"]
    few = {name: calib[name][:64]}
    report = prune(net, calib=few, finetune_data=calib, **options).report
    assert report.finetune["before"] != taught
    both = {**calib, "labels": labels}
    mixed = prune(net, calib=both, labels="labels", finetune_data=both, mix=1.0, **options).report
    assert mixed.finetune["before"]["loss"] > 1  # cross-entropy with labels that mean nothing
    for wrong in ({"finetune_data": calib}, {"finetune_last": 5}):
        with pytest.raises(OptionError, match="goes with finetune"):
            prune(net, calib=calib, **{**options, "finetune": 0}, **wrong)


def test_without_steps_nothing_is_reported(net, calib):
    assert prune(net, calib=calib, effort="quick", latency=False).report.finetune is None


def test_views_are_refused_before_anything_is_pruned(net, calib):
    with pytest.raises(DataError, match="images"):
        prune(net, calib=calib, augment="flip", **OPTIONS, dry_run=True)


def test_negative_steps_are_refused(net, calib):
    with pytest.raises(OptionError, match="finetune -1"):
        prune(net, calib=calib, finetune=-1)
