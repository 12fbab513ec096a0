"""Weights allocated by their own scores, against global sorting."""

from __future__ import annotations

import nets
import numpy as np
import onnx_ir as ir
import pytest
from channel_helpers import tensors_of
from residual_data import PAPER, data

from obs_onnx import prune
from obs_onnx.criteria import weight_scores
from obs_onnx.criteria.weight_derivatives import KINDS, Kind
from obs_onnx.criteria.weight_scores import ALLOCATIONS, WeightAllocation, criteria
from obs_onnx.entrypoints.options.prune import PruneOptions
from obs_onnx.option import options_of
from obs_onnx.passes.canonical.own_constants import prepare
from obs_onnx.passes.errors import OptionError
from obs_onnx.passes.layers.find_layers import find_layers
from obs_onnx.passes.layers.stages import plan_stages
from obs_onnx.runtimes import open_runtime
from obs_onnx.solvers import METHODS, UNSTRUCTURED
from obs_onnx.solvers.solve import Method


class TestWeights:
    def pruned(self, **options: object) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Weights of two or more axes before and after."""
        model = ir.from_proto(nets.residual())
        result = prune(model, calib=data(), mode="weights", **{**PAPER, **options})
        assert result.report.met
        assert "measure damage" not in result.report.seconds
        before, after = tensors_of(prepare(model)), tensors_of(result.model)
        names = [name for name, array in after.items() if array.ndim > 1]
        return {name: before[name] for name in names}, {name: after[name] for name in names}

    def test_global_magnitude(self) -> None:
        before, after = self.pruned(criterion="magnitude", allocation="magnitude", targets={"sparsity": 0.7})
        pool = np.sort(np.concatenate([np.abs(w).ravel() for w in before.values()]))
        threshold = pool[int(np.ceil(0.7 * len(pool)))]
        for name, w in before.items():
            np.testing.assert_array_equal(after[name], np.where(np.abs(w) < threshold, 0, w))

    def test_normalised_magnitude(self) -> None:
        before, after = self.pruned(
            criterion="magnitude", allocation="magnitude", normalize=True, targets={"sparsity": 0.7}
        )
        scores = {name: np.abs(w) / np.linalg.norm(w.astype(np.float64)) for name, w in before.items()}
        pool = np.sort(np.concatenate([s.ravel() for s in scores.values()]))
        threshold = pool[int(np.ceil(0.7 * len(pool)))]
        for name, w in before.items():
            np.testing.assert_array_equal(after[name], np.where(scores[name] < threshold, 0, w))

    @pytest.mark.parametrize("criterion", ["taylor", "oba", "oba-paper"])
    def test_counts_do_not_depend_on_what_chooses_inside(self, criterion: str) -> None:
        options = {"allocation": criterion, "targets": {"sparsity": 0.6}}
        _, paper = self.pruned(criterion=criterion, **options)
        _, surgeon = self.pruned(criterion="obs", **options)
        zeros = [{name: int((w == 0).sum()) for name, w in one.items()} for one in (paper, surgeon)]
        assert zeros[0] == zeros[1]
        assert len({count / paper[name].size for name, count in zeros[0].items()}) > 1
        assert any(((paper[name] == 0) != (surgeon[name] == 0)).any() for name in paper)

    def test_surgeon_scores_are_errors_of_single_removals(self) -> None:
        """What the layer's output loses when one weight goes and the others of its row move."""
        x = nets.data(0, 200, 12, factors=12) + np.random.default_rng(1).normal(size=(200, 12)).astype("f")
        model = prepare(ir.from_proto(nets.mlp()))
        layers = find_layers(model)[0]
        plan = plan_stages(model, layers)
        runtime = open_runtime("onnxruntime", 1)
        allocation = WeightAllocation("obs", runtime, plan, [{"x": x}], 10**8, 1e-9, UNSTRUCTURED)
        first, scores = next(iter(allocation.scores(model, layers)))
        w = first.layout.to_matrix(tensors_of(model)[first.name])[0]
        centred = (x - x.mean(0)).astype(np.float64)
        for row, column in ((0, 0), (3, 5)):
            rest = np.delete(centred, column, 1)
            y = centred @ w[row]
            error = np.square(y - rest @ np.linalg.lstsq(rest, y, rcond=None)[0]).sum()
            assert scores[0, row, column] == pytest.approx(error, rel=1e-3)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"allocation": "luck"}, "allocation 'luck' is unknown"),
            ({"allocation": "gates"}, "is unknown"),
            ({"normalize": True}, "normalize is about scores"),
            ({"allocation": "taylor", "regularize": {"flops": 1.0}}, "about channels"),
            ({"allocation": "taylor", "pattern": "2:4"}, "leave out allocation"),
        ],
    )
    def test_usage(self, options: dict[str, object], message: str) -> None:
        with pytest.raises(OptionError, match=message):
            prune(ir.from_proto(nets.residual()), calib=data(16), mode="weights", **options)


FAST = {
    "mode": "weights",
    "targets": {"sparsity": 0.5},
    "effort": "quick",
    "latency": False,
    "compensate": False,
}


def test_names_of_criteria():
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


def kept_weights(model):
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
        prune(nets.mlp(), calib=nets.data(0, 60, 12), criterion="last", **FAST)
    monkeypatch.setitem(METHODS, "last", Method(last))
    result = prune(nets.mlp(), calib=nets.data(0, 200, 12), criterion="last", **FAST)
    assert result.report.met
    touched = [layer for layer in result.report.layers if layer.method is not None]
    assert touched
    for layer in touched:
        assert layer.method == "last"
        rows = kept_weights(result.model)[layer.name].reshape(layer.shape)  # (outputs, inputs)
        assert np.array_equal(
            rows.reshape(-1) == 0, np.arange(rows.size) < round((1 - layer.kept) * rows.size)
        )


def test_new_scores_are_a_function_and_an_entry(monkeypatch):
    """Terms that are all alike but for the size of the weights: the criterion is their square."""
    monkeypatch.setitem(KINDS, "square", Kind(lambda d: d.w**2, second=False))
    monkeypatch.setitem(ALLOCATIONS, "square", weight_scores._by_loss)
    options = {**FAST, "allocation": "square", "normalize": False}
    result = prune(nets.mlp(), calib=nets.data(0, 200, 12), criterion="square", **options)
    assert result.report.met
    dense = {held.name: np.frombuffer(held.raw_data, np.float32) for held in nets.mlp().graph.initializer}
    after = kept_weights(result.model)
    gone = np.concatenate([np.abs(dense[name][array == 0]) for name, array in after.items()])
    kept = np.concatenate([np.abs(dense[name][array != 0]) for name, array in after.items()])
    assert len(gone) == round(0.5 * (len(gone) + len(kept)))
    assert gone.max() <= kept.min()
