"""The latency of models on the runtime where they will be deployed, always in turn with the dense one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.latency.cache import LatencyCache
from obs_onnx.latency.table import LEVELS, LatencyTable, measure_table
from obs_onnx.model_file import serialize
from obs_onnx.passes.coupling import Coupling
from obs_onnx.runtimes import Runtime, Session
from obs_onnx.timing import Benchmark, bench

__all__ = ["Stopwatch"]


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
        notes: what was found out on the way, for people.
    """

    target: Runtime
    local: Runtime
    dense: ir.Model
    sample: Mapping[str, NDArray[Any]]
    round_to: int | None = None
    levels: int = LEVELS
    cache: LatencyCache | None = None
    notes: list[str] = field(default_factory=list)

    @cached_property
    def _session(self) -> Session:
        return self.target.session(serialize(self.dense))

    @cached_property
    def dense_ms(self) -> float:
        """Milliseconds of the dense model."""
        return self._bench([self._session], 1.0).latencies[0].median

    def ratio(self, model: ir.Model, seconds: float = 1.0) -> float:
        """Latency of a model divided by the dense one's, both timed in turn for so many seconds each."""
        return self._bench([self._session, self.target.session(serialize(model))], seconds).ratios[1].value

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
        )
        steps = sorted({quantum for quantum in found.kinds.values() if quantum is not None})
        self.notes.append(
            f"latency on {self.target.spec} is predicted from {found.asked} blocks ({found.timed} timed now, "
            f"the others known) with a median error of {100 * found.error:.1f}% on {len(found.wholes)} whole "
            "models" + (f"; it falls in steps of {' or '.join(map(str, steps))} channels" if steps else "")
        )
        self.notes += [f"latency is noisy: {reason}" for reason in found.noise]
        return found

    def _bench(self, sessions: list[Session], seconds: float) -> Benchmark:
        found = bench(sessions, self.target, feed=self.sample, seconds=seconds, min_runs=7)
        assert np.isfinite(found.ratios[-1].value)
        return found
