"""Allocation by a criterion's own scores against global sorting, in both modes, and costs as regularisers."""

from __future__ import annotations

import json
from types import SimpleNamespace

import nets
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from channel_helpers import opened, tensors_of
from click.testing import CliRunner

from obs_onnx import prune, score
from obs_onnx.allocation.regularizers import penalties, regularizers
from obs_onnx.allocation.thresholds import ScoreCurve
from obs_onnx.cli import main
from obs_onnx.criteria.channels import CRITERIA, worth
from obs_onnx.criteria.score_curves import criterion_curves
from obs_onnx.criteria.weight_scores import WeightAllocation
from obs_onnx.entrypoints import score as scoring
from obs_onnx.evaluation.run_cost import measured
from obs_onnx.passes.canonical.own_constants import prepare
from obs_onnx.passes.channels.coupling import couple
from obs_onnx.passes.channels.remove_channels import RemoveChannels
from obs_onnx.passes.costs.traffic import Traffic
from obs_onnx.passes.errors import OptionError
from obs_onnx.passes.layers.find_layers import find_layers
from obs_onnx.passes.layers.stages import plan_stages
from obs_onnx.runtimes import open_runtime
from obs_onnx.solvers import UNSTRUCTURED

PAPER = {"compensate": False, "sequential": False, "latency": False, "effort": "quick"}


def data(samples: int = 160) -> dict[str, np.ndarray]:
    x = nets.data(0, samples, 3, 8, 8)
    return {"x": x, "labels": np.random.default_rng(0).integers(0, 6, samples)}


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


class TestChannels:
    def kept(self, **options: object) -> dict[str, int]:
        result = prune(ir.from_proto(nets.residual()), calib=data(), **{**PAPER, **options})
        assert result.report.met
        assert "measure damage" not in result.report.seconds
        return {group.name: group.kept for group in result.report.groups}

    @pytest.mark.parametrize("normalize", [True, False])
    def test_channels_of_least_norm_go_first(self, normalize: bool) -> None:
        """One by one from the whole network, until the multiply-accumulates really are few enough."""
        model = prepare(ir.from_proto(nets.residual()))
        _, coupling, _, evidence = opened(nets.residual(), nets.data(0, 8, 3, 8, 8))
        scores = {group.id: np.sort(CRITERIA["l2"](evidence, group)) for group in coupling.groups}
        scores = {g: s / np.linalg.norm(s) for g, s in scores.items()}
        runtime, sample = open_runtime("onnxruntime", 1), {"x": nets.data(0, 1, 3, 8, 8)}
        dense = measured(runtime, model, sample).macs
        order = sorted((score, group, k) for group, s in scores.items() for k, score in enumerate(s[:-1]))
        keep = {group.id: np.ones(group.n, bool) for group in coupling.groups}
        for _, group, k in order:
            small = model.clone()
            RemoveChannels(keep, coupling.of(small)).call(small)
            if measured(runtime, small, sample).macs <= 0.6 * dense:
                break
            keep[group][k] = False
        options = {"criterion": "l2", "allocation": "l2", "targets": {"macs": 0.6}, "round_to": 1}
        found = self.kept(normalize=normalize, **options)
        expected = {group.name: int(keep[group.id].sum()) for group in coupling.groups}
        assert (found == expected) == normalize  # raw scores are weighed against what they save

    def test_scores_of_one_and_choice_of_another(self) -> None:
        _, coupling, _, evidence = opened(nets.residual(), nets.data(0, 60, 3, 8, 8))
        alone, mixed = (
            criterion_curves(evidence, order=order, allocation="l2", normalize=False, advance=lambda n: None)
            for order in ("l2", "obs")
        )
        differ = 0
        for group in coupling.groups:
            a, b = alone[group.id], mixed[group.id]
            np.testing.assert_array_equal(a.curve.scores, b.curve.scores)
            assert (np.diff(a.curve.scores) >= 0).all()
            np.testing.assert_array_equal(
                b.order, np.argsort(CRITERIA["obs"](evidence, group), kind="stable")
            )
            differ += int((a.order != b.order).any())
        assert differ
        assert sum(one.curve.scores.sum() for one in alone.values()) == pytest.approx(1)

    def test_losses_of_the_surgeon_are_sums_already(self) -> None:
        scores = np.array([3.0, 1.0, 8.0])
        np.testing.assert_array_equal(worth("obs", scores), [2, 1, 5])
        np.testing.assert_array_equal(worth("taylor", scores), scores)

    @pytest.mark.parametrize("criterion", ["taylor", "oba", "oracle", "obs", "apoz"])
    def test_any_criterion_allocates(self, criterion: str) -> None:
        found = self.kept(allocation=criterion, targets={"macs": 0.7}, round_to=1)
        assert sum(found.values()) < 64

    def test_an_error_is_searched_for(self) -> None:
        result = prune(
            ir.from_proto(nets.residual()),
            calib=data(),
            allocation="taylor",
            targets={"error": 0.2},
            effort="quick",
            latency=False,
        )
        assert result.report.met
        assert result.report.after.macs < 0.9 * result.report.before.macs

    def test_rounds_score_again(self) -> None:
        self.kept(criterion="taylor", allocation="taylor", targets={"macs": 0.5}, rounds=2)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"allocation": "luck"}, "allocation 'luck' is unknown"),
            ({"regularize": {"flops": 1.0}}, "regularize is about scores"),
            ({"allocation": "taylor", "regularize": {"luck": 1.0}}, "use one of flops, memory"),
            ({"allocation": "taylor", "regularize": {"flops": -1.0}}, "not negative"),
        ],
    )
    def test_usage(self, options: dict[str, object], message: str) -> None:
        with pytest.raises(OptionError, match=message):
            prune(ir.from_proto(nets.residual()), calib=data(16), **options)


