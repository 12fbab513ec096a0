"""What each stage of a run takes, and showing how far it is."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager

from obs_onnx.meter import Meter, StageCost
from obs_onnx.progress import Advance, Expecting, Progress

__all__ = ["Recorder"]

_KINDS = {
    "find redundant channels": "search",
    "rotate": "search",
    "compare axes": "curves",
    "measure damage": "curves",
    "measure damage behind the refit": "curves",
    "score channels": "curves",
    "score weights": "curves",
    "remove and refit": "refit",
    "solve layers": "refit",
    "correct statistics": "refit",
    "evaluate": "verify",
    "measure latency": "latency",
}


class Recorder:
    """Shows the stages of a run, which starts now, and keeps their times.

    Args:
        progress: where stages and messages are shown.
        meter: of what stages cost; by default one of its own.
    """

    def __init__(self, progress: Progress, meter: Meter | None = None) -> None:
        self._progress = progress
        self._meter = Meter() if meter is None else meter
        self._start = time.perf_counter()
        self._seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Advance]:
        """Time a stage, which may come several times, and show how far it is in ``total`` units."""
        start = time.perf_counter()
        with self._progress.stage(name, total) as advance, self.part(_KINDS.get(name, name)):
            yield advance
        self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - start

    def part(self, name: str) -> AbstractContextManager[None]:
        """A part of the run that is not shown, but whose costs are kept."""
        return self._meter.span(name)

    def expect(self, stages: Mapping[str, tuple[float, float]]) -> None:
        """Show how long it will take until the last of these stages ends, where progress can show that.

        Args:
            stages: seconds of a stage each time that it comes, and how often it does, by its name.
        """
        if isinstance(self._progress, Expecting):
            self._progress.expect(stages)

    def reached(self, name: str) -> None:
        """Take the time since the start as that of a stage which was not shown."""
        self._seconds[name] = time.perf_counter() - self._start
        self._meter.rename("report")

    @property
    def seconds(self) -> Mapping[str, float]:
        """Wall-clock time of every stage so far."""
        return dict(self._seconds)

    @property
    def with_total(self) -> Mapping[str, float]:
        """The same, and the time since the start as ``total``."""
        return {**self._seconds, "total": time.perf_counter() - self._start}

    @property
    def costs(self) -> tuple[StageCost, ...]:
        """What the stages took so far, each without those inside of it; see :mod:`obs_onnx.meter`."""
        return self._meter.costs()
