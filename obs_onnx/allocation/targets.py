"""What the user wants of the result: ``macs=0.5``, ``ram=200KB``, ``error=0.02``, ``drop=0.5%`` ...

Everything about a target is its record in :data:`TARGETS`. A target limits one of three things: what a model
costs (:mod:`obs_onnx.allocation.costs` has a function for each cost), what is lost of its quality, or the
share of its weights that are not zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Protocol

from obs_onnx.allocation.amounts import (
    Amount,
    Unit,
    positive,
    share,
    share_or_bytes,
    share_or_nothing,
    share_or_time,
)
from obs_onnx.passes.errors import OptionError, named

if TYPE_CHECKING:  # names of targets are read where no arrays are loaded
    from obs_onnx.allocation.costs import ModelCost

__all__ = [
    "DROP",
    "ERROR",
    "LATENCY",
    "MACS",
    "METRIC",
    "PARAMS",
    "RAM",
    "SIZE",
    "SPARSITY",
    "TARGETS",
    "TRADED",
    "Judgement",
    "Quality",
    "Target",
    "Targets",
    "costs",
    "parse_targets",
]

_TIMER_NOISE = 0.99
_NOISE = 1e-5  # relative differences up to here are rounding


class Quality(Protocol):
    """What measuring a pruned model gave, None for what was not measured."""

    @property
    def output_error(self) -> float | None:
        """Relative to the dense model's outputs."""

    @property
    def agreement(self) -> float | None:
        """Share of the samples put into the same class as by the dense model."""


class Judgement(Protocol):
    """How a pruned model does."""

    @property
    def quality(self) -> Quality:
        """Against the dense model."""

    @property
    def drop(self) -> float | None:
        """Loss of accuracy as a share, if there are labels."""


@dataclass(frozen=True)
class Target:
    """Something that a result can be asked to keep to.

    Attributes:
        name: as in ``--target NAME=VALUE``.
        parse: from the name and the text of a value to how much is allowed.
        label: in tables.
        axis: in plots, with its unit.
        figures: fields of :class:`obs_onnx.results.frontier.Point` that show it, the one that is drawn last;
            a frontier needs one.
        scale: from that field to the numbers of the axis.
        rises: whether more of that field is better.
        mode: of pruning in which alone it makes sense, if not in all.
        misfit: why, and what to do in another mode.
        cost: ``module:name`` of the :class:`obs_onnx.allocation.costs.ModelCost` that it limits, if any.
        loss: quality that a pruned model lost, if that is what it limits.
        labels: needs labelled data.
        floats: needs outputs of a float type.
        timed: models have to be timed on the runtime.
        estimated: predictions of the cost err both ways, so that limits are loosened, too.
        trusted: ratio of a measured cost to its limit at which the limit surely holds.
        additive: predictions err by a constant amount, not by a factor; the cost is reckoned in its own
            unit, other ones as shares of the dense model's.
    """

    name: str
    parse: Callable[[str, str], Amount]
    label: str
    axis: str = ""
    figures: tuple[str, ...] = ()
    scale: float = 1.0
    rises: bool = False
    mode: str | None = None
    misfit: str = ""
    cost: str = ""
    loss: Callable[[Judgement], float | None] | None = None
    labels: bool = False
    floats: bool = False
    timed: bool = False
    estimated: bool = False
    trusted: float = 1.0
    additive: bool = False

    @property
    def model_cost(self) -> ModelCost:
        """The cost that it limits."""
        found: ModelCost = resolve_name(self.cost)
        return found

    def measures(self, point: object) -> list[float | None]:
        """What was measured of it, of a point of a frontier."""
        return [getattr(point, name) for name in self.figures]

    def drawn(self, point: object) -> float | None:
        """Where a point of a frontier lies on the axis."""
        value = self.measures(point)[-1]
        return None if value is None else self.scale * value

    def lost(self, point: object) -> float | None:
        """How bad a point of a frontier is; less is better."""
        value = self.measures(point)[-1]
        return -value if self.rises and value is not None else value


