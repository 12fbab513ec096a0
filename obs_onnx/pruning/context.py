"""What pruning the same model again and again shares: data, sessions, budgets, and how a result is judged."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import onnx_ir as ir

from obs_onnx.data.sources import Source
from obs_onnx.evaluation.quality import evaluate_sessions
from obs_onnx.io.onnx_file import serialize
from obs_onnx.latency import Stopwatch
from obs_onnx.passes.graph.set_weights import SetWeights
from obs_onnx.passes.layers.layer import Layer
from obs_onnx.passes.layers.stages import Plan
from obs_onnx.progress import Advance, Progress
from obs_onnx.pruning.effort import LEAST_SAMPLES, Effort
from obs_onnx.pruning.judgement import Judged
from obs_onnx.runtimes import Runtime, Session
from obs_onnx.training.loop import Trained
from obs_onnx.training.retraining import Retraining

__all__ = ["DAMAGE_SHARE", "PruningContext"]

DAMAGE_SHARE = 0.3


@dataclass(kw_only=True)
class PruningContext:
    """A model, its data, and everything that trials of pruning it share.

    Attributes:
        model: dense, in the form that is calibrated.
        layers: that may change.
        plan: stages of ``layers``.
        runtime: where everything runs.
        fit, held_out: calibration data to learn from, and to measure errors on.
        effort: how much is measured.
        measure: damage that allocation minimises.
        budget: bytes of activations in memory.
        progress: shows stages.
        dense: session of ``model``.
        evaluation: labelled data, or None.
        dense_accuracy: of ``model`` on it.
        macs: multiply-accumulates of one run on one sample.
        peak: bytes of activations that it holds at once.
        moved: bytes of all its values.
        seed: of everything random.
        retraining: what follows each round of pruning, if anything.
        stopwatch: times models where latency is wanted.
        seconds: of every stage so far.
    """

    model: ir.Model
    layers: Sequence[Layer]
    plan: Plan
    runtime: Runtime
    fit: Source
    held_out: Source
    effort: Effort
    measure: str
    budget: int
    progress: Progress
    dense: Session
    evaluation: Source | None
    dense_accuracy: float | None
    macs: int
    peak: int
    moved: int
    seed: int
    retraining: Retraining | None = None
    stopwatch: Stopwatch | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Advance]:
        """Time a stage and show how far it is."""
        start = time.perf_counter()
        with self.progress.stage(name, total) as advance:
            yield advance
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def damage_data(self) -> tuple[Source, Source]:
        """Data for the moments behind damage curves, and other data on which the damage is measured.

        With very little data, all of it serves both purposes.
        """
        if self.fit.count is None or self.fit.count * (1 - DAMAGE_SHARE) >= LEAST_SAMPLES:
            return self.fit.split(DAMAGE_SHARE, self.seed)
        return self.fit, self.fit

    def judged(self, model: ir.Model) -> Judged:
        """A pruned model, measured on held-out (and labelled) data."""
        session = self.runtime.session(serialize(model))
        with self.stage("evaluate"):
            quality = evaluate_sessions(session, self.held_out, self.dense)
            drop = None
            if self.evaluation is not None and self.dense_accuracy is not None:
                accuracy = evaluate_sessions(session, self.evaluation).accuracy
                drop = None if accuracy is None else self.dense_accuracy - accuracy
        return Judged(quality, drop)

    def trained(
        self, model: ir.Model, frozen: Collection[str], keep_zeros: bool, last: bool
    ) -> tuple[ir.Model, Trained]:
        """A copy of a pruned model, retrained; see :class:`obs_onnx.training.retraining.Retraining`."""
        assert self.retraining is not None
        with self.stage("retrain"):
            found = self.retraining(model, frozen, keep_zeros, last)
        return SetWeights(found.weights)(model.clone()).model, found

    def cost_note(self, what: str, parts: int) -> str:
        """What measuring so many parts of the model will cost, from one timed batch."""
        feed = next(iter(self.held_out))
        start = time.perf_counter()
        self.dense.run(feed)
        rows = max((array.shape[0] for array in feed.values() if array.ndim), default=1)
        per_sample = (time.perf_counter() - start) / max(rows, 1)
        samples = self.effort.samples
        if self.fit.count is not None:
            samples = min(samples, int(self.fit.count * DAMAGE_SHARE))
        levels, samples = self.effort.bounded(parts, self.macs, len(self.model.graph), samples)
        runs = parts * levels * samples / 2 + 4 * (self.fit.count or samples)
        return (
            f"measuring {parts} {what} at {levels} levels or more on {samples} samples: "
            f"about {runs * per_sample:.0f} s of inference"
        )
