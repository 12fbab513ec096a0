"""What a user may ask for, and what is refused; a new target is a record, and a function for its cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from types import SimpleNamespace

import nets
import numpy as np
import onnx_ir as ir
import pytest

from obs_onnx import prune
from obs_onnx.allocation.amounts import Amount, Unit, share
from obs_onnx.allocation.costs import ModelCost
from obs_onnx.allocation.targets import (
    DROP,
    ERROR,
    LATENCY,
    MACS,
    RAM,
    SIZE,
    SPARSITY,
    TARGETS,
    TRADED,
    Target,
    Targets,
    costs,
    parse_targets,
)
from obs_onnx.passes.canonical.own_constants import prepare
from obs_onnx.passes.errors import OptionError
from obs_onnx.results.frontier import Point
from obs_onnx.results.pruning import Figures

FAST = {"effort": "quick", "latency": False, "seed": 0}
CASES = {"mlp": (200, 12), "residual": (96, 3, 8, 8)}


class TestTargets:
    def test_forms(self) -> None:
        expected = Targets({"sparsity": Amount(0.9), "drop": Amount(0.005)})
        assert parse_targets(["sparsity=0.9", "drop = 0.5%"]) == expected
        assert parse_targets({"sparsity": 0.9, "drop": "0.5%"}) == expected
        assert parse_targets([]).as_dict() == {}
        assert expected.as_dict() == {"sparsity": 0.9, "drop": 0.005}
        costs = Targets({"macs": Amount(0.5), "params": Amount(0.25), "error": Amount(0.02)})
        assert parse_targets(["macs=50%", "params=.25", "error=2%"]) == costs

    @pytest.mark.parametrize(
        ("text", "size"),
        [("500KB", 500_000), ("4096", 4096), ("1.5 MiB", 3 << 19), ("0.5", 0.5), (".25", 0.25), ("30%", 0.3)],
    )
    def test_a_size_is_a_number_of_bytes_or_a_share(self, text: str, size: float) -> None:
        amount = Amount(size, Unit.SHARE if size < 1 else Unit.BYTES)
        assert parse_targets({"size": text}) == Targets({"size": amount})
        assert parse_targets([f"ram={text}"]) == Targets({"ram": amount})

    @pytest.mark.parametrize(
        ("text", "amount", "shown"),
        [
            ("latency=0.5", Amount(0.5), 0.5),
            ("latency=25%", Amount(0.25), 0.25),
            ("latency=4ms", Amount(4.0, Unit.MILLISECONDS), "4ms"),
            ("latency=.5 ms", Amount(0.5, Unit.MILLISECONDS), "0.5ms"),
            ("latency=800us", Amount(0.8, Unit.MILLISECONDS), "0.8ms"),
            ("latency=2s", Amount(2000.0, Unit.MILLISECONDS), "2000ms"),
            ("latency=min", Amount(unit=Unit.LEAST), "min"),
        ],
    )
    def test_a_latency_is_a_share_a_time_or_the_least(self, text: str, amount: Amount, shown: object) -> None:
        found = parse_targets([text])
        assert found == Targets({"latency": amount})
        assert found.as_dict() == {"latency": shown}
        assert found.timed
        assert not parse_targets(["macs=0.5"]).timed

    @pytest.mark.parametrize("text", ["error=0", "error=0.0", "error=0%", "error=.0"])
    def test_an_error_of_nothing_is_what_rounding_makes(self, text: str) -> None:
        found = parse_targets([text])
        assert found.lossless
        assert found.bounded
        assert found.as_dict() == {"error": 0.0}
        assert parse_targets(["error=1e-5"]).lossless
        assert not parse_targets(["error=2e-5"]).lossless

    def test_the_least_latency_needs_a_bound(self) -> None:
        assert not parse_targets(["latency=min"]).bounded
        assert not parse_targets([]).bounded
        assert all(parse_targets([*more, "latency=min"]).bounded for more in (["error=0.1"], ["drop=1%"]))
        assert parse_targets(["latency=0.5"]).bounded
        for other in ("macs=0.5", "size=4KB", "ram=0.5", "params=0.5"):
            with pytest.raises(OptionError, match=r"target latency=min .* give a latency"):
                parse_targets([other, "latency=min"])

    @pytest.mark.parametrize(
        "text",
        [
            "sparsity",
            "sparsity=",
            "sparsity=x",
            "sparsity=0",
            "sparsity=1",
            "error=-0.1",
            "error=nan",
            "drop=inf",
            "drop=200%",
            "speed=2",
            "=0.5",
            "latency=4",
            "latency=1.5",
            "latency=0ms",
            "latency=fast",
            "latency=-3ms",
            "latency=0",
            "macs=0",
            "macs=2x",
            "params=1",
            "params=-10%",
            "size=200%",
            "size=0%",
            "ram=0",
            "ram=lots",
        ],
    )
    def test_nonsense(self, text: str) -> None:
        with pytest.raises(OptionError, match="target"):
            parse_targets([text])


class TestRecords:
    def test_names(self) -> None:
        every = ["sparsity", "macs", "params", "error", "drop", "size", "ram", "latency"]
        assert list(TARGETS) == every
        assert list(costs()) == ["macs", "params", "size", "ram", "latency"]
        assert [name for name, one in TARGETS.items() if one.loss is not None] == ["error", "drop"]
        assert all(name == one.name for name, one in TARGETS.items())
        with pytest.raises(OptionError, match=f"use one of {', '.join(every)}"):
            parse_targets({"speed": 2})

    @pytest.mark.parametrize("name", TARGETS)
    def test_what_a_record_names_is_there(self, name: str) -> None:
        target = TARGETS[name]
        if target.cost:
            assert isinstance(target.model_cost, ModelCost)
        shown = {field.name for group in (Point, Figures) for field in fields(group)}
        assert set(target.figures) <= shown
        assert bool(target.figures) == bool(target.axis)

    def test_what_is_special(self) -> None:
        def having(what: str) -> list[Target]:
            return [one for one in TARGETS.values() if getattr(one, what)]

        assert having("labels") == [DROP]
        assert having("floats") == [ERROR]
        assert having("timed") == having("estimated") == [LATENCY]
        assert having("additive") == [SIZE]
        assert [one.trusted for one in TARGETS.values() if one.trusted != 1] == [0.99]

    def test_targets_of_another_mode_are_refused(self) -> None:
        with pytest.raises(OptionError, match="target sparsity is about single weights: use mode='weights'"):
            Targets({"error": Amount(0.1), "sparsity": Amount(0.5)}).check_mode("channels")
        for name in costs():
            with pytest.raises(OptionError, match=f"target {name} needs channel removal"):
                Targets({name: Amount(0.5)}).check_mode("weights")
            Targets({name: Amount(0.5), "drop": Amount(0.1)}).check_mode("channels")

    def test_points_of_a_frontier(self) -> None:
        point = SimpleNamespace(macs=7, ratio=0.5, latency_ms=3.0, accuracy=0.9, output_error=0.02)
        assert MACS.measures(point) == [7]
        assert LATENCY.measures(point) == [0.5, 3.0]
        assert LATENCY.drawn(point) == 3.0
        accuracy, error = TRADED["accuracy"], TRADED["error"]
        assert (accuracy.drawn(point), accuracy.lost(point)) == (90.0, -0.9)
        assert (error.drawn(point), error.lost(point)) == (0.02, 0.02)
        point.accuracy = None
        assert accuracy.drawn(point) is accuracy.lost(point) is None


class TestStrain:
    def judged(self, error: float | None, drop: float | None) -> SimpleNamespace:
        return SimpleNamespace(quality=SimpleNamespace(output_error=error, agreement=0.9), drop=drop)

    @pytest.mark.parametrize(
        ("amounts", "error", "drop", "strain"),
        [
            ({"error": 0.1}, 0.05, 0.5, 0.5),
            ({"error": 0.1, "drop": 0.02}, 0.05, 0.04, 2.0),
            ({"error": 0.1, "drop": 0.02}, 0.2, None, 2.0),
            ({"drop": 0.02}, 0.9, -0.01, -0.5),
            ({"macs": 0.5}, 0.9, 0.9, 0.0),
        ],
    )
    def test_the_largest_ratio(
        self, amounts: Mapping[str, float], error: float, drop: float | None, strain: float
    ) -> None:
        targets = Targets({name: Amount(value) for name, value in amounts.items()})
        assert targets.strain(self.judged(error, drop)) == pytest.approx(strain)

    def test_views(self) -> None:
        targets = Targets({"size": Amount(4096.0, Unit.BYTES), "macs": Amount(0.5)})
        assert [one for one, _ in targets] == [MACS, SIZE]
        assert targets.as_dict() == {"macs": 0.5, "size": 4096.0}
        assert (targets.share(MACS), targets.share(SIZE), targets.share(RAM)) == (0.5, None, None)
        assert targets.limited
        assert not targets.also(ERROR, Amount(0.1)).timed
        assert not Targets({}).also(ERROR, Amount(0.1)).limited
        assert Targets({"latency": Amount(unit=Unit.LEAST)}).least is LATENCY
        assert Targets({"sparsity": Amount(0.5)}).share(SPARSITY) == 0.5


HELD = '''
"""Bytes of all weights and of all values that are computed."""

from obs_onnx.allocation.costs import ModelCost
from obs_onnx.passes.costs.traffic import Traffic


def measured(one):
    held = one.model.graph.initializers
    weights = sum(value.const_value.nbytes for value in held.values())
    return weights + sum(size for name, size in one.run.sizes.items() if name not in held)


HELD = ModelCost(measured, lambda one: Traffic(one.coupling, one.sizes).memory)
'''


def held(proto) -> int:
    """The same by other code, on the shapes that ONNX infers."""
    shapes = nets.shapes_of(proto, samples=1)
    names = {tensor.name for tensor in proto.graph.initializer}
    total = sum(4 * int(np.prod(shape)) for name, shape in shapes.items() if name not in names)
    return total + sum(len(tensor.raw_data) for tensor in proto.graph.initializer)


@pytest.mark.parametrize("rounds", [1, 2])
@pytest.mark.parametrize("net", CASES)
def test_a_new_cost_is_a_record_and_a_function(tmp_path, monkeypatch, net, rounds):
    (tmp_path / "held.py").write_text(HELD)
    monkeypatch.syspath_prepend(tmp_path)
    record = Target("held", share, "held", mode="channels", misfit="is about channels", cost="held:HELD")
    monkeypatch.setitem(TARGETS, "held", record)
    dense, x = nets.NETS[net](), nets.data(0, *CASES[net])
    result = prune(dense, calib=x, targets={"held": 0.6}, round_to=1, rounds=rounds, **FAST)
    assert result.report.met
    assert result.report.targets == {"held": 0.6}
    whole = held(ir.to_proto(prepare(ir.from_proto(dense))))
    assert 0.5 < held(ir.to_proto(result.model)) / whole <= 0.6
    both = prune(dense, calib=x, targets=["held=60%", "macs=0.3"], round_to=1, **FAST)
    assert both.report.met
    assert nets.macs(ir.to_proto(both.model)) <= 0.3 * nets.macs(dense)
    with pytest.raises(OptionError, match="target held is about channels"):
        prune(dense, calib=x, mode="weights", targets={"held": 0.6}, **FAST)


def test_a_cost_in_its_own_unit(tmp_path, monkeypatch):
    (tmp_path / "held.py").write_text(HELD)
    monkeypatch.syspath_prepend(tmp_path)
    dense, x = nets.mlp(), nets.data(0, 200, 12)
    limit = int(0.6 * held(dense))

    def parse(name: str, text: str) -> Amount:
        return Amount(float(text), Unit.BYTES)

    record = Target("held", parse, "held", cost="held:HELD")
    for one in (record, replace(record, additive=True)):
        monkeypatch.setitem(TARGETS, "held", one)
        result = prune(dense, calib=x, targets={"held": limit}, round_to=1, **FAST)
        assert result.report.met
        assert 0.8 * limit < held(ir.to_proto(result.model)) <= limit


def test_a_new_limit_on_quality_is_a_record(monkeypatch):
    record = Target(
        "disagreement",
        share,
        "other class",
        loss=lambda judged: None if judged.quality.agreement is None else 1 - judged.quality.agreement,
    )
    monkeypatch.setitem(TARGETS, "disagreement", record)
    dense, x = nets.mlp(), nets.data(0, 400, 12)
    found = [
        prune(dense, calib=x, targets={"disagreement": limit}, round_to=1, task="classification", **FAST)
        for limit in (0.05, 0.3)
    ]
    for limit, result in zip((0.05, 0.3), found, strict=True):
        assert result.report.met
        assert result.report.agreement >= 1 - limit
    kept = [nets.macs(ir.to_proto(result.model)) for result in found]
    assert kept[1] < kept[0] < nets.macs(dense)
