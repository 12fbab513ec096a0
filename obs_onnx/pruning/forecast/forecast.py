"""What a run will take, before it begins: time and memory by kind of work, and time by stage that is
shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import psutil

from obs_onnx.meter import StageCost
from obs_onnx.pruning.calibrated import Calibrated
from obs_onnx.pruning.forecast.counted import Counted, Sums, counted
from obs_onnx.pruning.forecast.rates import measure_rates

__all__ = ["UNKNOWN", "Expected", "Forecast", "forecast"]

_ORDER = ("search", "curves", "moments", "forward", "sessions", "refit", "verify", "latency")
_NAMED = 5  # kinds of work in a sentence
_WORTH = 0.05  # seconds that are named


@dataclass(frozen=True)
class Expected:
    """A shown stage, as it is counted.

    Attributes:
        sums: of each time it comes.
        times: that it comes, as far as that is known.
    """

    sums: Sums
    times: float = 1.0


@dataclass(frozen=True)
class Forecast:
    """What the rest of a run will take.

    Attributes:
        kinds: by kind of work, as :mod:`obs_onnx.meter` has them.
        shown: by shown stage, wall-clock seconds each time it comes, and how often it does.
        measured: what is measured, in words.
        uncounted: what the run may do besides, in words.
    """

    kinds: tuple[StageCost, ...]
    shown: Mapping[str, tuple[float, float]]
    measured: str = ""
    uncounted: Sequence[str] = ()

    @property
    def note(self) -> str:
        """All of it in a line."""
        if not self.kinds:
            return "it is not known what the run will take: some of its work could not be counted"
        wall, cpu = (sum(getattr(one, name) for one in self.kinds) for name in ("seconds", "cpu_seconds"))
        peak = max((one.peak_bytes or 0 for one in self.kinds), default=0)
        longest = sorted(self.kinds, key=lambda one: -one.cpu_seconds)[:_NAMED]
        parts = [f"{one.name} {_shown(one.cpu_seconds)}" for one in longest if one.cpu_seconds >= _WORTH]
        named = f" ({', '.join(parts)})" if parts else ""
        besides = f"; not counted: {', '.join(self.uncounted)}" if self.uncounted else ""
        first = f"{self.measured}: " if self.measured else ""
        return (
            f"{first}expected to take {_shown(wall)}, {_shown(cpu)} of all cores{named}, "
            f"and {peak / 1e9:.2g} GB at most{besides}"
        )


UNKNOWN = Forecast((), {})
"""Of a model that cannot be counted: that is no reason not to prune it."""


def _shown(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"


def forecast(
    calibrated: Calibrated,
    small: float,
    stages: Callable[[Counted], Mapping[str, Expected]],
    measured: str,
    uncounted: Sequence[str] = (),
) -> Forecast:
    """Count what a run does, and measure how fast that goes here.

    Args:
        calibrated: the model and its data.
        small: share of the model's multiply-accumulates that stays, about.
        stages: counts the stages that are shown.
        measured, uncounted: see :class:`Forecast`.
    """
    clocks = [stages(counted(calibrated, rates, small)) for rates in measure_rates(calibrated)]
    wall, cpu = (_by_kind(clock) for clock in clocks)
    peaks = _peaks(calibrated)
    kinds = tuple(
        StageCost(name, wall[name], cpu.get(name, 0.0), peaks.get(name, peaks["forward"]))
        for name in (*_ORDER, *(set(wall) - set(_ORDER)))
        if name in wall
    )
    shown = {name: (one.sums.total, one.times) for name, one in clocks[0].items()}
    return Forecast(kinds, shown, measured, uncounted)


def _by_kind(stages: Mapping[str, Expected]) -> dict[str, float]:
    found = dict[str, float]()
    for one in stages.values():
        for kind, seconds in one.sums.seconds.items():
            found[kind] = found.get(kind, 0.0) + one.times * seconds
    return found


def _peaks(calibrated: Calibrated) -> dict[str, int]:
    """Bytes that the process will take at most, by kind of work."""
    dense, data, budget = calibrated.dense, calibrated.data, calibrated.budget
    samples = data.fit.count or data.batch
    live = max((sum(dense.cost.sizes.get(x, 0) for x in one.live) for one in dense.stages.stages), default=0)
    here = psutil.Process().memory_info().rss
    here += data.batch * dense.cost.peak.bytes + min(live * samples, budget.activations)
    squares = [
        sum(8 * g * i * (i + o) for g, o, i in (a.layout.goi for a in s.layers)) for s in dense.stages.stages
    ]
    widest, every = max(squares, default=0), sum(squares)
    kept = min(every, budget.activations // 2)
    return {
        "forward": here,
        "moments": here + 3 * widest + kept,
        "curves": here + 4 * widest + kept,
        "refit": here + 4 * widest,
    }
