"""The result of a pruning run, as frozen dataclasses and as strictly valid JSON.

Errors are relative Frobenius norms, shares lie in [0, 1], times are seconds except latencies (milliseconds),
sizes are bytes. A figure that was not measured is None, and so is one that is not finite.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from obs_onnx.io.json_file import jsonable

if TYPE_CHECKING:
    from obs_onnx.meter import StageCost
from obs_onnx.passes.layers.layer import Frozen
from obs_onnx.results import benchmark
from obs_onnx.results.samples import ChangedSample

__all__ = [
    "SCHEMA",
    "Agreement",
    "BoundLike",
    "Combination",
    "CurvePoint",
    "Figures",
    "GroupResult",
    "Latency",
    "LayerResult",
    "Missed",
    "PartError",
    "Report",
    "plain",
]

SCHEMA = 1


class BoundLike(Protocol):
    """What the report needs of :class:`obs_onnx.verification.error_bound.Bound`."""

    @property
    def frobenius(self) -> float | None:
        """Bound of the relative output error from Frobenius norms, or None where there is none."""

    @property
    def spectral(self) -> float | None:
        """The same from spectral norms."""

    @property
    def blocked_by(self) -> Sequence[tuple[str, str]]:
        """(node, op_type) of the operators without a Lipschitz constant."""


@dataclass(frozen=True)
class Latency:
    """Quantiles of ``runs`` timed runs, in milliseconds."""

    median: float
    p10: float
    p90: float
    runs: int

    @classmethod
    def of(cls, timed: benchmark.Latency, samples: int = 1) -> Latency:
        """What was timed, for each of the samples of a run."""
        return cls(timed.median / samples, timed.p10 / samples, timed.p90 / samples, timed.runs)


@dataclass(frozen=True)
class Figures:
    """One model, measured.

    Attributes:
        parameters, nonzero: elements of all floating-point initializers, and those that are not zero.
        macs: multiply-accumulates of one run, or None if the shapes are unknown.
        peak_activation_bytes: most memory that the activations of one sample take at once.
        file_bytes: of the model and its external data.
        compressed_bytes: of the same files after deflate (zip).
        latency_ms, runtime: latency of one run, and where it was measured.
        accuracy: top-1 share on labelled evaluation data.
        metric: what :attr:`Report.metric` names, on the same data, where it is not the accuracy.
        weight_bits: mean bits of a parameter.
        integer_macs: share of the multiply-accumulates whose factors are both made of integers.
    """

    parameters: int
    nonzero: int
    macs: int | None
    file_bytes: int | None
    compressed_bytes: int | None = None
    latency_ms: Latency | None = None
    runtime: str | None = None
    accuracy: float | None = None
    metric: float | None = None
    peak_activation_bytes: int | None = None
    weight_bits: float | None = None
    integer_macs: float | None = None


@dataclass(frozen=True)
class Combination:
    """One of the dense and the pruned model in float and in integers, measured.

    Attributes:
        model: which one.
        file_bytes: of its file.
        accuracy: top-1 share on labelled evaluation data.
        output_error, agreement: against the dense float model, on held-out calibration data.
        latency_ms: of one run.
        metric: what :attr:`Report.metric` names, on the same data as the accuracy, where it is not it.
    """

    model: str
    file_bytes: int
    accuracy: float | None = None
    output_error: float | None = None
    agreement: float | None = None
    latency_ms: Latency | None = None
    metric: float | None = None


@dataclass(frozen=True)
class PartError:
    """The error of a part.

    Attributes:
        name, output, node, basis, scale, weight: see :class:`obs_onnx.evaluation.measures.parts.Part`.
        error: relative to its scale, see :mod:`obs_onnx.evaluation.measures.parts`.
        norm: Euclidean norm of a change of all its numbers on the data that has an error of 1, weight
            included.
    """

    name: str
    output: str
    node: str
    basis: str
    scale: float
    weight: float
    error: float
    norm: float

    @property
    def weighted(self) -> float:
        """What targets limit."""
        return 0.0 if self.weight == 0 else self.weight * self.error


@dataclass(frozen=True)
class CurvePoint:
    """What is left of a layer or a group, as a share, and the damage measured with it."""

    kept: float
    damage: float


@dataclass(frozen=True)
class LayerResult:
    """What happened to one layer.

    Attributes:
        name: of the weight's initializer.
        shape, weights: of the stored weight, and its number of elements.
        kept: share of the weights that are not zero.
        predicted_error: relative error of the layer's output that the solver's quadratic model expects.
        measured_error: relative error of the layer's output, measured on held-out data.
        method: solver that chose the mask.
        damping: relative damping that the solver ended with.
        widths, kept_widths: channels in and out, before and after; None where nothing says it.
        reads, writes: groups whose channels go in and come out.
        curve: damage measured while only this layer lost weights.
    """

    name: str
    op_type: str
    shape: tuple[int, ...]
    weights: int
    kept: float
    predicted_error: float | None = None
    measured_error: float | None = None
    method: str | None = None
    damping: float | None = None
    widths: tuple[int, int] | None = None
    kept_widths: tuple[int, int] | None = None
    reads: str | None = None
    writes: str | None = None
    curve: tuple[CurvePoint, ...] = ()

    @property
    def sparsity(self) -> float:
        """Share of the weights that are zero."""
        return 1.0 - self.kept


@dataclass(frozen=True)
class GroupResult:
    """What happened to one group of coupled channels.

    Attributes:
        name: of the first initializer and axis it stands in.
        channels, kept: number of channels before and after.
        tensors: how many initializer axes it stands in.
        expected_damage: what removing its channels alone did to the outputs, in the measure of allocation.
        curve: that damage with other numbers of channels kept, as it was measured.
        stays: which channels stay, counted from 0.
    """

    name: str
    channels: int
    kept: int
    tensors: int
    expected_damage: float | None = None
    curve: tuple[CurvePoint, ...] = ()
    stays: tuple[int, ...] = ()


@dataclass(frozen=True)
class Missed:
    """A target that does not hold; amounts are in the unit that it was given in.

    Attributes:
        target: its name.
        wanted, reached: amounts.
        possible: the best amount that was found possible under all that was asked for, if that is known.
        advice: what else to ask for.
    """

    target: str
    wanted: float | str
    reached: float | str
    possible: float | str | None = None
    advice: str = ""

    def __str__(self) -> str:
        best = "" if self.possible is None else f", the least possible is {plain(self.possible)}"
        told = f"{self.target}={plain(self.wanted)} is missed: {plain(self.reached)} was reached{best}"
        return f"{told}; {self.advice}" if self.advice else told


def plain(amount: float | str) -> str:
    """An amount; shares to four digits, rounded up so that they may be asked for."""
    if isinstance(amount, str):
        return amount
    if not 0 < amount < 1:
        return f"{amount:.10g}"
    digit = 10.0 ** (math.floor(math.log10(amount)) - 3)
    return f"{math.ceil(amount / digit * (1 - 1e-9)) * digit:.4g}"


@dataclass(frozen=True)
class Agreement:
    """How far a model without channels agrees with the dense one in which they are silenced.

    Attributes:
        tolerance: largest relative difference that is allowed.
        differences: of each output that was compared, relative to the dense model's (Frobenius norms); 0 of
            integers, which are equal.
        fed: outputs that were compared with the decisions and random numbers of the silenced model in both.
        left_out: outputs that could not be compared, with the reason.
        random: nodes that draw numbers.
        unfused: the runtime computed operator by operator in both: what it makes of several rounds otherwise
            with other widths.
    """

    tolerance: float
    differences: Mapping[str, float]
    fed: tuple[str, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    random: tuple[str, ...] = ()
    unfused: bool = False

    @property
    def largest(self) -> float | None:
        """Largest difference of those outputs that were compared; None where there are none."""
        return max(self.differences.values(), default=None)


@dataclass(frozen=True)
class Report:
    """Everything that a run did and measured.

    Attributes:
        model, output: files; ``output`` is None for a dry run.
        targets, met: what was asked for (``{"sparsity": 0.9}``), and whether all of it holds.
        output_error: largest error of a part of the outputs on held-out calibration data, times its weight.
        parts: all of them, the worst first; see :mod:`obs_onnx.evaluation.measures.parts`.
        task: what the outputs were taken for; None where nothing said it.
        agreement: share of held-out samples (or pixels, or tokens) with the same top-1 class.
        measures: others of the task, by name, on held-out calibration data.
        metric: name of the figure on labelled data that stands in ``before`` and ``after``.
        missed: targets that do not hold, with what was reached and what is possible.
        reached: what was reached of every target, in the unit that it was given in, where it was measured.
        finetune: steps of retraining, and loss (and accuracy) on held-out data before and after it: of the
            last round, and of each in ``rounds``.
        quantized: file of the pruned model in integers.
        combinations: dense and pruned model, in float and in integers.
        seconds: wall-clock time of every stage that is shown.
        stages: what each kind of work took in all, without what others took inside of it.
        forecast: what the search was expected to take, before it began, likewise; runs are not told.
        options: what was asked for, where it is not the default.
        environment: the runtime, its machine, versions, date and the model's check sum.
        command: the command line of the run, if it had one.
        proof: outputs compared with those of the dense model without the effect of removed channels.
        caches: shapes of the caches that go in and come out, where they were allowed to change.
        notes: advice for the reader.
        alerts: what a reader must not overlook.
        failures: what failed once the result was found and written, each with its reason; the file is right.
        changed: some held-out samples that are put into another class.
    """

    model: str
    output: str | None
    mode: str
    criterion: str
    targets: Mapping[str, float | str]
    met: bool
    before: Figures
    after: Figures
    output_error: float | None = None
    parts: tuple[PartError, ...] = ()
    task: str | None = None
    agreement: float | None = None
    measures: Mapping[str, float] = field(default_factory=dict)
    metric: str | None = None
    bound: BoundLike | None = None
    layers: tuple[LayerResult, ...] = ()
    groups: tuple[GroupResult, ...] = ()
    frozen: tuple[Frozen, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    stages: tuple[StageCost, ...] = ()
    forecast: tuple[StageCost, ...] = ()
    method: str | None = None
    pattern: str | None = None
    damping: float | None = None
    finetune: Mapping[str, object] | None = None
    quantized: str | None = None
    combinations: tuple[Combination, ...] = ()
    seed: int | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, object] = field(default_factory=dict)
    command: str | None = None
    missed: tuple[Missed, ...] = ()
    reached: Mapping[str, float | str] = field(default_factory=dict)
    proof: Agreement | None = None
    caches: Mapping[str, Sequence[int | str | None]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    alerts: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()
    changed: tuple[ChangedSample, ...] = ()
    schema: int = SCHEMA

    @property
    def is_dry(self) -> bool:
        """Whether the run stopped before anything was pruned."""
        return self.output is None and not self.groups and not self.layers

    def to_json(self) -> dict[str, object]:
        """Plain dicts, lists, strings, finite numbers, booleans and None, ready for :func:`json.dumps`."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        bound = None
        if self.bound is not None:
            blockers = [{"node": node, "op_type": op_type} for node, op_type in self.bound.blocked_by]
            bound = {
                "frobenius": self.bound.frobenius,
                "spectral": self.bound.spectral,
                "blocked_by": blockers,
            }
        fields["bound"] = bound
        fields["proof"] = None if self.proof is None else dataclasses.asdict(self.proof)
        fields["layers"] = [dataclasses.asdict(layer) | {"sparsity": layer.sparsity} for layer in self.layers]
        fields["changed"] = [one.to_json() for one in self.changed]
        plain = jsonable({"schema": fields.pop("schema"), **fields})
        assert isinstance(plain, dict)
        return plain
