"""How to train: what the user may choose, checked."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from obs_onnx.passes.autodiff.optimizers import OPTIMIZERS, Optimizer
from obs_onnx.passes.errors import OptionError
from obs_onnx.training.augment import parse_augment
from obs_onnx.training.engines.registry import DEFAULT, TRAINERS
from obs_onnx.training.schedule import Schedule

__all__ = ["RATES", "Settings", "choose_optimizer"]

RATES = {"sgd": 1e-3, "adam": 2e-4, "adamw": 2e-4, "foof": 1e-3}


def choose_optimizer(optimizer: str | None, trainer: str) -> str:
    """``optimizer``, or where that is None the best one of the engine.

    Raises:
        OptionError: no such engine.
    """
    _check_trainer(trainer)
    return optimizer or TRAINERS[trainer].optimizer


def _check_trainer(name: str) -> None:
    if name not in TRAINERS:
        raise OptionError(f"trainer {name!r} is unknown: use {' or '.join(TRAINERS)}")


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
        if self.optimizer not in OPTIMIZERS:
            raise OptionError(f"optimizer {self.optimizer!r} is unknown: use {', '.join(OPTIMIZERS)}")
        _check_trainer(self.trainer)
        parse_augment(self.augment)
        for name, least in (("steps", 1), ("batch", 1), ("warmup", 0), ("evaluations", 1), ("patience", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise OptionError(f"{name} {value}: use at least {least}")
        if not 0 <= self.momentum < 1:
            raise OptionError(f"momentum {self.momentum}: give a number from 0 to below 1")
        if self.rate is not None and not 0 < self.rate < math.inf:
            raise OptionError(f"learning rate {self.rate}: give a positive number")
        if self.decay is not None and not 0 <= self.decay < math.inf:
            raise OptionError(f"weight decay {self.decay}: give 0 or more")

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
