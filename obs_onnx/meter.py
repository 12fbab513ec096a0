"""What each stage of a run costs: time, time of all cores, memory at its height, runs and sessions.

    with metered() as meter:
        with span("moments"):
            ...
    meter.costs()

Stages may be nested. What an inner one takes is its own and not the outer one's, so that all of them add up.
Where nothing is metered, spans and counts cost next to nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Meter", "StageCost", "loading", "metered", "running", "span"]

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_NEW_PEAK = "5"  # see proc(5)


@dataclass(frozen=True)
class StageCost:
    """What a stage took without the stages inside of it.

    Attributes:
        name: of the stage; ``forward`` are runs of sessions, ``sessions`` is loading them.
        seconds: wall-clock time.
        cpu_seconds: of all cores, those of child processes that ended included.
        peak_bytes: most memory that the process took meanwhile; None where the system does not tell.
        runs, sessions: that the stage asked for.
    """

    name: str
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_bytes: int | None = None
    runs: int = 0
    sessions: int = 0


@dataclass
class _Sums:
    seconds: float = 0.0
    cpu: float = 0.0
    peak: int | None = None
    runs: int = 0
    sessions: int = 0


class Meter:
    """Costs by stage, from now on.

    Args:
        name: of the stage that a run begins with.
    """

    def __init__(self, name: str = "open") -> None:
        self._stack, self._sums = [name], dict[str, _Sums]()
        self._wall, self._cpu = time.perf_counter(), _cpu()
        _take_peak()

    def rename(self, name: str) -> None:
        """What is in no stage belongs to ``name`` from now on."""
        self._charge(True)
        self._stack[0] = name

    @contextmanager
    def span(self, name: str, *, peak: bool = True) -> Iterator[None]:
        """A stage, which may come several times; short ones leave the peak to the one around."""
        self._charge(peak)
        self._stack.append(name)
        try:
            yield
        finally:
            self._charge(peak)
            self._stack.pop()

    def count(self, *, runs: int = 0, sessions: int = 0) -> None:
        """Add to the counts of the present stage."""
        sums = self._now()
        sums.runs += runs
        sums.sessions += sessions

    def costs(self) -> tuple[StageCost, ...]:
        """Of every stage so far, in the order in which they began."""
        self._charge(True)
        return tuple(
            StageCost(name, one.seconds, one.cpu, one.peak, one.runs, one.sessions)
            for name, one in self._sums.items()
        )

    def _now(self) -> _Sums:
        return self._sums.setdefault(self._stack[-1], _Sums())

    def _charge(self, peak: bool) -> None:
        """Put what was taken since the last time down to the present stage."""
        sums, wall, cpu = self._now(), time.perf_counter(), _cpu()
        sums.seconds += wall - self._wall
        sums.cpu += cpu - self._cpu
        self._wall, self._cpu = wall, cpu
        if peak and (found := _take_peak()) is not None:
            sums.peak = max(sums.peak or 0, found)


_METER: ContextVar[Meter | None] = ContextVar("meter", default=None)


@contextmanager
def metered() -> Iterator[Meter]:
    """Everything in the block is metered; in what a metered block calls, by the same meter."""
    if (meter := _METER.get()) is not None:
        yield meter
        return
    token = _METER.set(meter := Meter())
    try:
        yield meter
    finally:
        _METER.reset(token)


@contextmanager
def span(name: str, *, peak: bool = True) -> Iterator[None]:
    """A stage of what is metered around, if anything is; see :meth:`Meter.span`."""
    if (meter := _METER.get()) is None:
        yield
        return
    with meter.span(name, peak=peak):
        yield


@contextmanager
def running() -> Iterator[None]:
    """A run of a session."""
    if (meter := _METER.get()) is not None:
        meter.count(runs=1)
    with span("forward", peak=False):
        yield


@contextmanager
def loading() -> Iterator[None]:
    """The making of a session."""
    if (meter := _METER.get()) is not None:
        meter.count(sessions=1)
    with span("sessions", peak=False):
        yield


def _cpu() -> float:
    """Seconds of all threads, and of children that ended."""
    children = os.times()
    return time.process_time() + children.children_user + children.children_system


def _take_peak() -> int | None:
    """Most bytes in memory since the last call."""
    try:
        text = _STATUS.read_text(encoding="ascii")
        _CLEAR.write_text(_NEW_PEAK, encoding="ascii")
    except OSError:
        return None
    found = next((line for line in text.splitlines() if line.startswith("VmHWM:")), None)
    return None if found is None else 1024 * int(found.split()[1])