class TestRegularizers:
    @pytest.mark.parametrize("name", sorted(nets.NETS))
    def test_traffic_is_that_of_the_smaller_model(self, name: str) -> None:
        """Bytes of all values of a real run, for a number of samples that the coupling knows nothing of."""
        proto = nets.NETS[name]()
        model = prepare(ir.from_proto(proto))
        coupling, runtime = couple(model), open_runtime("onnxruntime", 1)
        (declared,) = [value for value in model.graph.inputs if not value.is_initializer()]
        sample = {"x": nets.data(0, 1, *(int(n) for n in declared.shape[1:]))}
        traffic = Traffic(coupling, measured(runtime, model, sample).sizes)
        rng = np.random.default_rng(0)
        for _ in range(3):
            keep = {g.id: rng.permutation(g.n) < rng.integers(1, g.n + 1) for g in coupling.groups}
            small = model.clone()
            RemoveChannels(keep, coupling.of(small)).call(small)
            sizes = dict(measured(runtime, small, sample).sizes)
            sizes |= {n: v.const_value.nbytes for n, v in small.graph.initializers.items()}
            counts = {group: int(mask.sum()) for group, mask in keep.items()}
            moved = [
                sizes[str(value.name)]
                for node in small.graph
                for value in (*dict.fromkeys(v for v in node.inputs if v is not None), *node.outputs)
            ]
            assert traffic.memory.value(counts) == pytest.approx(sum(sizes.values()), rel=1e-9)
            assert traffic.bandwidth.value(counts) == pytest.approx(sum(moved), rel=1e-9)

    def test_a_channel_costs_what_its_removal_saves(self) -> None:
        model = prepare(ir.from_proto(nets.residual()))
        coupling, runtime = couple(model), open_runtime("onnxruntime", 1)
        sample = {"x": nets.data(0, 1, 3, 8, 8)}
        dense = measured(runtime, model, sample)
        costs = regularizers(coupling, dense.macs, dense.sizes)
        off = penalties({"flops": 3.0, "memory": 5.0}, costs, coupling.groups)
        for group in coupling.groups:
            small = model.clone()
            RemoveChannels({group.id: np.arange(group.n) > 0}, coupling.of(small)).call(small)
            less = measured(runtime, small, sample)
            flops = 2 * (dense.macs - less.macs) / 1e6
            values = sum(dense.sizes.values()) - sum(less.sizes.values())
            stored = [
                sum(v.const_value.nbytes for v in one.graph.initializers.values()) for one in (model, small)
            ]
            expected = 3 * flops + 5 * (values + stored[0] - stored[1]) / 1e6
            assert off[group.id] == pytest.approx(expected, rel=1e-9)
        stepped = penalties({"flops": 3.0}, costs, coupling.groups, {g.id: 4 for g in coupling.groups})
        for group in coupling.groups:
            saved = float(costs["flops"].saving({}, group.id, group.n - 4))
            assert stepped[group.id] == pytest.approx(3 * saved / 4)

    def test_any_cost_can_be_latency(self) -> None:
        model = prepare(ir.from_proto(nets.residual()))
        coupling = couple(model)
        dense = measured(open_runtime("onnxruntime", 1), model, {"x": nets.data(0, 1, 3, 8, 8)})
        costs = regularizers(coupling, dense.macs, dense.sizes)
        with pytest.raises(OptionError, match="where a target latency is asked for"):
            penalties({"latency": 1.0}, costs, coupling.groups)
        timed = regularizers(coupling, dense.macs, dense.sizes, latency=costs["flops"])
        assert penalties({"latency": 1.0}, timed, coupling.groups) == penalties(
            {"flops": 1.0}, costs, coupling.groups
        )

    def test_scores_are_taxed_by_measured_latency(self, monkeypatch) -> None:
        """With the steps in which it falls."""
        model, x = ir.from_proto(nets.residual()), nets.data(0, 20, 3, 8, 8)
        coupling = couple(prepare(model))
        dense = measured(open_runtime("onnxruntime", 1), coupling.model, {"x": x[:1]})
        flops = regularizers(coupling, dense.macs, dense.sizes)["flops"]
        table = SimpleNamespace(cost=flops, quanta={group.id: 4 for group in coupling.groups})
        monkeypatch.setattr(scoring, "measure_table", lambda *args, **options: table)
        plain, taxed = (
            score(model, calib={"x": x}, criterion="l2", regularize=r) for r in ({}, {"latency": 2.0})
        )
        for group, before, after in zip(coupling.groups, plain.groups, taxed.groups, strict=True):
            off = 2 * float(flops.saving({}, group.id, group.n - 4)) / 4
            np.testing.assert_allclose(before.normalised - after.normalised, off)
        assert taxed.to_json()["regularize"] == {"latency": 2.0}

    def test_a_large_weight_takes_the_dearest_channels_first(self) -> None:
        proto = nets.residual()
        _, coupling, _, evidence = opened(proto, nets.data(0, 30, 3, 8, 8))
        off = {group.id: 1000.0 * number for number, group in enumerate(coupling.groups)}
        found = criterion_curves(
            evidence, order="l2", allocation="l2", normalize=True, penalties=off, advance=lambda n: None
        )
        curves = [found[group.id].curve for group in coupling.groups]
        assert all(isinstance(curve, ScoreCurve) for curve in curves)
        highest = [curve.scores.max() for curve in curves]
        lowest = [curve.scores.min() for curve in curves]
        assert all(high < low for high, low in zip(highest[1:], lowest[:-1], strict=True))


def test_the_command(tmp_path) -> None:
    onnx.save(nets.residual(), tmp_path / "net.onnx")
    np.savez(tmp_path / "data.npz", **data())
    args = ["prune", str(tmp_path / "net.onnx"), "--calib", str(tmp_path / "data.npz"), "-q"]
    args += ["--criterion", "taylor", "--allocation", "taylor", "--no-compensate", "--target", "macs=0.7"]
    args += ["--effort", "quick", "--json", str(tmp_path / "out.json")]
    for more in ([], ["--normalize"], ["--regularize", "flops=0.1", "--regularize", "bandwidth=0.01"]):
        result = CliRunner().invoke(main, [*args, *more])
        assert result.exit_code == 0, result.output
        assert json.loads((tmp_path / "out.json").read_text())["met"]
    result = CliRunner().invoke(main, [*args, "--regularize", "flops"])
    assert result.exit_code == 2
    assert "KEY=LAMBDA" in result.output
