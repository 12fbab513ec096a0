"""Updates of weights by their gradients, as plain operators: SGD with momentum, Adam, AdamW.

With gradient g, learning rate r and step t = 1, 2, ...:

* SGD: ``m' = mu m + g``, ``w' = w - r m'`` (Polyak 1964, without dampening);
* Adam (Kingma and Ba 2015, algorithm 1): ``m' = b1 m + (1 - b1) g``, ``v' = b2 v + (1 - b2) g^2``,
  ``w' = w - r (m' / (1 - b1^t)) / (sqrt(v' / (1 - b2^t)) + eps)``;
* AdamW (Loshchilov and Hutter 2019, algorithm 2): the same on ``(1 - r decay) w`` in place of w.

SGD and Adam add ``decay w`` to g. The moments of Adam are stored divided by 1 - b1 and 1 - b2: every
elementwise operator saved is one pass less over all weights. The factors go into two scalars,

    w' = w - a m / (sqrt(v) + e),   a = r (1 - b1) / (1 - b1^t) / c,   e = eps / c,
    c = sqrt((1 - b2) / (1 - b2^t))

which are inputs of the graph, as is everything else that changes from step to step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

import onnx_ir as ir

from obs_onnx.passes.emitter import Emitter

__all__ = ["OPTIMIZERS", "SGD", "Adam", "AdamW", "Optimizer"]

Values = Mapping[str, ir.Value]


class Optimizer(Protocol):
    """A rule for one weight.

    Attributes:
        slots: names of the tensors, of the weight's shape and zero at first, that it carries along.
        scalars: names of the numbers that it needs at every step.
    """

    slots: ClassVar[tuple[str, ...]]
    scalars: ClassVar[tuple[str, ...]]

    def numbers(self, step: int, rate: float) -> dict[str, float]:
        """The scalars at ``step`` (counted from 1) and a learning rate."""

    def update(
        self, e: Emitter, w: ir.Value, g: ir.Value, slots: Values, scalars: Values, decays: bool
    ) -> tuple[ir.Value, dict[str, ir.Value]]:
        """The new weight and slots; ``decays`` says whether weight decay applies."""


@dataclass(frozen=True)
class SGD:
    """Gradient descent with momentum."""

    momentum: float = 0.9
    decay: float = 0.0
    slots: ClassVar[tuple[str, ...]] = ("momentum",)
    scalars: ClassVar[tuple[str, ...]] = ("rate",)

    def numbers(self, step: int, rate: float) -> dict[str, float]:
        """See :class:`Optimizer`."""
        return {"rate": rate}

    def update(
        self, e: Emitter, w: ir.Value, g: ir.Value, slots: Values, scalars: Values, decays: bool
    ) -> tuple[ir.Value, dict[str, ir.Value]]:
        """See :class:`Optimizer`."""
        if self.decay and decays:
            g = e.add(g, e.mul(w, self.decay))
        m = e.add(e.mul(slots["momentum"], self.momentum), g)
        return e.sub(w, e.mul(m, scalars["rate"])), {"momentum": m}


@dataclass(frozen=True)
class Adam:
    """Adam; ``decay`` adds to the gradient."""

    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    decay: float = 0.0
    slots: ClassVar[tuple[str, ...]] = ("mean", "square")
    scalars: ClassVar[tuple[str, ...]] = ("rate", "epsilon")

    def numbers(self, step: int, rate: float) -> dict[str, float]:
        """See :class:`Optimizer`."""
        c = math.sqrt((1 - self.b2) / (1 - self.b2**step))
        return {"rate": rate * (1 - self.b1) / (1 - self.b1**step) / c, "epsilon": self.eps / c}

    def update(
        self, e: Emitter, w: ir.Value, g: ir.Value, slots: Values, scalars: Values, decays: bool
    ) -> tuple[ir.Value, dict[str, ir.Value]]:
        """See :class:`Optimizer`."""
        if self.decay and decays:
            g = e.add(g, e.mul(w, self.decay))
        return self._moved(e, w, g, slots, scalars)

    def _moved(
        self, e: Emitter, w: ir.Value, g: ir.Value, slots: Values, scalars: Values
    ) -> tuple[ir.Value, dict[str, ir.Value]]:
        m = e.add(e.mul(slots["mean"], self.b1), g)
        v = e.add(e.mul(slots["square"], self.b2), e.mul(g, g))
        ratio = e.div(m, e.add(e.op("Sqrt", v), scalars["epsilon"]))
        return e.sub(w, e.mul(ratio, scalars["rate"])), {"mean": m, "square": v}


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay."""

    decay: float = 1e-2
    scalars: ClassVar[tuple[str, ...]] = ("rate", "epsilon", "keep")

    def numbers(self, step: int, rate: float) -> dict[str, float]:
        """See :class:`Optimizer`."""
        return {**super().numbers(step, rate), "keep": 1 - rate * self.decay}

    def update(
        self, e: Emitter, w: ir.Value, g: ir.Value, slots: Values, scalars: Values, decays: bool
    ) -> tuple[ir.Value, dict[str, ir.Value]]:
        """See :class:`Optimizer`."""
        return self._moved(e, e.mul(w, scalars["keep"]) if decays else w, g, slots, scalars)


OPTIMIZERS: dict[str, type[SGD] | type[Adam]] = {"sgd": SGD, "adam": Adam, "adamw": AdamW}
