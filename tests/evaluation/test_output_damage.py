"""Damage of outputs against formulas."""

from __future__ import annotations

import numpy as np
import pytest
from layer_runs import normal

from obs_onnx.evaluation.output_damage import Damage, choose_measure
from obs_onnx.passes.errors import OptionError


class TestDamage:
    def test_error(self) -> None:
        y, z = normal(0, 10, 4), normal(1, 10, 4)
        damage = Damage("error", ["y", "i"])
        for rows in (slice(0, 3), slice(3, 10)):
            damage.update({"y": y[rows], "i": np.arange(3)}, {"y": z[rows], "i": np.arange(3) + 1})
        assert damage.value == pytest.approx(((z - y) ** 2).sum() / (y**2).sum(), rel=1e-5)

    def test_kl(self) -> None:
        y, z = normal(0, 10, 4).astype(np.float64), normal(1, 10, 4).astype(np.float64)
        p, q = (np.exp(s) / np.exp(s).sum(axis=1, keepdims=True) for s in (y, z))
        expected = (p * np.log(p / q)).sum(axis=1).mean()
        for dense, changed in ((y, z), (p, q), (y + 5, z - 3)):
            damage = Damage("kl", ["y"])
            damage.update({"y": dense}, {"y": changed})
            assert damage.value == pytest.approx(expected, rel=1e-9)

    @pytest.mark.parametrize("measure", ["kl", "error"])
    def test_masked_scores_count_for_nothing(self, measure: str) -> None:
        y, z = normal(0, 10, 4), normal(1, 10, 4)
        masked = np.concatenate([np.full((10, 1), -np.inf, np.float32), y], axis=1)
        other = np.concatenate([np.full((10, 1), -np.inf, np.float32), z], axis=1)
        values = []
        for a, b in ((y, z), (masked, other), (masked, masked)):
            damage = Damage(measure, ["y"])
            damage.update({"y": a}, {"y": b})
            values.append(damage.value)
        assert values[1] == pytest.approx(values[0], rel=1e-6)
        assert values[2] == 0

    def test_outputs_weigh_the_same_and_class_numbers_count_if_they_must(self) -> None:
        damage = Damage("error", ["a", "b"])
        damage.update(
            {"a": np.ones(4), "b": 100 * np.ones(4)}, {"a": np.ones(4) * 1.1, "b": 100 * np.ones(4)}
        )
        assert damage.value == pytest.approx(0.01 / 2)
        damage = Damage("changed", ["i"])
        damage.update({"i": np.array([1, 2, 3, 4])}, {"i": np.array([1, 2, 0, 0])})
        assert damage.value == 0.5
        assert Damage("error", ["a"]).value == 0

    def test_choice(self) -> None:
        scores, image = {"y": normal(0, 3, 5)}, {"y": normal(0, 3, 5, 2, 2)}
        assert choose_measure("auto", scores) == "kl"
        assert choose_measure("auto", image) == "error"
        assert choose_measure("auto", {**scores, "z": normal(0, 3, 5)}) == "error"
        assert choose_measure("auto", {**scores, "i": np.arange(3)}) == "kl"
        assert choose_measure("error", scores) == "error"
        assert choose_measure("auto", {"i": np.arange(3)}) == choose_measure("error", {"i": np.arange(3)})
        with pytest.raises(OptionError, match="unknown"):
            choose_measure("l1", scores)
        with pytest.raises(OptionError, match="class scores"):
            choose_measure("kl", image)
