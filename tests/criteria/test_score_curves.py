"""Channels allocated by a criterion's own scores, against global sorting, and costs taken off them."""

from __future__ import annotations

import json
from types import SimpleNamespace

import nets
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from channel_helpers import opened
from click.testing import CliRunner
from residual_data import PAPER, data

from obs_onnx import prune, score
from obs_onnx.allocation.regularizers import regularizers
from obs_onnx.allocation.thresholds import ScoreCurve
from obs_onnx.cli import main
from obs_onnx.criteria.channels import CRITERIA
from obs_onnx.criteria.score_curves import criterion_curves, worth
from obs_onnx.entrypoints import score as scoring
from obs_onnx.evaluation.run_cost import measured
from obs_onnx.passes.canonical.own_constants import prepare
from obs_onnx.passes.channels.coupling import couple
from obs_onnx.passes.channels.remove_channels import RemoveChannels
from obs_onnx.passes.errors import OptionError
from obs_onnx.runtimes import open_runtime


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
