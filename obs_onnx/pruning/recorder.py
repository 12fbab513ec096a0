"""How long each stage of a run takes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from obs_onnx.progress import Advance, Progress

__all__ = ["Recorder"]


class Recorder:
    """Shows the stages of a run, which starts now, and keeps their times.

    Args:
        progress: where stages and messages are shown.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._start = time.perf_counter()
        self._seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Advance]:
        """Time a stage, which may come several times, and show how far it is in ``total`` units."""
        start = time.perf_counter()
        with self._progress.stage(name, total) as advance:
            yield advance
        self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - start

    def reached(self, name: str) -> None:
        """Take the time since the start as that of a stage which was not shown."""
        self._seconds[name] = time.perf_counter() - self._start

    @property
    def seconds(self) -> Mapping[str, float]:
        """Wall-clock time of every stage so far."""
        return dict(self._seconds)

    @property
    def with_total(self) -> Mapping[str, float]:
        """The same, and the time since the start as ``total``."""
        return {**self._seconds, "total": time.perf_counter() - self._start}
