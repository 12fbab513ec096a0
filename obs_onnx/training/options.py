"""Options about retraining."""

from __future__ import annotations

from dataclasses import dataclass

from obs_onnx.option import Options, option
from obs_onnx.passes.errors import OptionError, named
from obs_onnx.training.engines.registry import DEFAULT, TRAINERS

__all__ = ["RetrainingOptions", "TrainingOptions"]

_NEEDS = [f"{name} needs obs-onnx[{one.extra}]" for name, one in TRAINERS.items() if one.extra]


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(Options, title="Training"):
    """How weights are trained."""

    mix: float = option(
        0.5,
        help="Share of the labels in the loss, where a teacher is learnt, too.",
        least=0,
        most=1,
    )
    optimizer: str | None = option(
        None,
        help="foof steps by the inverse Hessian of each layer.",
        otherwise=", ".join(
            one.optimizer if name == DEFAULT else f"of {name} {one.optimizer}"
            for name, one in TRAINERS.items()
        ),
        choices=("foof", "adamw", "adam", "sgd"),
    )
    lr: float | None = option(
        None,
        help="Largest learning rate.",
        more="It rises and falls once in all rounds together.",
        otherwise="0.001, of adam and adamw 0.0002",
        above=0,
        below=float("inf"),
    )
    trainer: str = option(
        DEFAULT,
        help=f"Engine; {', '.join(_NEEDS)}.",
        choices=TRAINERS,
    )
    augment: str = option("", help="Random views of images in training.", metavar="flip,crop[=N]")


@dataclass(frozen=True, kw_only=True)
class RetrainingOptions(TrainingOptions, title="Training"):
    """When a pruned model is retrained, and on what.

    Raises:
        OptionError: one of them is given without ``finetune``, too.
    """

    finetune: int = option(
        0,
        help="Updates after each round, taught by the dense model (and by labels, where they are named).",
        more="Zeros stay zeros.",
        least=0,
        metavar="STEPS",
        common=8,
    )
    finetune_last: int | None = option(
        None,
        help="Updates after the last round.",
        otherwise="as many as after the others",
        least=1,
        metavar="STEPS",
    )
    finetune_data: object = option(
        None,
        help="Data that retraining learns from, of which one sample of eight is held out.",
        otherwise="the calibration data",
        metavar="SRC",
        form="data",
    )
    train_batch: int = option(64, help="Samples per update.", least=1, metavar="N")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("finetune_last", "finetune_data"):
            if getattr(self, name) is not None and not self.finetune:
                raise OptionError(f"{named(name)} goes with {named('finetune')}: give that, too")
