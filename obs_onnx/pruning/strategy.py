"""What the ways of pruning have in common, as the pipeline sees them.

A :class:`Strategy` checks what is asked for and opens a :class:`Plan` of one model: what of it can go. With
calibration data the plan searches, and what it finds is :class:`Finished`: a model with its promises kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import onnx_ir as ir

from obs_onnx.allocation.amounts import Amount
from obs_onnx.allocation.targets import ERROR, Targets
from obs_onnx.passes.errors import OptionError, named
from obs_onnx.passes.interface.caches import Kept
from obs_onnx.passes.layers.layer import Frozen, Layer
from obs_onnx.passes.printable import first_of
from obs_onnx.pruning.calibrated import Calibrated
from obs_onnx.pruning.forecast.forecast import Forecast
from obs_onnx.pruning.inputs import Inputs
from obs_onnx.pruning.judgement import Attempt
from obs_onnx.pruning.options import DAMAGE, ModeOptions
from obs_onnx.pruning.recorder import Recorder
from obs_onnx.results.pruning import Agreement, BoundLike, GroupResult, LayerResult, Missed
from obs_onnx.training.loop import Trained
from obs_onnx.training.retraining import Retraining

__all__ = [
    "Finished",
    "Plan",
    "Strategy",
    "allocation_notes",
    "besides",
    "check_allocation",
    "refitted_alone",
    "with_default",
]

_LISTED = 5  # layers in a note

_DEFAULT_ERROR = Amount(0.05)

A_co = TypeVar("A_co", bound=Attempt, covariant=True)


@dataclass(frozen=True)
class Finished(Generic[A_co]):
    """A result whose promises were checked.

    Attributes:
        attempt: what it comes from.
        model: to be written.
        missed: targets that do not hold.
        copied: all was measured on a float32 copy of a bfloat16 model.
        latency_limit: share of the dense model's latency that is allowed, if there is such a target.
        layers, groups, bound, damping: for the report.
        keep: contents of ``keep.json``, where channels were removed.
        caches: what stays of the caches, where they changed: ``{input: {axis: kept indices}}``.
        runs: of retraining, one after each round.
        proof: outputs compared with those of the dense model, where channels were removed.
        notes, alerts: for the report.
    """

    attempt: A_co
    model: ir.Model
    missed: tuple[Missed, ...] = ()
    copied: bool = False
    latency_limit: float | None = None
    layers: tuple[LayerResult, ...] = ()
    groups: tuple[GroupResult, ...] = ()
    bound: BoundLike | None = None
    damping: float | None = None
    caches: Kept = field(default_factory=dict)
    keep: Mapping[str, object] | None = None
    runs: tuple[Trained, ...] = ()
    proof: Agreement | None = None
    notes: tuple[str, ...] = ()
    alerts: tuple[str, ...] = ()


class Plan(Protocol[A_co]):
    """What can be removed from one model, and how that is done."""

    @property
    def mode(self) -> str:
        """Name of the strategy."""

    @property
    def criterion(self) -> str:
        """Name of the one that chooses, where another was left to the program, too."""

    @property
    def model(self) -> ir.Model:
        """In the form that is calibrated."""

    @property
    def layers(self) -> Sequence[Layer]:
        """Layers of the model that may change."""

    @property
    def frozen(self) -> tuple[Frozen, ...]:
        """What is left alone."""

    @property
    def leaves_zeros(self) -> bool:
        """Whether what is removed still lies in the file, as zeros."""

    def forecast(self, calibrated: Calibrated, targets: Targets, rounds: int, recorder: Recorder) -> Forecast:
        """What a search will take.

        Args:
            calibrated, targets, rounds, recorder: see :meth:`search`.
        """

    def search(
        self,
        calibrated: Calibrated,
        targets: Targets,
        rounds: int,
        retraining: Retraining | None,
        recorder: Recorder,
    ) -> Finished[A_co]:
        """The model that satisfies the targets with the least damage, or the one that comes closest.

        Args:
            calibrated: the dense model and the data.
            targets: whose limits count.
            rounds: each one measures again around the model pruned so far.
            retraining: what follows each round, if anything.
            recorder: of the stages.

        Raises:
            VerificationError: a promise is broken.
        """

    def advice(self, before: int | None, after: int | None) -> Sequence[str]:
        """Notes for the reader, from the compressed sizes in bytes."""


class Strategy(Protocol[A_co]):
    """A way of pruning."""

    def checked(self, targets: Targets, options: ModeOptions) -> Targets:
        """The targets to go by, where none was given a limit that suits.

        Raises:
            OptionError: they or the options make no sense here.
        """

    def open(self, inputs: Inputs, options: ModeOptions) -> Plan[A_co]:
        """Find what can be removed.

        Raises:
            OptionError: nothing can.
        """


def with_default(targets: Targets) -> Targets:
    """The targets; where none says how far to go, with a limit on the output error."""
    return targets if targets.bounded else targets.also(ERROR, _DEFAULT_ERROR)


def check_allocation(options: ModeOptions, known: Iterable[str]) -> None:
    """Refuse an allocation by what is no criterion, and what makes sense only with one.

    Raises:
        OptionError: see above.
    """
    names = (DAMAGE, *known)
    if options.allocation not in names:
        raise OptionError(f"allocation {options.allocation!r} is unknown: use one of {', '.join(names)}")
    if options.allocation == DAMAGE:
        for name in ("normalize", "regularize"):
            if getattr(options, name):
                raise OptionError(
                    f"{named(name)} is about scores: give {named('allocation')} the name of a criterion"
                )


def allocation_notes(options: ModeOptions) -> list[str]:
    """What a reader has to know about an allocation by scores."""
    if options.allocation == DAMAGE:
        return []
    how = "normalised scores" if options.normalize or options.regularize else "scores"
    return [f"allocated by the {how} of {options.allocation}: damage was not measured"]


def refitted_alone(layers: Iterable[str]) -> list[str]:
    """What a reader has to know about layers that follow other lengths than in the dense model."""
    names = list(layers)
    if not names:
        return []
    return [
        f"what layers {first_of(names, _LISTED)} read has lengths that follow from the data, and "
        "others than in the dense model for some of it: they were refitted on what the dense model gives"
    ]


def besides(calibrated: Calibrated, options: ModeOptions, targets: Targets) -> list[str]:
    """What a search takes that is not forecast."""
    found = []
    if options.allocation != DAMAGE:
        found.append("scores")
    if targets.timed or calibrated.timing is not None:
        found.append("latencies")
    return found
