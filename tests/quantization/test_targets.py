"""Targets that hold in integers: the float model is asked for what they leave."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from obs_onnx.allocation.targets import Targets, parse_targets
from obs_onnx.evaluation.measures.metric import ACCURACY
from obs_onnx.quantization.targets import on_integers
from obs_onnx.results.pruning import Combination, Latency

DENSE = Combination("dense", 1000, 0.9, None, None, Latency(10.0, 9.0, 11.0, 5))
INTEGERS = Combination("integers", 250, 0.89, 0.03, None, Latency(5.0, 4.0, 6.0, 5))


@dataclass
class Pruning:
    """A model whose size in integers is what is asked for, times a factor, and whose error adds up."""

    factor: float = 1.0
    asked: list[Targets] = None

    def prune(self, targets: Targets) -> Targets:
        self.asked = [*(self.asked or []), targets]
        return targets

    def measure(self, found: Targets) -> tuple[Combination, Combination]:
        size = found.amounts["size"].value if "size" in found.amounts else 1.0
        error = found.amounts["error"].value if "error" in found.amounts else 0.0
        made = Combination(
            "integers",
            int(250 * size * self.factor),
            0.88,
            (error**2 + 0.03**2) ** 0.5 * self.factor,
            None,
            Latency(4.0, 4.0, 4.0, 5),
        )
        return DENSE, made


def test_the_first_turn_is_right_where_quantization_does_the_same() -> None:
    one = Pruning()
    targets = parse_targets(["size=0.1", "error=0.05"])
    turn = on_integers(targets, ACCURACY, (DENSE, INTEGERS), one.prune, one.measure)
    assert len(one.asked) == 1
    assert not turn.missed
    assert one.asked[0].amounts["size"].value == pytest.approx(0.4)
    assert one.asked[0].amounts["error"].value == pytest.approx(0.04)
    assert turn.reached["size"] == 0.1
    assert turn.reached["error"] == pytest.approx(0.05)
    assert turn.reached["drop"] == pytest.approx(0.02)
    assert turn.reached["latency"] == 0.4


def test_what_is_over_is_asked_for_anew() -> None:
    one = Pruning(factor=1.2)
    targets = parse_targets(["size=0.1", "macs=0.7"])
    turn = on_integers(targets, ACCURACY, (DENSE, INTEGERS), one.prune, one.measure)
    first, *_, last = [asked.amounts["size"].value for asked in one.asked]
    assert first == pytest.approx(0.4)
    assert 0.28 < last < 0.4 / 1.2
    assert not turn.missed
    assert all(asked.amounts["macs"].value == 0.7 for asked in one.asked)


def test_what_cannot_be_met_is_missed() -> None:
    one = Pruning()
    targets = parse_targets(["error=0.02", "size=500B"])
    turn = on_integers(targets, ACCURACY, (DENSE, INTEGERS), one.prune, one.measure)
    assert len(one.asked) == 3
    (missed,) = turn.missed
    assert missed.target == "error"
    assert missed.wanted == 0.02
    assert missed.reached > 0.03
    assert one.asked[0].amounts["size"].value == 0.999


def test_what_was_not_measured_is_missed() -> None:
    plain = Combination("dense", 1000, None, None, None)
    one = Pruning()
    found = on_integers(
        parse_targets(["drop=0.01"]),
        ACCURACY,
        (plain, Combination("integers", 250, None, 0.03, None)),
        one.prune,
        lambda _: (plain, Combination("integers", 250, None, 0.03, None)),
    )
    assert found.missed[0].reached == "nothing measured"
