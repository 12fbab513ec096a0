"""What pruning the same model again and again shares: data, sessions, budgets, and how a result is judged."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import onnx_ir as ir

from obs_onnx.evaluation import Evaluation, evaluate_sessions
from obs_onnx.latency import Stopwatch
from obs_onnx.model_file import serialize
from obs_onnx.passes.layers import Layer
from obs_onnx.passes.segments import Plan
from obs_onnx.passes.set_weights import SetWeights
from obs_onnx.report.progress import Advance, Progress
from obs_onnx.retraining import Retraining
from obs_onnx.runtimes import Runtime, Session
from obs_onnx.sources import Source
from obs_onnx.targets import Targets
from obs_onnx.train import Trained

__all__ = ["DAMAGE_SHARE", "EFFORTS", "REFIT_SAMPLES", "Effort", "Judged", "Study"]

MOST_LEVELS = 8
DAMAGE_SHARE = 0.3
LEAST_SAMPLES = 8
REFIT_SAMPLES = 256  # on which a whole model is refitted to see what that mends
_REFITTING = 3  # times the multiply-accumulates of an effort that may go into that
_PASSES = 3  # over the model: dense, pruned, and the moments of its layers
_MACS_PER_BYTE = 40  # that are done in the time in which a byte of activations is written and read again
_FEWEST_LEVELS = 2
_HEADROOM = 5  # times its multiply-accumulates that an effort takes at most for all its levels and samples
_MACS_PER_NODE = 2e7  # what it takes to set up a part of the model, as many as are done in that time


@dataclass(frozen=True)
class Effort:
    """How much measuring is done.

    Attributes:
        levels: levels at which the damage of each layer or group is measured at least.
        refinements: further levels per layer, where its curve bends.
        samples: on which the damage is measured, at most.
        macs: multiply-accumulates that measuring may take; cheap models get up to :data:`MOST_LEVELS` levels.
        widths: of each group at which latency is measured, a prime.
        trials: models that are pruned and measured in the search for the largest sparsity.
    """

    levels: int
    refinements: int
    samples: int
    macs: float
    widths: int
    trials: int

    def affordable(self, parts: int, macs: int) -> float:
        """How often ``macs`` allows to measure every one of so many parts of a model with so many MACs."""
        return self.macs / max(parts * self.samples * macs, 1)

    def refits(self, times: int, macs: int, moved: int, layers: Sequence[Layer]) -> bool:
        """Whether a whole model may be refitted so many times on :data:`REFIT_SAMPLES` samples.

        Args:
            times: that it would be refitted.
            macs: multiply-accumulates of the model per sample.
            moved: bytes of all its values per sample.
            layers: that are refitted; their factorisations count.
        """
        solving = sum(float(groups) * columns**3 for groups, _, columns in (a.layout.goi for a in layers))
        once = _PASSES * REFIT_SAMPLES * (macs + _MACS_PER_BYTE * moved) + solving
        return times * once <= _REFITTING * self.macs

    def levels_for(self, parts: int, macs: int) -> int:
        """Levels per layer or group of a model with so many of them and so many multiply-accumulates."""
        return max(self.levels, min(int(self.affordable(parts, macs)), MOST_LEVELS))

    def bounded(self, parts: int, macs: int, nodes: int, samples: int) -> tuple[int, int]:
        """Levels per part, and samples: even a huge model with many parts is measured in limited time.

        Args:
            parts: layers or groups.
            macs: multiply-accumulates of the model per sample.
            nodes: of the model.
            samples: that there are.
        """
        levels, samples = self.levels_for(parts, macs), min(samples, self.samples)
        most = _HEADROOM * self.macs / max(parts, 1)  # for each part; half of a model lies behind it
        samples = max(min(samples, int(2 * most / levels / max(macs, 1))), min(samples, LEAST_SAMPLES))
        once = samples * macs / 2 + nodes * _MACS_PER_NODE
        return max(min(levels, int(most / once)), _FEWEST_LEVELS), samples


EFFORTS = {
    "quick": Effort(levels=4, refinements=0, samples=128, macs=2e11, widths=5, trials=4),
    "normal": Effort(levels=5, refinements=1, samples=512, macs=4e12, widths=7, trials=6),
    "thorough": Effort(levels=10, refinements=3, samples=2048, macs=1e14, widths=7, trials=8),
}


@dataclass(frozen=True)
class Judged:
    """How a pruned model does.

    Attributes:
        quality: against the dense model, on held-out data.
        drop: loss of accuracy as a share, if there are labels.
    """

    quality: Evaluation
    drop: float | None

    def strain(self, targets: Targets) -> float:
        """Largest ratio of a measured figure to its limit; at most 1 if all limits hold."""
        pairs = ((self.quality.output_error, targets.error), (self.drop, targets.drop))
        return max((value / limit for value, limit in pairs if limit and value is not None), default=0.0)


@dataclass(kw_only=True)
class Study:
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
        """A copy of a pruned model, retrained; see :class:`obs_onnx.retraining.Retraining`."""
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
