"""Plans of equal cost, refitted and measured."""

from __future__ import annotations

from dataclasses import replace

import nets
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from obs_onnx import Pruned, prune
from obs_onnx.pruning.channels import search as searching
from obs_onnx.pruning.channels.attempt import ChannelAttempt
from obs_onnx.pruning.channels.measured import Weights, searched
from obs_onnx.pruning.effort import EFFORTS


def test_weights_that_explain_what_was_measured_are_learned() -> None:
    random = np.random.default_rng(0)
    true, first = np.array([0.4, 0.7, 1.0, 1.6, 1.3]), np.ones(5)
    weights = Weights(first, float(true.sum()), 0)
    for _ in range(40):
        expected = random.uniform(0, 3, 5)
        weights.add(expected, float(expected @ true))
    mean, covariance = weights.posterior()
    assert mean == pytest.approx(true, abs=0.1)
    assert np.linalg.eigvalsh(covariance).max() < 0.1


def test_before_anything_is_measured_all_weights_are_one_and_the_last_groups_are_tried_dearer() -> None:
    weights = Weights(np.ones(3), 1.0, 0)
    mean, covariance = weights.posterior()
    assert mean.tolist() == [1, 1, 1]
    assert covariance[0, 2] < 0 < covariance[0, 0]
    assert next(weights.proposals()).tolist() == [0.5, 1, 1.5]
    assert Weights(np.ones(1), 1.0, 0).posterior()[0].tolist() == [1]


def test_what_is_drawn_follows_from_the_seed() -> None:
    def drawn(seed: int) -> list[list[float]]:
        return [one.tolist() for one in Weights(np.ones(4), 1.0, seed).proposals()]

    assert drawn(3) == drawn(3) != drawn(4)
    assert all(0.2 <= weight <= 5 for one in drawn(3) for weight in one)


def net() -> onnx.ModelProto:
    """Convolutions of different use, so that there is something to choose."""
    made = nets.Net(8)
    x = made.op("Relu", made.conv("x", "stem", 16, 3))
    for number in range(2):
        y = made.op("Relu", made.conv(x, f"inner{number}", 16, 16))
        x = made.op("Relu", made.op("Add", made.conv(y, f"outer{number}", 16, 16), x))
    made.op("Identity", made.dense(made.pooled(x), "head", 16, 6), name="y")
    return made.proto({"x": [3, 6, 6]}, {"y": [6]})


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EFFORTS, "normal", replace(EFFORTS["normal"], samples=64, plans=3))


@pytest.fixture
def attempts(monkeypatch: pytest.MonkeyPatch) -> list[tuple[ChannelAttempt, ChannelAttempt]]:
    """What the allocation alone gives, and what the search makes of it."""
    seen = []

    def watched(part, limits, first, found):  # type: ignore[no-untyped-def]
        better, note = searched(part, limits, first, found)
        seen.append((found, better))
        return better, note

    monkeypatch.setattr(searching, "searched", watched)
    return seen


def run(**options: object) -> Pruned:
    given = {"targets": {"macs": 0.4}, "latency": False, "round_to": 1, "threads": 1}
    return prune(net(), calib={"x": nets.data(0, 160, 3, 6, 6)}, mode="channels", **given | options)


def stored(found: Pruned) -> bytes:
    return ir.to_proto(found.model).SerializeToString()


def test_it_is_never_worse_on_held_out_data_and_the_target_holds(
    few: None, attempts: list[tuple[ChannelAttempt, ChannelAttempt]]
) -> None:
    for seed in range(2):
        found = run(seed=seed)
        assert found.report.met
        before, after = attempts[seed]
        assert after.quality.output_error <= before.quality.output_error
        assert after.costs["macs"] <= 0.4
        assert after is before or found.report.output_error < before.quality.output_error
        assert any("measured search" in note for note in found.report.notes)


def test_it_gives_the_same_for_the_same_seed_and_when_it_is_resumed(
    few: None, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(work=tmp_path / "work")
    assert stored(first) == stored(run())

    def never(*_: object) -> float:
        raise AssertionError("measured again")

    monkeypatch.setattr("obs_onnx.pruning.channels.measured.RefitProbe.__call__", never)
    assert stored(first) == stored(run(work=tmp_path / "work", resume=True))


@pytest.mark.parametrize("options", [{"effort": "quick"}, {"allocation": "taylor"}])
def test_nothing_is_searched_where_it_would_say_nothing(few: None, options: dict[str, object]) -> None:
    assert not any("measured search" in note for note in run(**options).report.notes)