_COST_ONLY = f"needs channel removal, zeros do not lower it: use {named('mode', 'channels')}"

SPARSITY = Target(
    "sparsity",
    share,
    "sparsity",
    mode="weights",
    misfit=f"is about single weights: use {named('mode', 'weights')}, or target macs",
)
"""Share of prunable weights that must be zero."""

MACS = Target(
    "macs",
    share,
    "MACs",
    "multiply-accumulates",
    ("macs",),
    mode="channels",
    misfit=_COST_ONLY,
    cost="obs_onnx.allocation.costs:MACS",
)
"""Multiply-accumulates of one sample."""

PARAMS = Target(
    "params",
    share,
    "parameters",
    "parameters",
    ("parameters",),
    mode="channels",
    misfit=_COST_ONLY,
    cost="obs_onnx.allocation.costs:PARAMS",
)
"""Elements of all floating-point initializers."""

ERROR = Target(
    "error",
    share_or_nothing,
    "output error",
    "relative output error",
    ("output_error",),
    loss=lambda judged: judged.quality.output_error,
    floats=True,
)
"""Error of every part of the outputs on held-out calibration data, relative to its spread."""

DROP = Target(
    "drop",
    positive,
    "accuracy",
    "top-1 accuracy in %",
    ("accuracy",),
    scale=100,
    rises=True,
    loss=lambda judged: judged.drop,
    labels=True,
)
"""Loss of accuracy on labelled data, as a share (0.005 is half a point), or of a metric in its own unit."""

SIZE = Target(
    "size",
    share_or_bytes,
    "file",
    "bytes of the file",
    ("file_bytes",),
    mode="channels",
    misfit=_COST_ONLY,
    cost="obs_onnx.allocation.costs:SIZE",
    additive=True,  # removal adds to the graph, and a file holds more than initializers
)
"""Bytes of the file (flash)."""

RAM = Target(
    "ram",
    share_or_bytes,
    "peak activations",
    "peak memory of activations in bytes",
    ("peak_activation_bytes",),
    mode="channels",
    misfit=_COST_ONLY,
    cost="obs_onnx.allocation.costs:RAM",
)
"""Peak memory of the activations of one sample, see :mod:`obs_onnx.passes.costs.memory`."""

LATENCY = Target(
    "latency",
    share_or_time,
    "latency",
    "latency in ms",
    ("ratio", "latency_ms"),
    mode="channels",
    misfit=_COST_ONLY,
    cost="obs_onnx.allocation.costs:LATENCY",
    timed=True,
    estimated=True,
    trusted=_TIMER_NOISE,
)
"""Of a run on the target runtime."""

METRIC = replace(DROP, name="metric", label="metric", axis="metric", figures=("metric",), scale=1.0)
"""The same where it is not the accuracy that is lost: mIoU, or a function of the user's, in its own unit."""

TARGETS: Mapping[str, Target] = {
    one.name: one
    for one in (
        SPARSITY,
        MACS,
        PARAMS,
        ERROR,
        DROP,
        SIZE,
        RAM,
        LATENCY,
    )
}
"""Name of a target -> the target."""

TRADED: Mapping[str, Target] = {"error": ERROR, "accuracy": DROP, "metric": METRIC}
"""What a frontier trades for a cost -> the target that limits its loss."""


def costs() -> dict[str, Target]:
    """Targets that limit what a model costs, by name."""
    return {name: one for name, one in TARGETS.items() if one.cost}


