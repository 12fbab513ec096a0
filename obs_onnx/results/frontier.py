"""The frontier of smaller models: what each one costs, and how far it is from the dense one.

A point is dominated if another one is at least as cheap and at least as good, and better in one of the two.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from obs_onnx.io.json_file import jsonable
from obs_onnx.results.pruning import Latency

__all__ = ["Frontier", "Point", "undominated"]


@dataclass(frozen=True)
class Point:
    """One model of a frontier, measured.

    Attributes:
        latency_ms: median of a run; None if it was not timed.
        latency: quantiles of the same runs.
        ratio: latency divided by the dense model's, timed in turn: median over rounds.
        ratio_interval: its 95% confidence interval.
        macs: multiply-accumulates of one sample.
        parameters: elements of all floating-point initializers.
        peak_activation_bytes: most memory that the activations of one sample take at once.
        file_bytes: of the model.
        output_error: relative, on held-out calibration data.
        agreement: share of held-out samples put into the same class as by the dense model.
        accuracy: share of labelled samples put into the right class.
        metric: what :attr:`Frontier.metric` names, on the same data, where it is not the accuracy.
        part: the part of the outputs whose error it is.
        measures: others of the task, by name.
        file: name in the folder; None for what was not written.
        dominated: by another point, or by the dense model.
        notes: about this point alone.
    """

    latency_ms: float | None
    latency: Latency | None
    ratio: float | None
    ratio_interval: tuple[float, float] | None
    macs: int | None
    parameters: int
    peak_activation_bytes: int | None
    file_bytes: int
    output_error: float | None
    agreement: float | None
    accuracy: float | None
    metric: float | None = None
    part: str | None = None
    measures: Mapping[str, float] = field(default_factory=dict)
    file: str | None = None
    dominated: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Frontier:
    """What :func:`obs_onnx.entrypoints.pareto.pareto` measured.

    Attributes:
        model: the dense one.
        output: folder, or None.
        cost: latency, macs, params, size or ram.
        by: what is traded for it: error or accuracy.
        dense: the dense model, timed in turn with the others.
        points: from dear to cheap, dominated ones included.
        seconds: by stage.
        runtime: where latency was measured.
        batch: samples of a timed run.
        seed: of everything random.
        environment: machine and versions.
        options: what was asked for, where it is not the default.
        notes: for people.
        task: what the outputs were taken for; None where nothing said it.
        metric: name of the figure on labelled data.
        lower_is_better: whether less of it is better.
        alerts: what must not be overlooked.
        failures: what failed once the models were found, each with its reason.
    """

    model: str
    output: str | None
    cost: str
    by: str
    dense: Point
    points: tuple[Point, ...]
    seconds: Mapping[str, float]
    runtime: str
    batch: int
    seed: int
    environment: Mapping[str, object] = field(default_factory=dict)
    options: Mapping[str, object] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    task: str | None = None
    metric: str | None = None
    lower_is_better: bool = False
    alerts: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()
    schema: int = 1

    @property
    def kept(self) -> tuple[Point, ...]:
        """Points that nothing dominates."""
        return tuple(point for point in self.points if not point.dominated)

    def to_json(self) -> object:
        """All fields, ready for JSON."""
        return jsonable(self)


def undominated(losses: Sequence[float], costs: Sequence[Sequence[float]]) -> list[bool]:
    """Which of some models no other one dominates.

    Args:
        losses: of each; what is not finite is dominated.
        costs: of each, one or several measures of the same cost. Nothing is kept that one of them speaks
            against, so that a frontier stays one whichever is looked at.
    """
    order = sorted(range(len(losses)), key=lambda i: (losses[i], *costs[i]))
    best: list[float] | None = None
    kept = [False] * len(losses)
    for i in order:
        if not math.isfinite(losses[i]):
            continue
        if best is None or all(mine < least for mine, least in zip(costs[i], best, strict=True)):
            kept[i], best = True, list(costs[i])
    return kept
