"""Reports come back as they were written, and other files are told in one line."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from frontiers import a_frontier

from obs_onnx.io.json_file import write_json
from obs_onnx.meter import StageCost
from obs_onnx.passes.errors import DataError
from obs_onnx.results.pruning import (
    Agreement,
    Combination,
    CurvePoint,
    GroupResult,
    Latency,
    LayerResult,
    Missed,
    PartError,
    Report,
)
from obs_onnx.results.samples import ChangedSample
from obs_onnx.results.saved import SavedBound, read_frontier, read_report


def full(make_report: Callable[..., Report]) -> Report:
    """Something in every field."""
    curve = (CurvePoint(0.9, 1e-4), CurvePoint(0.5, 1e-2))
    return make_report(
        bound=SavedBound(3.0, None, (("n", "Exp"),)),
        layers=(
            LayerResult(
                "a", "Conv", (4, 3, 3, 3), 108, 0.5, 0.1, 0.2, "obs", 1e-3, (3, 4), (3, 2), None, "g", curve
            ),
        ),
        groups=(GroupResult("g", 4, 2, 3, 1e-3, curve, (0, 2)),),
        changed=(ChangedSample(3, 1, 2, 0.9, 0.5, None),),
        parts=(PartError("y", "y", "n", "level", 1.0, 1.0, 0.1, 2.0),),
        combinations=(Combination("dense", 100, 0.9, 0.1, 0.2, Latency(1.0, 0.9, 1.1, 9)),),
        stages=(StageCost("forward", 1.0, 2.0, None, 3, 1),),
        missed=(Missed("macs", 0.1, "4ms", None, "ask"),),
        reached={"macs": 0.2, "latency": "4ms"},
        proof=Agreement(1e-3, {"y": 1e-7}, ("y",), {"z": "why"}, ("n",)),
        caches={"past": ("batch", 4, None)},
        finetune={"steps": 3, "rounds": [{"steps": 3}]},
        options={"rounds": 2, "protect": ["a"], "memory": None},
        measures={"kl": 0.1},
        environment={"cpu": "x"},
        notes=("one", "two"),
    )


def test_what_is_written_is_read(make_report: Callable[..., Report], tmp_path: Path) -> None:
    report = full(make_report)
    write_json(tmp_path / "r.json", report.to_json())
    again = read_report(tmp_path / "r.json", Report)
    assert again.to_json() == report.to_json()
    for field in dataclasses.fields(Report):
        if field.name not in ("options", "finetune"):
            assert getattr(again, field.name) == getattr(report, field.name), field.name


def test_numbers_that_json_cannot_hold_are_none_or_nan(
    make_report: Callable[..., Report], tmp_path: Path
) -> None:
    layer = LayerResult("a", "Conv", (1,), 1, math.nan, math.inf)
    write_json(tmp_path / "r.json", make_report(layers=(layer,)).to_json())
    (found,) = read_report(tmp_path / "r.json", Report).layers
    assert math.isnan(found.kept)
    assert found.predicted_error is None


def test_earlier_and_later_files(make_report: Callable[..., Report], tmp_path: Path) -> None:
    data = make_report().to_json()
    del data["reached"], data["stages"]
    (tmp_path / "r.json").write_text(json.dumps({**data, "new": 3}))
    assert read_report(tmp_path / "r.json", Report).reached == {}
    (tmp_path / "r.json").write_text(json.dumps({**data, "schema": 2}))
    with pytest.raises(DataError, match="has schema 2, this release reads 1: install a later one"):
        read_report(tmp_path / "r.json", Report)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("[]", "is no report of a run: give the file that prune --json wrote"),
        ('{"schema": 1, "models": []}', "is no report of a run"),
        ("{", "cannot be read"),
        ({"layers": 3}, "is no report of a run"),
        ({"layers": [{"name": "a"}]}, "is no report of a run"),
        ({"before": None}, "is no report of a run"),
        ({"groups": [{"name": 3, "channels": "x", "kept": 1, "tensors": 1}]}, "is no report of a run"),
        ({"bound": {"frobenius": 1}}, "is no report of a run"),
        ({"targets": [1]}, "is no report of a run"),
    ],
)
def test_what_is_no_report(
    change: str | dict[str, object], words: str, make_report: Callable[..., Report], tmp_path: Path
) -> None:
    text = change if isinstance(change, str) else json.dumps({**make_report().to_json(), **change})
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(DataError, match=words) as caught:
        read_report(tmp_path / "r.json", Report)
    assert str(tmp_path / "r.json") in str(caught.value)
    with pytest.raises(DataError, match=r"none\.json cannot be read"):
        read_report(tmp_path / "none.json", Report)


def test_a_frontier_comes_back(tmp_path: Path) -> None:
    found = a_frontier(options={"points": 2}, environment={"cpu": "a"}, notes=("n",))
    write_json(tmp_path / "pareto.json", found.to_json())
    assert read_frontier(tmp_path / "pareto.json") == found
    (tmp_path / "other.json").write_text('{"schema": 1}')
    assert read_frontier(tmp_path / "other.json") is None
    (tmp_path / "broken.json").write_text(
        '{"schema": 1, "points": 3, "dense": 1, "cost": "macs", "by": "error"}'
    )
    with pytest.raises(DataError, match="no frontier that pareto wrote"):
        read_frontier(tmp_path / "broken.json")
