"""score(): what a criterion says about every channel, and how far it agrees with the exhaustive oracle."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from obs_onnx.allocation.regularizers import REGULARIZERS, check_regularizers, penalties, regularizers
from obs_onnx.allocation.thresholds import unit
from obs_onnx.criteria.channel_statistics import ChannelStatistics
from obs_onnx.criteria.channels import CRITERIA
from obs_onnx.data.fixed import fixed_names, with_fixed
from obs_onnx.data.language.cache_sizes import implied_sizes
from obs_onnx.data.open_source import open_source
from obs_onnx.entrypoints.files import check_files
from obs_onnx.entrypoints.options.keywords import takes
from obs_onnx.entrypoints.options.score import ScoreOptions, ScorerOptions
from obs_onnx.evaluation.finite_outputs import check_outputs
from obs_onnx.evaluation.free_batch import find_free_batch, freed_source
from obs_onnx.evaluation.run_cost import MOST_SAMPLES, measured
from obs_onnx.io.onnx_file import ModelLike, open_model
from obs_onnx.io.paths import calibration_of
from obs_onnx.latency import LatencyTable, measure_table
from obs_onnx.option import asked
from obs_onnx.passes.canonical.own_constants import prepare
from obs_onnx.passes.channels.coupling import Group, couple
from obs_onnx.passes.channels.places import produced
from obs_onnx.passes.costs.model_costs import Cost
from obs_onnx.passes.errors import OptionError, named
from obs_onnx.passes.interface.caches import changing
from obs_onnx.passes.layers.find_layers import check_any, find_layers
from obs_onnx.passes.layers.layer import Frozen
from obs_onnx.passes.layers.stages import plan_stages
from obs_onnx.runtimes import open_runtime
from obs_onnx.runtimes.bfloat16 import runnable
from obs_onnx.runtimes.machine import activation_budget, working_memory
from obs_onnx.runtimes.sessions.partial_run import open_whole
from obs_onnx.verification.front import find_front
from obs_onnx.work.same_run import work_of

__all__ = ["ScoredGroup", "Scorer", "Scores", "score", "spearman"]

Float = NDArray[np.float64]


@dataclass(frozen=True)
class ScoredGroup:
    """A group of coupled channels.

    Attributes:
        name: of the first initializer and axis it stands in.
        layers: names of the layers that produce its channels.
        convolution: whether one of them is a convolution.
        raw: (channels,) scores as the criterion gives them.
        normalised: divided by their Euclidean norm, minus what regularisation takes off.
        oracle: (channels,) absolute change of the loss when the channel alone is removed, if it was measured.
    """

    name: str
    layers: tuple[str, ...]
    convolution: bool
    raw: Float
    normalised: Float
    oracle: Float | None = None


@dataclass(frozen=True)
class Scores:
    """What :func:`score` returns; ``options`` is what was asked for, where it is not the default."""

    model: str
    criterion: str
    groups: tuple[ScoredGroup, ...]
    frozen: tuple[Frozen, ...]
    regularize: Mapping[str, float]
    seconds: Mapping[str, float]
    notes: tuple[str, ...] = ()
    options: Mapping[str, object] = field(default_factory=dict)

    @property
    def spearman(self) -> dict[str, Any] | None:
        """Agreement with the oracle, as in the tables of Molchanov et al. 2017; None without an oracle.

        ``per_layer_mean`` is the mean over groups of the correlation within a group; ``all`` is over all
        channels together, with scores as they are, and normalised by group (criterion and oracle alike);
        ``convolutions`` is ``all`` for the channels that convolutions produce.
        """
        groups = [group for group in self.groups if group.oracle is not None]
        if not groups:
            return None
        within = [spearman(group.raw, group.oracle) for group in groups if group.oracle is not None]
        known = [value for value in within if value is not None]
        return {
            "per_layer_mean": float(np.mean(known)) if known else None,
            "all": _together(groups),
            "convolutions": _together([group for group in groups if group.convolution]),
        }

    def to_json(self) -> dict[str, Any]:
        """Ready for JSON."""
        groups = []
        for group in self.groups:
            line: dict[str, Any] = {
                "name": group.name,
                "layers": group.layers,
                "channels": len(group.raw),
                "scores": group.raw.tolist(),
                "normalised": group.normalised.tolist(),
            }
            if group.oracle is not None:
                line |= {"oracle": group.oracle.tolist(), "spearman": spearman(group.raw, group.oracle)}
            groups.append(line)
        found = {
            "schema": 1,
            "model": self.model,
            "criterion": self.criterion,
            "regularize": self.regularize,
            "groups": groups,
            "frozen": self.frozen,
            "seconds": self.seconds,
            "notes": self.notes,
            "options": self.options,
        }
        return found if self.spearman is None else {**found, "spearman": self.spearman}


@dataclass(frozen=True)
class Oracle:
    """What every channel does to the loss, measured.

    Attributes:
        changes: absolute change when a channel alone is removed without compensation, by group: (channels,).
        seconds: that it took.
    """

    changes: Mapping[int, Float]
    seconds: float


class Scorer:
    """A model and its data, to be judged by several criteria.

    Args:
        model: a file, or a model in memory (which is not changed).
        options: about data and runtime. Without labels the model is its own teacher, see
            :mod:`obs_onnx.criteria.reference_loss`.

    Raises:
        ModelError, DataError, OptionError, MissingRuntimeError: bad input.
    """

    def __init__(self, model: ModelLike, options: ScorerOptions) -> None:
        original, self._name, path = open_model(model, None)
        where = open_runtime(options.runtime, options.threads, options.custom_ops)
        fixed = with_fixed(original, options.fix)
        read = partial(
            open_source,
            calibration_of(options.calib, path),
            batch_size=MOST_SAMPLES,
            labels_key=options.labels,
            seed=options.seed,
            preprocess=options.preprocess,
            without=fixed_names(options.fix),
            sizes=implied_sizes(fixed),
            text=options.text,
        )
        caches = changing(fixed, self._name) if options.change_caches else None
        front = find_front(where, fixed if caches is None else caches.inner(fixed), options.cut)
        batch = find_free_batch(where, front.model, read)
        dense, copied = runnable(where, prepare(front.model if batch is None else batch.model))
        self._coupling = couple(dense, options.protect, () if caches is None else caches.names)
        if not self._coupling.groups:
            check_any(dense, self._name)
            raise OptionError(
                f"{self._name} has no channels that can be removed: run inspect to see what keeps them"
            )
        source = freed_source(batch, open_whole(where, dense).inputs, MOST_SAMPLES, read)
        memory = working_memory(options.memory)
        self._where, self._sample = where, next(iter(source.rebatch(1)))
        self._demand = measured(where, dense, self._sample)
        source = source.rebatch(self._demand.samples(memory))
        self._layers, self._progress = find_layers(dense)[0], options.shown
        self._evidence = ChannelStatistics(
            where,
            dense,
            self._coupling,
            self._layers,
            plan_stages(dense, self._layers),
            source,
            budget=activation_budget(memory),
            damping=options.damping,
            seed=options.seed,
            task=options.task,
        )
        self._work = work_of(options, "score", [original, dense], [source], where.environment())
        feed = next(iter(source))
        infinite = check_outputs(where, dense, feed, open_whole(where, dense).run(feed))
        unlabelled = "no labels: the loss compares with the model's own outputs"
        short = f"{where.spec} has no kernels for bfloat16: all was computed on a float32 copy"
        self._notes = (
            *front.notes,
            *source.notes,
            *infinite,
            *(() if source.has_labels else (unlabelled,)),
            *((short,) if copied else ()),
        )

    @cached_property
    def costs(self) -> Mapping[str, Cost]:
        """What can regularise the scores, by name; latency has to be measured first."""
        return regularizers(self._coupling, self._demand.macs, self._demand.sizes)

    @cached_property
    def latency(self) -> LatencyTable:
        """Milliseconds of one run on one sample, measured."""
        with self._progress.stage("measure latency") as advance:
            return measure_table(
                self._coupling, self._where, self._where, self._sample, advance=advance, work=self._work
            )

    def _penalties(self, weights: Mapping[str, float]) -> dict[int, float]:
        groups = self._coupling.groups
        timed = [name for name in weights if REGULARIZERS[name].timed]
        if not timed:
            return penalties(weights, self.costs, groups)
        costs = {**self.costs, **dict.fromkeys(timed, self.latency.cost)}
        return penalties(weights, costs, groups, self.latency.quanta)

    @cached_property
    def oracle(self) -> Oracle:
        """What every channel does to the loss, measured."""
        start = time.perf_counter()
        with self._progress.stage("oracle", sum(group.n for group in self._coupling.groups)) as advance:
            found = self._evidence.gates.removals(advance, self._work)
        changes = {group: np.abs(change) for group, change in found.items()}
        return Oracle(changes, time.perf_counter() - start)

    def scores(
        self, criterion: str, *, oracle: bool = False, regularize: Mapping[str, float] | None = None
    ) -> Scores:
        """Scores of all channels; arguments as for :func:`score`."""
        check_regularizers(regularize or {})
        _check_criterion(criterion)
        exhaustive = CRITERIA[criterion].exhaustive
        truth = self.oracle if oracle or exhaustive else None
        start = time.perf_counter()
        off, found = self._penalties(regularize or {}), []
        work = self._work.stage("scores", criterion)
        with self._progress.stage(criterion, len(self._coupling.groups)) as advance:
            for group in self._coupling.groups:
                change = None if truth is None else truth.changes[group.id]
                if change is not None and exhaustive:
                    raw = change
                else:
                    task = partial(CRITERIA[criterion], self._evidence, group)
                    raw = work.one(np.ndarray, str(group.id), task)
                found.append(self._scored(group, raw, off[group.id], change if oracle else None))
                self._evidence.forget(group)
                advance(1)
        seconds = {} if truth is None else {"oracle": truth.seconds}
        return Scores(
            self._name,
            criterion,
            tuple(found),
            tuple(self._coupling.frozen),
            dict(regularize or {}),
            {**seconds, "criterion": time.perf_counter() - start},
            self._notes,
        )

    def _scored(self, group: Group, raw: Float, off: float, oracle: Float | None) -> ScoredGroup:
        makers = [layer for layer in self._layers if produced(self._coupling, group, layer) is not None]
        return ScoredGroup(
            group.name,
            tuple(layer.name for layer in makers),
            any("Conv" in layer.op_type for layer in makers),
            raw,
            unit(raw) - off,
            oracle,
        )


@takes(ScoreOptions)
def score(model: ModelLike, options: ScoreOptions) -> Scores:
    """Score all channels of a model.

    Args:
        model: a file, or a model in memory (which is not changed).
        options: see :class:`obs_onnx.entrypoints.options.score.ScoreOptions`.

    Raises:
        ModelError, DataError, OptionError, MissingRuntimeError: bad input. A criterion that needs gradients
            of a model that cannot be differentiated is a GradientError that names operator and node.
    """
    _check_criterion(options.criterion)
    check_files(model, options)
    scorer = Scorer(model, options)
    found = scorer.scores(options.criterion, oracle=options.oracle, regularize=options.regularize)
    return replace(found, options=asked(options))


def _check_criterion(criterion: str) -> None:
    if criterion not in CRITERIA:
        raise OptionError(f"{named('criterion')} {criterion!r} is unknown: use one of {', '.join(CRITERIA)}")


def spearman(a: Float, b: Float) -> float | None:
    """Rank correlation, ties at their mean rank; None where one of the two does not vary."""
    if any(np.all(scores == scores[0]) for scores in (a, b)):
        return None
    found = float(spearmanr(a, b).statistic)
    return found if np.isfinite(found) else None


def _together(groups: Sequence[ScoredGroup]) -> dict[str, float | None] | None:
    judged = [(group, group.oracle) for group in groups if group.oracle is not None]
    if not judged:
        return None
    oracle = np.concatenate([truth for _, truth in judged])
    relative = np.concatenate([unit(truth) for _, truth in judged])
    return {
        "raw": spearman(np.concatenate([group.raw for group, _ in judged]), oracle),
        "normalised": spearman(np.concatenate([group.normalised for group, _ in judged]), relative),
    }
