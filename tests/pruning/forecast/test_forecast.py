"""A forecast in a line."""

from __future__ import annotations

from obs_onnx.meter import StageCost
from obs_onnx.pruning.forecast.forecast import UNKNOWN, Forecast


def test_what_takes_long_is_named_first() -> None:
    kinds = (
        StageCost("search", 0.001, 0.001, 10**8),
        StageCost("curves", 5.0, 8.0, 2 * 10**9),
        StageCost("forward", 20.0, 32.0, 10**9),
    )
    found = Forecast(kinds, {}, "measuring 3 layers", ["latencies"])
    assert found.note == (
        "measuring 3 layers: expected to take 25 s, 40 s of all cores (forward 32 s, curves 8.0 s), "
        "and 2 GB at most; not counted: latencies"
    )


def test_what_cannot_be_counted_is_not_known() -> None:
    assert UNKNOWN.note.startswith("it is not known what the run will take")
