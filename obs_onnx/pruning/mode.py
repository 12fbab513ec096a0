"""What the two modes of pruning have in common, as the pipeline sees it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import onnx_ir as ir

from obs_onnx.allocation.targets import Targets
from obs_onnx.passes.errors import OptionError, named
from obs_onnx.passes.layers.layer import Frozen
from obs_onnx.pruning.context import PruningContext
from obs_onnx.pruning.options import DAMAGE, ModeOptions
from obs_onnx.results.pruning import BoundLike, GroupResult, LayerResult
from obs_onnx.runtimes import Runtime
from obs_onnx.training.loop import Trained

__all__ = ["Finished", "Mode", "Opened", "allocation_notes", "check_allocation"]


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


@dataclass(frozen=True)
class Finished:
    """A result, checked.

    Attributes:
        model: to be written.
        met: whether all targets hold.
        copied: all was measured on a float32 copy of a bfloat16 model.
        layers, groups, bound, damping: for the report.
        keep: contents of ``keep.json``, where channels were removed.
        training: what retraining did.
        notes: for the report.
    """

    model: ir.Model
    met: bool
    copied: bool = False
    layers: tuple[LayerResult, ...] = ()
    groups: tuple[GroupResult, ...] = ()
    bound: BoundLike | None = None
    damping: float | None = None
    keep: Mapping[str, object] | None = None
    training: Trained | None = None
    notes: tuple[str, ...] = field(default=())


class Mode(Protocol):
    """A way of pruning; made from the targets and options, which it checks.

    Attributes:
        name: of the mode.
        bound_by_default: whether the default target applies when none is given.
        leaves_zeros: whether what is removed still lies in the file, as zeros.
        model: in the form that is calibrated; known once opened.
        frozen: what is left alone.
    """

    name: str
    bound_by_default: bool
    leaves_zeros: bool
    model: ir.Model
    frozen: tuple[Frozen, ...]

    def open(self, opened: Opened) -> None:
        """Find what can be removed.

        Raises:
            OptionError: nothing can.
        """

    def study(self, shared: Mapping[str, Any], wanted: Targets) -> Any:
        """Everything that trials share, of which ``shared`` are the fields of :class:`PruningContext`."""

    def cost_note(self, study: PruningContext) -> str | None:
        """What measuring will cost."""

    def finish(self, study: Any, best: Any, wanted: Targets) -> Finished:
        """Check the promises.

        Raises:
            VerificationError: one is broken.
        """

    def advice(self, before: int | None, after: int | None) -> Sequence[str]:
        """Notes for the reader, from the compressed sizes in bytes."""

    def runnable(self, model: ir.Model) -> ir.Model:
        """A written model, in the form that the runtime takes."""


@dataclass(frozen=True)
class Opened:
    """A model as it came in.

    Attributes:
        model: not changed.
        name: for people.
        path: its file, or None.
        runtime: where it will be calibrated.
    """

    model: ir.Model
    name: str
    path: Path | None
    runtime: Runtime