@dataclass(frozen=True)
class Targets:
    """Limits that all have to hold.

    Attributes:
        amounts: how much is allowed at most (of zeros: wanted at least), by name of the target.
        rounding: relative difference that rounding may make of the outputs: of a loss of which nothing is
            allowed, so much counts as nothing.
    """

    amounts: Mapping[str, Amount] = field(default_factory=dict)
    rounding: float = _NOISE

    def __iter__(self) -> Iterator[tuple[Target, Amount]]:
        """What is set, in the order of :data:`TARGETS`."""
        return ((one, self.amounts[name]) for name, one in TARGETS.items() if name in self.amounts)

    def share(self, target: Target) -> float | None:
        """How much a target allows, as a share; None where it is not set, or in another unit."""
        amount = self.amounts.get(target.name)
        return None if amount is None or amount.unit is not Unit.SHARE else amount.value

    def also(self, target: Target, amount: Amount) -> Targets:
        """These and another one."""
        return replace(self, amounts={**self.amounts, target.name: amount})

    @property
    def least(self) -> Target | None:
        """The cost that is to be as little as the limits on quality allow, if one is."""
        return next((one for one, amount in self if amount.unit is Unit.LEAST), None)

    @property
    def lossless(self) -> bool:
        """Whether only what changes nothing may go: errors within rounding cannot be told from none."""
        return any(
            one.loss is not None and amount.value <= (_NOISE if one is ERROR else 0) for one, amount in self
        )

    def allowed(self, target: Target, amount: Amount) -> float:
        """How much may be lost of a quality, rounding included."""
        return self.rounding if amount.value <= (_NOISE if target is ERROR else 0) else amount.value

    @property
    def bounded(self) -> bool:
        """Whether any of them says how far to go."""
        return bool(self.amounts) and (self.least is None or any(one.loss is not None for one, _ in self))

    @property
    def limited(self) -> bool:
        """Whether any of them is about something else than quality."""
        return any(one.loss is None for one, _ in self)

    @property
    def timed(self) -> bool:
        """Whether models have to be timed for any of them."""
        return any(one.timed for one, _ in self)

    def check_mode(self, mode: str) -> None:
        """Refuse targets that make no sense in a mode of pruning.

        Raises:
            OptionError: the first of them.
        """
        for one, _ in self:
            if one.mode not in (None, mode):
                raise OptionError(f"target {one.name} {one.misfit}")

    def strain(self, judged: Judgement) -> float:
        """Largest ratio of what a model lost to what it may lose; at most 1 if no quality is missed."""
        return max((loss / self.allowed(one, amount) for one, amount, loss in self.losses(judged)), default=0)

    def losses(self, judged: Judgement) -> Iterator[tuple[Target, Amount, float]]:
        """What a model lost of each quality that is limited and measured, with how much it may."""
        for one, amount in self:
            loss = None if one.loss is None else one.loss(judged)
            if loss is not None:
                yield one, amount, loss

    def as_dict(self) -> dict[str, float | str]:
        """What is set, as it was asked for."""
        return {one.name: amount.plain for one, amount in self}


def parse_targets(given: Mapping[str, float | str] | Iterable[str]) -> Targets:
    """Targets from ``{"sparsity": 0.9}`` or ``["sparsity=0.9", "drop=0.5%"]``.

    Raises:
        OptionError: unknown name, no number, out of range, or targets that contradict each other.
    """
    amounts: dict[str, Amount] = {}
    for name, value in _pairs(given):
        if name not in TARGETS:
            raise OptionError(f"target {name!r} is unknown: use one of {', '.join(TARGETS)}")
        if name in amounts:
            raise OptionError(f"target {name} is given twice: give it once")
        amounts[name] = TARGETS[name].parse(name, value)
    targets = Targets(amounts)
    least = targets.least
    if least is not None and (others := amounts.keys() & costs().keys() - {least.name}):
        raise OptionError(
            f"target {least.name}=min goes as far as error and drop allow, target {min(others)} asks for "
            f"something else: give a {least.name}, or leave one of them out"
        )
    return targets


def _pairs(given: Mapping[str, float | str] | Iterable[str]) -> list[tuple[str, str]]:
    """Names and the texts of their values."""
    if isinstance(given, Mapping):
        return [(str(name), str(value)) for name, value in given.items()]
    found = []
    for text in given:
        name, sign, value = text.partition("=")
        if not sign:
            raise OptionError(f"target {text!r} is not KEY=VALUE, for example sparsity=0.9")
        found.append((name.strip(), value.strip()))
    return found
