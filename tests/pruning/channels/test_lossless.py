"""What changes nothing goes first, is free, and is all that goes for error=0."""

from __future__ import annotations

import nets
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from nets import run_proto
from onnx import numpy_helper

from obs_onnx import Pruned, pareto, prune
from obs_onnx.passes.errors import OptionError

FAST = {"effort": "quick", "threads": 1, "latency": False}
X = nets.data(0, 96, 12)
FRESH = np.random.default_rng(9).standard_normal((64, 12)).astype(np.float32)


def masked(dead: int = 9, copies: int = 4) -> onnx.ModelProto:
    """12 -> 32 -> 24 -> 5 with dead units in the first layer and copied ones in the second."""
    proto = nets.mlp()
    for tensor in proto.graph.initializer:
        array = numpy_helper.to_array(tensor).copy()
        if tensor.name.startswith("fc1."):
            array[:dead] = 0
        if tensor.name.startswith("fc2."):
            array[:copies] = array[copies : 2 * copies]
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return proto


def pruned(proto: onnx.ModelProto, targets: dict[str, object], **options: object) -> Pruned:
    return prune(ir.from_proto(proto), calib={"x": X}, targets=targets, **FAST, **options)


def kept(found: Pruned) -> list[int]:
    return [group.kept for group in found.report.groups]


def off(found: Pruned, proto: onnx.ModelProto) -> float:
    """Relative difference on inputs that nobody has seen, far from the data."""
    (z,), (y,) = (run_proto(one, {"x": FRESH}).values() for one in (ir.to_proto(found.model), proto))
    return float(np.linalg.norm(z - y) / np.linalg.norm(y))


@pytest.mark.parametrize("targets", [{"error": 0}, {"error": 1e-5}, {"macs": 0.75}, {"params": 0.75}])
@pytest.mark.parametrize("compensate", [True, False])
def test_all_of_it_and_nothing_else(targets: dict[str, float], compensate: bool) -> None:
    proto = masked()
    found = pruned(proto, targets, round_to=1, compensate=compensate)
    assert kept(found) == [23, 20]
    assert found.report.met
    assert off(found, proto) < 2e-6
    assert found.report.output_error < 1e-6
    (note,) = (note for note in found.report.notes if "change nothing" in note)
    assert note.startswith(
        "13 channels change nothing (9 dead, 4 copied), 13 of them went first; without them"
    )


def test_nothing_goes_where_everything_counts() -> None:
    proto = nets.mlp()
    found = pruned(proto, {"error": 0})
    assert kept(found) == [32, 24]
    assert found.report.met
    assert off(found, proto) == 0
    never = masked(0, 0)
    for tensor in never.graph.initializer:  # never active on these data, but it could be
        if tensor.name == "fc1.bias":
            array = numpy_helper.to_array(tensor).copy()
            array[:8] = -40
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    assert kept(pruned(never, {"error": 0})) == [32, 24]
    some = pruned(never, {"error": 1e-4}, round_to=1)
    assert kept(some) == [24, 24]


def test_single_weights_are_not_judged_by_data_alone() -> None:
    with pytest.raises(OptionError, match=r"about channels that .* use mode='channels'"):
        pruned(nets.mlp(), {"error": 0}, mode="weights")


def test_counts_stay_multiples() -> None:
    """23 units are left of 32: 24 stay, one of them without any effect."""
    proto = masked()
    found = pruned(proto, {"error": 0}, round_to=8)
    assert kept(found) == [24, 24]
    assert off(found, proto) < 2e-6
    further = pruned(proto, {"macs": 0.5}, round_to=8)
    assert all(count % 8 == 0 for count in kept(further))
    assert further.report.met


def test_rounds_go_on_from_there() -> None:
    proto = masked()
    for rounds in (1, 2):
        found = pruned(proto, {"macs": 0.4}, round_to=1, rounds=rounds)
        assert found.report.met
        assert found.report.after.macs > 0.35 * found.report.before.macs
        assert all(count <= left for count, left in zip(kept(found), (23, 20), strict=True))


def test_an_error_of_zero_beside_another_limit() -> None:
    found = pruned(masked(), {"error": 0, "macs": 0.3}, round_to=1)
    assert kept(found) == [23, 20]
    assert not found.report.met
    (missed,) = found.report.missed
    assert missed.target == "macs"
    assert missed.reached == pytest.approx(found.report.after.macs / found.report.before.macs)
    assert "error=0 lets no more go" in str(missed)


def test_a_frontier_starts_there() -> None:
    found = pareto(ir.from_proto(masked()), calib={"x": X}, cost="macs", points=2, round_to=1, **FAST)
    first = max(found.frontier.points, key=lambda point: point.macs)
    assert first.output_error < 1e-6
    assert first.macs == 12 * 23 + 23 * 20 + 20 * 5


def test_a_limit_that_multiples_cannot_reach_says_so() -> None:
    found = pruned(nets.mlp(), {"macs": 0.05}, round_to=16)
    assert kept(found) == [16, 16]
    (missed,) = found.report.missed
    share = (12 * 16 + 16 * 16 + 16 * 5) / (12 * 32 + 32 * 24 + 24 * 5)
    assert missed.reached == missed.possible == pytest.approx(share)
    assert str(missed).startswith("macs=0.05 is missed: 0.4151 was reached, the least possible is 0.4151; ")
    assert "(round-to 1) it could be 0.01416" in str(missed)


class TestNothingRemoved:
    @pytest.mark.parametrize(
        ("targets", "said"),
        [
            ({"error": 0}, "every channel changes the outputs"),
            ({"error": 1e-3}, "nothing that was tried holds error=0.001"),
            ({"size": "10MB"}, "the dense model is within what was asked for"),
        ],
    )
    def test_is_said(self, targets: dict[str, object], said: str) -> None:
        found = pruned(nets.mlp(), targets)
        assert found.report.after.parameters == found.report.before.parameters
        (alert,) = (one for one in found.report.alerts if one.startswith("nothing was removed"))
        assert said in alert

    def test_is_not_said_of_a_smaller_model(self) -> None:
        found = pruned(masked(), {"error": 0}, round_to=1)
        assert not [one for one in found.report.alerts if "nothing was removed" in one]
