"""Criteria for weights: each is an entry of a registry; a new one is a function and an entry."""

from __future__ import annotations

import nets
import numpy as np
import pytest

from obs_onnx import prune
from obs_onnx.criteria import weight_scores
from obs_onnx.criteria.weight_derivatives import KINDS, Kind
from obs_onnx.criteria.weight_scores import ALLOCATIONS, criteria
from obs_onnx.entrypoints.prune_options import PruneOptions
from obs_onnx.option import options_of
from obs_onnx.passes.errors import OptionError
from obs_onnx.solvers import METHODS
from obs_onnx.solvers.solve import Method

OPTIONS = {
    "mode": "weights",
    "targets": {"sparsity": 0.5},
    "effort": "quick",
    "latency": False,
    "compensate": False,
}


def test_all_names():
    assert criteria() == (
        *("auto", "obs", "admm", "lobs", "magnitude", "random"),
        *("taylor", "fisher", "obd", "oba", "oba-second", "oba-paper"),
    )
    assert set(ALLOCATIONS) == {"magnitude", "obs", "random", *KINDS} <= set(criteria())
    (criterion,) = (one for one in options_of(PruneOptions) if one.name == "criterion")
    assert criterion.help.endswith(f"of weights {', '.join(criteria())}.")
    assert [name for name, kind in KINDS.items() if not kind.second] == ["taylor", "fisher"]
    assert [name for name, kind in KINDS.items() if kind.signs] == ["obd"]
    assert [name for name, kind in KINDS.items() if kind.fixed] == ["oba-paper"]


def weights(model):
    """Kept weights of every layer, flat."""
    held = model.graph.initializers.items()
    return {n: v.const_value.numpy().reshape(-1) for n, v in held if n.endswith("weight")}


def test_a_new_solver_is_a_function_and_an_entry(monkeypatch):
    """It keeps the last weights of a layer, wherever they stand."""

    def last(asked):
        places = np.arange(asked.problem.w.size).reshape(asked.shape)
        for sparsity in asked.sparsities:
            yield places >= round(sparsity * places.size), None

    with pytest.raises(OptionError, match="criterion 'last'"):
        prune(nets.mlp(), calib=nets.data(0, 60, 12), criterion="last", **OPTIONS)
    monkeypatch.setitem(METHODS, "last", Method(last))
    result = prune(nets.mlp(), calib=nets.data(0, 200, 12), criterion="last", **OPTIONS)
    assert result.report.met
    touched = [layer for layer in result.report.layers if layer.method is not None]
    assert touched
    for layer in touched:
        assert layer.method == "last"
        rows = weights(result.model)[layer.name].reshape(layer.shape)  # (outputs, inputs)
        assert np.array_equal(
            rows.reshape(-1) == 0, np.arange(rows.size) < round((1 - layer.kept) * rows.size)
        )


def test_new_scores_are_a_function_and_an_entry(monkeypatch):
    """Terms that are all alike but for the size of the weights: the criterion is their square."""
    monkeypatch.setitem(KINDS, "square", Kind(lambda d: d.w**2, second=False))
    monkeypatch.setitem(ALLOCATIONS, "square", weight_scores._by_loss)
    options = {**OPTIONS, "allocation": "square", "normalize": False}
    result = prune(nets.mlp(), calib=nets.data(0, 200, 12), criterion="square", **options)
    assert result.report.met
    dense = {held.name: np.frombuffer(held.raw_data, np.float32) for held in nets.mlp().graph.initializer}
    after = weights(result.model)
    gone = np.concatenate([np.abs(dense[name][array == 0]) for name, array in after.items()])
    kept = np.concatenate([np.abs(dense[name][array != 0]) for name, array in after.items()])
    assert len(gone) == round(0.5 * (len(gone) + len(kept)))
    assert gone.max() <= kept.min()
