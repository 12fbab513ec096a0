"""Latency, measured so that two models can be compared on a machine that does other things too.

Models are warmed up until their time is stable, then timed in turn, a block of runs each, in alternating
order; a run after every change of model is thrown away (caches). Every round gives one median per model and
one ratio to the first model, both taken under the same conditions; the reported ratio is the median over
rounds, its 95% interval a bootstrap over rounds.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from obs_onnx.data.rows import random_feed
from obs_onnx.passes.errors import OptionError, boundary
from obs_onnx.results.benchmark import BUSY, SLOW, UNSURE, Benchmark, Latency, Ratio
from obs_onnx.runtimes import ModelSource, Runtime, Session, open_runtime
from obs_onnx.runtimes.machine import pinned
from obs_onnx.runtimes.sessions.model_files import open_session

__all__ = ["bench", "quick"]

_BLOCK_SECONDS = 0.02
_STABLE = 0.05
_MAX_RUNS = 5000
_LEAST_RUNS = 3


def bench(
    models: Sequence[ModelSource | Session],
    runtime: str | Runtime = "onnxruntime",
    *,
    threads: int | None = None,
    batch: int = 1,
    feed: Mapping[str, NDArray[Any]] | None = None,
    sizes: Mapping[str, int] | None = None,
    seconds: float = 3.0,
    min_runs: int = 20,
    pin: bool = True,
) -> Benchmark:
    """Time models side by side.

    Args:
        models: files, bytes or sessions; ratios are to the first.
        runtime: or its SPEC, see :func:`obs_onnx.runtimes.open_runtime`.
        threads: of one operator, for a runtime given as SPEC.
        batch: size of a free first axis, where ``feed`` is None.
        feed: one complete feed; by default random data.
        sizes: values of other named free sizes.
        seconds: time per model, warm-up included; up to four times as much until ``min_runs``.
        min_runs: runs per model; a very slow model gets as few as 3.
        pin: keep to as many cores as threads while measuring; what runs outside of this process always does.

    Raises:
        OptionError: no models, or numbers below what makes sense.
        ModelError, DataError, MissingRuntimeError: the models cannot be loaded or run.
    """
    if not models:
        raise OptionError("bench: give at least one model")
    if batch < 1 or seconds <= 0 or min_runs < 1:
        raise OptionError("bench: batch and runs must be at least 1, seconds more than 0")
    where = open_runtime(runtime, threads) if isinstance(runtime, str) else runtime
    machine = where.machine()
    with pinned(where.threads) if pin and where.in_process else nullcontext() as cores:
        with boundary("the models cannot be timed"):
            timers, shapes = [], dict[str, tuple[int, ...]]()
            for model in models:
                session = open_session(where, model) if isinstance(model, (bytes, str, PathLike)) else model
                given = random_feed(session.inputs, batch, sizes) if feed is None else feed
                shapes = shapes or {name: tuple(array.shape) for name, array in given.items()}
                timers.append(_Timer(session, given))
        rounds = _measure(timers, seconds, min_runs)
    latencies = tuple(_latency(one) for one in rounds)
    affinity = cores if where.in_process else where.affinity
    environment = {**machine, **where.environment(), "affinity": affinity, "batch": batch}
    timed_on = "random numbers" if feed is None else "the given data"
    return Benchmark(latencies, _ratios(rounds), environment, _noise(latencies, machine), shapes, timed_on)


def quick(session: Session, feed: Mapping[str, NDArray[Any]], seconds: float = 0.02) -> float:
    """Milliseconds per run of a small model: lower quartile of all runs in ``seconds``, after a warm-up."""
    first = session.time(feed, 2)[-1]
    runs = int(np.clip(seconds / 3 / max(first, 1e-7), 1, 1000))
    session.time(feed, runs)
    return 1e3 * float(np.percentile(session.time(feed, 3 * runs), 25))


class _Timer:
    """One model, its feed, and how many runs make a block."""

    def __init__(self, session: Session, feed: Mapping[str, NDArray[Any]]) -> None:
        self._session = session
        self._feed = feed
        self._block = 1

    def warm_up(self, deadline: float) -> None:
        """Run until two blocks in a row take the same time, or until the deadline."""
        first = self._session.time(self._feed, 1)[0]
        last = self._session.time(self._feed, 1)[0] if first < _BLOCK_SECONDS else first
        self._block = int(np.clip(_BLOCK_SECONDS / max(last, 1e-6), 1, 100))
        while time.perf_counter() < deadline:
            now = float(np.median(self._session.time(self._feed, self._block)))
            if abs(now - last) <= _STABLE * last:
                break
            last = now
        self._block = int(np.clip(_BLOCK_SECONDS / max(last, 1e-6), 1, 100))

    def block(self) -> NDArray[np.float64]:
        """Milliseconds of a block of runs."""
        return 1e3 * np.array(self._session.time(self._feed, self._block + 1)[1:])


def _measure(timers: Sequence[_Timer], seconds: float, min_runs: int) -> list[list[NDArray[np.float64]]]:
    """Per model, per round: milliseconds of its runs."""
    start = time.perf_counter()
    for number, timer in enumerate(timers, start=1):
        timer.warm_up(start + 0.3 * seconds * number)
    rounds: list[list[NDArray[np.float64]]] = [[] for _ in timers]
    while True:
        order = range(len(timers)) if len(rounds[0]) % 2 == 0 else range(len(timers) - 1, -1, -1)
        for index in order:
            rounds[index].append(timers[index].block())
        fewest = min(sum(map(len, one)) for one in rounds)
        passed = (time.perf_counter() - start) / (seconds * len(timers))
        enough = fewest >= min_runs and passed >= 1
        if enough or fewest >= _MAX_RUNS or (fewest >= _LEAST_RUNS and passed >= 4):
            return rounds


def _latency(rounds: Sequence[NDArray[np.float64]]) -> Latency:
    runs = np.concatenate(rounds)
    p10, median, p90 = (float(value) for value in np.percentile(runs, (10, 50, 90)))
    low, high = _interval(np.array([np.median(one) for one in rounds]))
    return Latency(median, p10, p90, len(runs), min(low, median), max(high, median))


def _ratios(rounds: Sequence[Sequence[NDArray[np.float64]]]) -> tuple[Ratio, ...]:
    medians = np.array([[np.median(block) for block in one] for one in rounds])
    ratios = medians / medians[0]
    return tuple(Ratio(float(np.median(one)), *_interval(one)) for one in ratios)


def _interval(values: NDArray[np.float64], resamples: int = 1000) -> tuple[float, float]:
    """95% bootstrap interval of the median of ``values``; of one value, itself.

    ``scipy.stats.bootstrap`` gives the same numbers for two values or more, but importing ``scipy.stats``
    would take a quarter of the time that ``prune`` takes to start.
    """
    chosen = np.random.default_rng(0).integers(0, len(values), (resamples, len(values)))
    low, high = np.percentile(np.median(values[chosen], axis=1), (2.5, 97.5))
    return float(low), float(high)


def _noise(latencies: Sequence[Latency], machine: Mapping[str, Any]) -> tuple[str, ...]:
    """What speaks against trusting the numbers."""
    reasons = []
    for number, latency in enumerate(latencies):
        if latency.p90 > 1.25 * latency.median:
            reasons.append(f"model {number}: {SLOW}")
        if latency.high - latency.low > 0.1 * latency.median:
            reasons.append(f"model {number}: {UNSURE}")
    load, cores = machine["load_average"], machine["logical_cores"]
    if load is not None and cores and load > 0.7 * cores:
        reasons.append(f"{BUSY} (load {load} on {cores} cores)")
    return tuple(reasons)
