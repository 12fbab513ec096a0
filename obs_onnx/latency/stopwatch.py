"""The latency of models on the runtime where they will be deployed, always in turn with the dense one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.latency.benchmark import bench
from obs_onnx.latency.cache import LatencyCache, signature
from obs_onnx.latency.noise import Noise
from obs_onnx.latency.table import LEVELS, LatencyTable, measure_table
from obs_onnx.passes.channels.coupling import Coupling
from obs_onnx.results.benchmark import Benchmark
from obs_onnx.runtimes import Runtime, Session
from obs_onnx.runtimes.sessions.partial_run import open_whole
from obs_onnx.work.work_folder import NOWHERE, Work

__all__ = ["Stopwatch"]

_NAMED = 3  # blocks in notes


@dataclass
class Stopwatch:
    """Times models against a dense one.

    Attributes:
        target: where models will run.
        local: where they run to find what goes into their parts.
        dense: the model as it came in.
        sample: one complete feed, of the batch that latency is wanted for.
        round_to: multiple of kept channel counts, discovered by default.
        levels: widths of each group that are measured for tables, a prime.
        cache: of latencies; by default the user's.
        work: where finished measurements of the run are kept.
    """

    target: Runtime
    local: Runtime
    dense: ir.Model
    sample: Mapping[str, NDArray[Any]]
    round_to: int | None = None
    levels: int = LEVELS
    cache: LatencyCache | None = None
    work: Work = NOWHERE
    _told: list[str] = field(default_factory=list, init=False)
    _noise: Noise = field(default_factory=Noise, init=False)
    _ratios: dict[str, float] = field(default_factory=dict, init=False)

    @cached_property
    def _session(self) -> Session:
        return open_whole(self.target, self.dense)

    @cached_property
    def dense_ms(self) -> float:
        """Milliseconds of the dense model."""
        work = self.work.stage("latency")
        return work.one(float, "dense", lambda: self._bench([self._session], 1.0).latencies[0].median)

    @property
    def notes(self) -> list[str]:
        """What was found out on the way, for people."""
        return [*dict.fromkeys(self._told), *self._noise.lines()]

    def ratio(self, model: ir.Model, seconds: float = 1.0) -> float:
        """Latency of a model divided by the dense one's, both timed in turn for so many seconds each.

        Models that differ in nothing but their weights are timed once.
        """
        key = signature(model, self.sample)
        if key not in self._ratios:

            def timed() -> float:
                sessions = [self._session, open_whole(self.target, model)]
                return self._bench(sessions, seconds).ratios[1].value

            self._ratios[key] = self.work.stage("latency").one(float, f"{key} {seconds}", timed)
        return self._ratios[key]

    def table(self, coupling: Coupling, advance: Callable[[int], None] = lambda _: None) -> LatencyTable:
        """Latency of a model as a function of its widths."""
        found = measure_table(
            coupling,
            self.target,
            self.local,
            self.sample,
            round_to=self.round_to,
            levels=self.levels,
            cache=self.cache,
            advance=advance,
            work=self.work,
        )
        steps = sorted({quantum for quantum in found.kinds.values() if quantum is not None})
        self._told.append(
            f"latency on {self.target.spec} is predicted from {found.asked} blocks ({found.timed} timed now, "
            f"the others known) with a median error of {100 * found.error:.1f}% on {len(found.wholes)} whole "
            "models" + (f"; it falls in steps of {' or '.join(map(str, steps))} channels" if steps else "")
        )
        self._told += _left_out(found.left_out)
        self._noise.include(found.noise)
        return found

    def _bench(self, sessions: list[Session], seconds: float) -> Benchmark:
        found = bench(sessions, self.target, feed=self.sample, seconds=seconds, min_runs=7)
        self._noise.add(found)
        return found


def _left_out(reasons: Mapping[str, str]) -> list[str]:
    """Notes on the blocks that could not be timed alone."""
    named = list(reasons.items())[:_NAMED]
    notes = [
        f"the block of node {name!r} cannot be timed alone, its time counts as constant: {reason}"
        for name, reason in named
    ]
    if len(reasons) > _NAMED:
        notes.append(f"so do {len(reasons) - _NAMED} other blocks")
    return notes
