"""score() against an own loop of removals, its correlations against SciPy, and the command."""

from __future__ import annotations

import nets
import numpy as np
import onnx_ir as ir
import pytest
from channel_helpers import entropy
from nets import run_proto
from scipy.stats import spearmanr

from obs_onnx import score
from obs_onnx.entrypoints.score import spearman
from obs_onnx.passes.canonical.own_constants import prepare
from obs_onnx.passes.channels.coupling import couple
from obs_onnx.passes.channels.remove_channels import RemoveChannels
from obs_onnx.passes.errors import OptionError


def test_the_oracle_is_the_change_of_the_loss(labelled) -> None:
    """Channels are really removed, with labels of the labelled."""
    found = score(ir.from_proto(nets.residual()), calib=labelled, criterion="taylor", oracle=True)
    model = prepare(ir.from_proto(nets.residual()))
    coupling = couple(model)
    base = entropy(
        run_proto(ir.to_proto(model), {"x": labelled["x"]})["y"].astype(np.float64), labelled["labels"]
    )
    for group, scored in zip(coupling.groups, found.groups, strict=True):
        assert scored.name == group.name
        for channel in (0, group.n // 2):
            small = model.clone()
            RemoveChannels({group.id: np.arange(group.n) != channel}, coupling.of(small)).call(small)
            y = run_proto(ir.to_proto(small), {"x": labelled["x"]})["y"].astype(np.float64)
            change = abs(entropy(y, labelled["labels"]).mean() - base.mean())
            assert scored.oracle[channel] == pytest.approx(change, rel=1e-2, abs=3e-6)


def test_correlations(labelled) -> None:
    found = score(ir.from_proto(nets.residual()), calib=labelled, criterion="taylor", oracle=True)
    raw = np.concatenate([group.raw for group in found.groups])
    truth = np.concatenate([group.oracle for group in found.groups])
    table = found.spearman
    assert table["all"]["raw"] == pytest.approx(spearmanr(raw, truth).statistic)
    within = [spearmanr(group.raw, group.oracle).statistic for group in found.groups]
    assert table["per_layer_mean"] == pytest.approx(np.mean(within))
    for group in found.groups:
        np.testing.assert_allclose(np.linalg.norm(group.normalised), 1)
        assert group.convolution
    assert table["convolutions"] == table["all"]
    same = score(ir.from_proto(nets.residual()), calib=labelled, criterion="oracle", oracle=True)
    assert same.spearman["all"] == pytest.approx({"raw": 1.0, "normalised": 1.0}, abs=1e-15)


def test_second_order_agrees_with_small_removals(labelled) -> None:
    """The classifier's own classes as labels; the second-order change is near the real one."""
    model = ir.from_proto(nets.residual())
    gates = score(model, calib={"x": labelled["x"]}, criterion="gates", oracle=True)
    assert gates.spearman["all"]["raw"] > 0.85
    assert any("no labels" in note for note in gates.notes)


def test_ties_and_constants() -> None:
    a, b = np.array([1.0, 2, 2, 3]), np.array([4.0, 4, 1, 9])
    assert spearman(a, b) == pytest.approx(spearmanr(a, b).statistic)
    assert spearman(np.ones(3), np.arange(3.0)) is None


def test_costs_are_taken_off_normalised_scores(labelled) -> None:
    model = ir.from_proto(nets.residual())
    plain, taxed = (
        score(model, calib=labelled, criterion="l2", regularize={"flops": r}) for r in (0.0, 10.0)
    )
    for before, after in zip(plain.groups, taxed.groups, strict=True):
        np.testing.assert_array_equal(before.raw, after.raw)
        off = before.normalised - after.normalised
        assert off.min() > 0
        np.testing.assert_allclose(off, off[0])
    stem = next(group for group in plain.groups if group.name == "a1.weight[0]")
    flops = 2 * (8 * 8 * 9 * 12 + 8 * 8 * 9 * 12)  # read and written by two convolutions of 3x3
    taxed_stem = next(group for group in taxed.groups if group.name == "a1.weight[0]")
    np.testing.assert_allclose(stem.normalised - taxed_stem.normalised, 10 * flops / 1e6, rtol=0.05)


def test_an_unknown_criterion() -> None:
    with pytest.raises(OptionError, match="unknown"):
        score(ir.from_proto(nets.mlp()), calib={"x": nets.data(0, 8, 12)}, criterion="luck")
