"""How to train, once all choices are made; what may be chosen is in :mod:`obs_onnx.training.options`."""

from __future__ import annotations

from dataclasses import dataclass, fields

from obs_onnx.passes.autodiff.optimizers import OPTIMIZERS, Optimizer
from obs_onnx.training.augment import parse_augment
from obs_onnx.training.engines.registry import DEFAULT, TRAINERS
from obs_onnx.training.schedule import Schedule

__all__ = ["RATES", "Settings", "choose_optimizer"]

RATES = {"sgd": 1e-3, "adam": 2e-4, "adamw": 2e-4, "foof": 1e-3}


def choose_optimizer(optimizer: str | None, trainer: str) -> str:
    """``optimizer``, or where that is None the best one of the engine."""
    return optimizer or TRAINERS[trainer].optimizer


@dataclass(frozen=True)
class Settings:
    """How to train.

    Attributes:
        steps: updates.
        batch: samples of one.
        optimizer: a name in :data:`obs_onnx.passes.autodiff.optimizers.OPTIMIZERS`.
        rate: largest learning rate; None for that of the optimizer in :data:`RATES`.
        warmup: steps in which it rises; None for a tenth of the steps, 100 at most.
        momentum: of SGD and FOOF.
        decay: of weights with two axes or more; None for 1e-2 with AdamW, else 0.
        seed: of the order of the samples.
        evaluations: how often the held-out loss is measured.
        patience: evaluations without a better one after which training stops; None to go on, because most
            of the improvement comes while the rate falls.
        trainer: the engine, a name in :data:`obs_onnx.training.engines.registry.TRAINERS`.
        augment: random views of images, such as ``flip,crop``; see :mod:`obs_onnx.training.augment`.
    """

    steps: int
    batch: int = 64
    optimizer: str = "adamw"
    rate: float | None = None
    warmup: int | None = None
    momentum: float = 0.9
    decay: float | None = None
    seed: int = 0
    evaluations: int = 20
    patience: int | None = None
    trainer: str = DEFAULT
    augment: str = ""

    def __post_init__(self) -> None:
        parse_augment(self.augment)

    def rule(self) -> Optimizer:
        """The optimizer."""
        kind = OPTIMIZERS[self.optimizer]
        options = {} if self.decay is None else {"decay": self.decay}
        if any(field.name == "momentum" for field in fields(kind)):
            options["momentum"] = self.momentum
        return kind(**options)

    def schedule(self) -> Schedule:
        """The learning rate over time."""
        warmup = min(self.steps // 10, 100) if self.warmup is None else min(self.warmup, self.steps)
        return Schedule(RATES[self.optimizer] if self.rate is None else self.rate, self.steps, warmup)
