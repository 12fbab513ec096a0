"""Weights allocated by their own scores, against global sorting."""

from __future__ import annotations

import nets
import numpy as np
import onnx_ir as ir
import pytest
from channel_helpers import tensors_of
from residual_data import PAPER, data

from obs_onnx import prune
from obs_onnx.criteria.weight_scores import WeightAllocation
from obs_onnx.passes.canonical.own_constants import prepare
from obs_onnx.passes.errors import OptionError
from obs_onnx.passes.layers.find_layers import find_layers
from obs_onnx.passes.layers.stages import plan_stages
from obs_onnx.runtimes import open_runtime
from obs_onnx.solvers import UNSTRUCTURED


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
