"""What every search for a smaller model starts from: runtimes, data, the dense model measured; and its end.

The end is the same, too: promises are checked on the model that was found, and again on the file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir
import psutil

from obs_onnx.allocation.targets import COSTS, Targets
from obs_onnx.data.open_source import open_source, split
from obs_onnx.data.sources import Source
from obs_onnx.evaluation.output_damage import choose_measure
from obs_onnx.evaluation.quality import evaluate_sessions
from obs_onnx.evaluation.run_cost import RunCost, measured
from obs_onnx.io.onnx_file import load_model, serialize
from obs_onnx.io.paths import calibration_of
from obs_onnx.latency import Stopwatch, timing_feed
from obs_onnx.latency.benchmark import bench
from obs_onnx.passes.errors import DataError, OptionError, named
from obs_onnx.pruning.effort import EFFORTS
from obs_onnx.pruning.mode import Finished, Mode, Opened
from obs_onnx.pruning.options import SearchOptions
from obs_onnx.results.benchmark import Ratio
from obs_onnx.results.pruning import Figures, Latency
from obs_onnx.runtimes import Runtime, Session, calibration_runtime, open_runtime
from obs_onnx.runtimes.partial_run import Values
from obs_onnx.training.retraining import Retraining
from obs_onnx.verification.removal import decided_outputs
from obs_onnx.verification.written_model import check_batches, check_model

__all__ = ["PruningInputs", "prepare", "timed"]

BATCH = 128
HELD_OUT = 0.125


@dataclass(frozen=True)
class PruningInputs:
    """A model, its data and where it runs.

    Attributes:
        way: mode of pruning, opened.
        opened: the model as it came in.
        target: runtime on which latency counts.
        dense: session of the dense model, where it is calibrated.
        source: calibration data.
        fit, held_out: to learn from, and to measure errors on.
        judged: labelled data, or None.
        accuracy: of the dense model on it.
        first: a batch of held-out data.
        sample: one held-out sample.
        answer: of the dense model to ``first``.
        demand: of the dense model.
        wanted: the targets.
        seed: of everything random.
    """

    way: Mode
    opened: Opened
    target: Runtime
    dense: Session
    source: Source
    fit: Source
    held_out: Source
    judged: Source | None
    accuracy: float | None
    first: Values
    sample: Values
    answer: Values
    demand: RunCost
    wanted: Targets
    seed: int

    @property
    def where(self) -> Runtime:
        """Where models are calibrated and judged."""
        return self.opened.runtime

    def study(
        self,
        options: SearchOptions,
        retraining: Retraining | None = None,
    ) -> Any:
        """Everything that trials share, as the mode likes it."""
        wanted = self.wanted
        limited = any(name in wanted.as_dict() for name in ("sparsity", *COSTS))
        stopwatch = None
        if wanted.timed:
            feed = self.timing_feed(options.batch)
            levels = EFFORTS[options.effort].widths
            stopwatch = Stopwatch(self.target, self.where, self.opened.model, feed, options.round_to, levels)
        return self.way.study(
            {
                "runtime": self.where,
                "fit": self.fit,
                "held_out": self.held_out,
                "effort": EFFORTS[options.effort],
                "measure": choose_measure(
                    "error" if options.loss == "auto" and not limited else options.loss, self.answer
                ),
                "budget": options.memory or psutil.virtual_memory().available // 2,
                "progress": options.progress,
                "dense": self.dense,
                "evaluation": self.judged,
                "dense_accuracy": self.accuracy,
                "macs": self.demand.macs,
                "peak": self.demand.peak.bytes,
                "moved": sum(self.demand.sizes.values()),
                "seed": self.seed,
                "retraining": retraining,
                "stopwatch": stopwatch,
            },
            wanted,
        )

    def timing_feed(self, batch: int) -> Values:
        """One complete feed of so many held-out samples, see :func:`obs_onnx.latency.timing_feed`."""
        return timing_feed(self.held_out, self.dense.inputs, batch)

    def finish(self, study: Any, best: Any, wanted: Targets | None = None) -> tuple[Finished, Values]:
        """The result of an attempt with its promises checked, and its outputs for ``first``.

        Args:
            study: as :meth:`study` made it.
            best: the attempt.
            wanted: other targets than those of the study.

        Raises:
            VerificationError: a promise is broken.
        """
        with study.stage("verify"):
            finished = self.way.finish(study, best, self.wanted if wanted is None else wanted)
            session = self.where.session(serialize(best.model))
            expected = session.run(self.first)
            check_model(self.where, best.model, self.first, expected)
            check_batches(self.dense, session, self.first, decided_outputs(best.model))
        return finished, expected

    def check_file(self, expected: Values, custom_domains: Sequence[str]) -> Callable[[Path], None]:
        """What a written file must pass: it loads, and gives these outputs for ``first``."""

        def check(written: Path) -> None:
            again = self.way.runnable(load_model(written, custom_domains=custom_domains))
            check_model(self.where, again, self.first, expected)

        return check


def prepare(
    way: Mode,
    found: tuple[ir.Model, str, Path | None],
    wanted: Targets,
    options: SearchOptions,
) -> PruningInputs:
    """Open everything that is given, and measure the dense model.

    Args:
        way: mode of pruning, not yet opened. found: as :func:`obs_onnx.io.onnx_file.open_model` gives it.
        wanted: the targets. options: about data and runtimes.

    Raises:
        ModelError, DataError, OptionError, MissingRuntimeError: bad input.
    """
    original, name, path = found
    labels, seed = options.labels, options.seed
    target = open_runtime(options.runtime, options.threads, options.custom_ops)
    where = calibration_runtime(options.runtime, options.threads, options.custom_ops)
    opened = Opened(original, name, path, where)
    way.open(opened)
    dense = where.session(serialize(way.model))
    source = open_source(
        calibration_of(options.calib, path), dense.inputs, batch_size=BATCH, labels_key=labels, seed=seed
    )
    fit, held_out = split(source, HELD_OUT, seed)
    judged = held_out if held_out.has_labels else None
    if options.evaluation is not None:
        judged = open_source(options.evaluation, dense.inputs, batch_size=BATCH, labels_key=labels, seed=seed)
    accuracy = None if judged is None else evaluate_sessions(dense, judged).accuracy
    if wanted.drop is not None and accuracy is None:
        raise DataError(f"target drop needs labelled data: give {named('evaluation')} with labels")
    first = next(iter(held_out))
    answer = dense.run(first)
    if wanted.error is not None and choose_measure("error", answer) != "error":
        raise OptionError(
            "no output of the model is of a float type, so it has no error: give another target"
        )
    sample = next(iter(held_out.rebatch(1)))
    return PruningInputs(
        way=way,
        opened=opened,
        target=target,
        dense=dense,
        source=source,
        fit=fit,
        held_out=held_out,
        judged=judged,
        accuracy=accuracy,
        first=first,
        sample=sample,
        answer=answer,
        demand=measured(where, way.model, sample),
        wanted=wanted,
        seed=seed,
    )


def timed(
    runtime: Runtime,
    original: ir.Model,
    pruned: ir.Model,
    before: Figures,
    after: Figures,
    batch: int,
    notes: list[str],
    feed: Values | None = None,
) -> tuple[Figures, Figures, Ratio]:
    """The figures with latencies, both models timed in turn, and the ratio of these.

    Without a ``feed`` the models run on random data.
    """
    models = [serialize(original), serialize(pruned)]
    result = bench(models, runtime, batch=batch, feed=feed, seconds=1.0)
    if result.noisy:
        notes.append(f"the last measurement of latency is noisy: {'; '.join(result.noise)}")
    first, second = (Latency(one.median, one.p10, one.p90, one.runs) for one in result.latencies)
    return (
        replace(before, latency_ms=first, runtime=runtime.spec),
        replace(after, latency_ms=second, runtime=runtime.spec),
        result.ratios[1],
    )
