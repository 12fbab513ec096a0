"""Damage of outputs against formulas."""

from __future__ import annotations

import numpy as np
import pytest
from layer_runs import normal

from obs_onnx.evaluation.measures.output_damage import Damage
from obs_onnx.evaluation.measures.yardstick import yardstick_of


def measured_by(measure: str, **outputs: np.ndarray):
    """A yardstick for outputs of a classifier, or of something else."""
    task = "classification" if measure == "kl" else "regression"
    return yardstick_of([outputs], task=task, loss=measure if measure != "changed" else "auto")


class TestDamage:
    def test_error(self) -> None:
        y, z = normal(0, 10, 4), normal(1, 10, 4)
        damage = Damage(measured_by("error", y=y), ["y", "i"])
        for rows in (slice(0, 3), slice(3, 10)):
            damage.update({"y": y[rows], "i": np.arange(3)}, {"y": z[rows], "i": np.arange(3) + 1})
        assert damage.value == pytest.approx(((z - y) ** 2).sum() / ((y - y.mean(0)) ** 2).sum(), rel=1e-5)

    def test_parts_add_up_by_their_weights(self) -> None:
        y = np.concatenate([300 * normal(0, 50, 2), normal(1, 50, 3)], axis=1)
        z = y + np.array([30, 30, 0.5, 0.5, 0.5], np.float32)
        spreads = y.std(0)
        large, small = np.sqrt(np.mean(spreads[:2] ** 2)), np.sqrt(np.mean(spreads[2:] ** 2))
        for weights in ({}, {"y[2:5]": 2.0}):
            yardstick = yardstick_of([{"y": y}], task="regression", weights=weights)
            damage = Damage(yardstick, ["y"])
            damage.update({"y": y}, {"y": z})
            small_part = weights.get("y[2:5]", 1.0) * 0.5 / small
            assert damage.value == pytest.approx(((30 / large) ** 2 + small_part**2) / 2, rel=1e-4)

    def test_kl(self) -> None:
        y, z = normal(0, 10, 4).astype(np.float64), normal(1, 10, 4).astype(np.float64)
        p, q = (np.exp(s) / np.exp(s).sum(axis=1, keepdims=True) for s in (y, z))
        expected = (p * np.log(p / q)).sum(axis=1).mean()
        for dense, changed in ((y, z), (p, q), (y + 5, z - 3)):
            damage = Damage(measured_by("kl", y=dense), ["y"])
            damage.update({"y": dense}, {"y": changed})
            assert damage.value == pytest.approx(expected, rel=1e-9)

    @pytest.mark.parametrize("measure", ["kl", "error"])
    def test_masked_scores_count_for_nothing(self, measure: str) -> None:
        y, z = normal(0, 10, 4), normal(1, 10, 4)
        masked = np.concatenate([np.full((10, 1), -np.inf, np.float32), y], axis=1)
        other = np.concatenate([np.full((10, 1), -np.inf, np.float32), z], axis=1)
        values = []
        for a, b in ((y, z), (masked, other), (masked, masked)):
            damage = Damage(measured_by(measure, y=a), ["y"])
            damage.update({"y": a}, {"y": b})
            values.append(damage.value)
        assert values[1] == pytest.approx(values[0], rel=1e-6)
        assert values[2] == 0

    def test_outputs_weigh_the_same_and_class_numbers_count_if_they_must(self) -> None:
        dense = {"a": np.ones(4), "b": 100 * np.ones(4)}
        damage = Damage(measured_by("error", **dense), ["a", "b"])
        damage.update(dense, {"a": np.ones(4) * 1.1, "b": 100 * np.ones(4)})
        assert damage.value == pytest.approx(0.01 / 2)
        numbers = {"i": np.array([1, 2, 3, 4])}
        damage = Damage(measured_by("changed", **numbers), ["i"])
        damage.update(numbers, {"i": np.array([1, 2, 0, 0])})
        assert damage.value == 0.5
        assert Damage(measured_by("error", **dense), ["a"]).value == 0
