"""Options about what is removed, how that is chosen, and how it is made up for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from obs_onnx.cluster.options import ClusterOptions
from obs_onnx.criteria.channels.registry import CRITERIA, DEFAULT
from obs_onnx.data.options import DataOptions, Seeded
from obs_onnx.devices.options import DeviceOptions
from obs_onnx.evaluation.measures.options import MeasureOptions
from obs_onnx.latency.options import CostOptions, LatencyOptions
from obs_onnx.option import Options, option
from obs_onnx.passes.errors import named
from obs_onnx.progress import Progress, ProgressLike, chosen
from obs_onnx.runtimes.options import RuntimeOptions
from obs_onnx.training.options import RetrainingOptions
from obs_onnx.work.options import WorkOptions

__all__ = [
    "DAMAGE",
    "ChangingCaches",
    "ChoiceOptions",
    "Damped",
    "EffortOptions",
    "Evaluated",
    "MeasuredAt",
    "Memory",
    "ModeOptions",
    "Protected",
    "Regularized",
    "RunOptions",
    "SearchOptions",
    "Shown",
    "SolverOptions",
]

DAMAGE = "damage"  # allocation by what removal does to the outputs, measured


@dataclass(frozen=True, kw_only=True)
class Protected(Options, title="Choice"):
    """What is left alone."""

    protect: Sequence[str] = option(
        (),
        help="Weights or nodes to leave alone, by name or shell pattern.",
        metavar="PATTERN",
    )


@dataclass(frozen=True, kw_only=True)
class ChangingCaches(Options, title="Choice"):
    """What of the interface may change."""

    change_caches: bool = option(
        False,
        help="Cut caches of keys and values, inputs and outputs, along with the heads.",
        more="Whoever runs the model has to make caches of the new sizes; see docs/transformers.md.",
        otherwise="heads that stand in a cache stay",
        mode="channels",
    )


@dataclass(frozen=True, kw_only=True)
class ChoiceOptions(ChangingCaches, Protected, title="Choice"):
    """What is removed."""

    criterion: str = option(
        "auto",
        help=f"What chooses: of channels auto ({DEFAULT}), {', '.join(CRITERIA)}; of weights auto, obs, "
        "admm, lobs, magnitude, random, taylor, fisher, obd, oba, oba-second, oba-paper.",
        metavar="NAME",
        common=7,
    )
    allocation: str = option(
        DAMAGE,
        help="What decides how much of each layer or group goes: measured damage, or a criterion's scores.",
        more="Scores of all layers or groups are compared per cost saved.",
        metavar="NAME",
    )
    round_to: int | None = option(
        None,
        help="Widths are multiples of it, or stay as they are.",
        otherwise="a power of two up to what suits the runtime, smaller in groups of few channels",
        least=1,
        metavar="N",
        mode="channels",
    )


@dataclass(frozen=True, kw_only=True)
class Regularized(Options, title="Choice"):
    """What scores are corrected by."""

    regularize: Mapping[str, float] | None = option(
        None,
        help="Normalised score taken off a channel: flops (per million), memory, bandwidth (per MB) or "
        "latency (per ms).",
        metavar="KEY=LAMBDA",
        mode="channels",
    )


@dataclass(frozen=True, kw_only=True)
class Damped(Options, title="Refit"):
    """How second moments are kept invertible."""

    damping: float = option(
        1e-2, help="Damping of the second moments, relative to their mean diagonal.", least=0
    )


@dataclass(frozen=True, kw_only=True)
class Memory(Options, title="Measuring"):
    """What a run may take of the machine."""

    memory: int | None = option(
        None,
        help="Bytes to work with, on the command line for example 2GB: samples are run in batches that fit, "
        "and what waits goes to files; the model and the moments of its layers come on top.",
        otherwise="1 GB, or half of what is free",
        above=0,
        metavar="SIZE",
        form="size",
    )


@dataclass(frozen=True, kw_only=True)
class SolverOptions(Damped, title="Refit"):
    """How what stays makes up for what goes."""

    compensate: bool = option(True, help="Refit the kept weights (and biases).")
    sequential: bool = option(
        True,
        help="Correct each layer for those before it.",
        more="It is refitted to the dense model's outputs on what the pruned layers before really give.",
    )


@dataclass(frozen=True, kw_only=True)
class ModeOptions(Seeded, ChoiceOptions, Regularized, SolverOptions, title="Choice"):
    """All that a mode of pruning can be told."""

    pattern: str | None = option(
        None,
        help="N:M or RxC along the input channels, for example 2:4 or 1x4.",
        otherwise="single weights",
        metavar="PATTERN",
        mode="weights",
    )
    rotate: bool = option(
        True,
        help="Turn streams that only linear operators and norms touch to their principal axes first.",
        more="In mode channels, where that loses less; keep.json then holds their matrices.",
    )
    low_rank: bool = option(
        False,
        help="Let layers become products of two layers, of lower rank, where that costs less.",
        more="Takes about twice as long; keep.json cannot be replayed where it did.",
        mode="channels",
    )
    normalize: bool = option(
        False,
        help=f"Divide the scores of {named('allocation')} by their norm in each layer or group, and cut at "
        "one threshold.",
        more="As in the papers: what is lowest goes, whatever it saves.",
    )
    correct: bool | None = option(
        None,
        help="Match output statistics, where that lowers the held-out error.",
        otherwise=f"only without {named('sequential')}, which leaves next to nothing to correct",
        title="Refit",
        mode="weights",
    )
    refine: bool = option(
        True,
        help="Correct all weights together towards the dense model's outputs at last.",
        more="Damped Gauss-Newton steps, kept where the error on held-out data falls; quick takes none.",
        title="Refit",
    )
    layer_sparsity: Mapping[str, float] | None = option(
        None,
        help="Sparsity of matching layers, for which allocation may not choose.",
        metavar="PATTERN=SHARE",
        former=("layer",),
        mode="weights",
    )


@dataclass(frozen=True, kw_only=True)
class EffortOptions(Memory, title="Measuring"):
    """How much is measured."""

    effort: str = option(
        "normal", help="How much is measured.", choices=("quick", "normal", "thorough"), common=10
    )
    loss: str = option(
        "auto",
        help="Damage that allocation minimises; auto: kl for class scores, else error.",
        choices=("auto", "kl", "error"),
    )


@dataclass(frozen=True, kw_only=True)
class Shown(Options, title="Output"):
    """What is shown of a run."""

    progress: ProgressLike = option(
        False,
        help="True shows bars, 'auto' does on a terminal alone; see obs_onnx.progress.",
        flags="",
        recorded=False,
    )

    @property
    def shown(self) -> Progress:
        """What shows progress."""
        return chosen(self.progress)


@dataclass(frozen=True, kw_only=True)
class MeasuredAt(Options, title="Measuring"):
    """Where a model is measured."""

    cut: Sequence[str] = option(
        (),
        help="Value at which quality is measured; what follows from it is put back as it was.",
        more="An output of the model is measured there. See docs/targets.md.",
        otherwise="in front of the decisions in which a model ends",
        metavar="TENSOR",
    )


@dataclass(frozen=True, kw_only=True)
class Evaluated(Options, title="Data"):
    """What the quality is measured on."""

    eval: object = option(
        None,
        help="Labelled data for the accuracy, or data for a metric.",
        otherwise="the held-out calibration data, if it has labels",
        metavar="SRC",
        form="data",
        former=("evaluation",),
        common=4,
    )


@dataclass(frozen=True, kw_only=True)
class SearchOptions(
    DataOptions,
    Evaluated,
    MeasuredAt,
    ChoiceOptions,
    SolverOptions,
    EffortOptions,
    MeasureOptions,
    RuntimeOptions,
    LatencyOptions,
    WorkOptions,
    ClusterOptions,
    Shown,
    title="Data",
):
    """What every search for a smaller model can be told."""


@dataclass(frozen=True, kw_only=True)
class RunOptions(SearchOptions, DeviceOptions, CostOptions, ModeOptions, RetrainingOptions, title="Choice"):
    """What a search for one smaller model can be told, whatever its mode."""
