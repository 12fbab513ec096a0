"""Updates of weights by their gradients, as plain operators: SGD with momentum, Adam, AdamW, FOOF.

With gradient g, learning rate r and step t = 1, 2, ...:

* SGD: ``m' = mu m + g``, ``w' = w - r m'`` (Polyak 1964, without dampening);
* Adam (Kingma and Ba 2015, algorithm 1): ``m' = b1 m + (1 - b1) g``, ``v' = b2 v + (1 - b2) g^2``,
  ``w' = w - r (m' / (1 - b1^t)) / (sqrt(v' / (1 - b2^t)) + eps)``;
* AdamW (Loshchilov and Hutter 2019, algorithm 2): the same on ``(1 - r decay) w`` in place of w;
* FOOF (Benzing, ICML 2022, PMLR 162): ``m' = mu m + g``, ``u = m' H^-1`` with the second moments
  H of the inputs of w's layer, the Hessian of L-OBS: what moves the *outputs* of the layer along their
  gradient. The step has a fixed length, ``w' = w - r |w0| u / |u|`` with ``|u|^2 = <u H, u>``: it changes
  the outputs by the share r of their size, in every layer, however the weights are scaled (You et al. 2020
  divide so by the length in the space of the weights). Decay as in AdamW.

SGD and Adam add ``decay w`` to g. The moments of Adam are stored divided by 1 - b1 and 1 - b2: every
elementwise operator saved is one pass less over all weights. The factors go into two scalars,

    w' = w - a m / (sqrt(v) + e),   a = r (1 - b1) / (1 - b1^t) / c,   e = eps / c,
    c = sqrt((1 - b2) / (1 - b2^t))

which are inputs of the graph, as is everything else that changes from step to step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.passes.graph.emitter import Emitter
from obs_onnx.passes.traits.linear import WeightLayout

__all__ = ["FOOF", "OPTIMIZERS", "SGD", "Adam", "AdamW", "Metric", "Optimizer"]

Values = Mapping[str, ir.Value]

_LEAST = 1e-12  # length of a direction; shorter ones are no steps of full length any more


@dataclass(frozen=True)
class Metric:
    """What steps of a weight are measured by: how far they move the outputs of its layer.

    Attributes:
        norm: of the weight before training.
        inverses: (G, C, C) for each run of C columns of ``w_GOI``, the inverse of their second moments; none
            where H is the identity.
        layout: of the weight, where there are inverses.
    """

    norm: float = 1.0
    inverses: tuple[NDArray[Any], ...] = ()
    layout: WeightLayout | None = None

    def solve(self, e: Emitter, g: ir.Value, inverses: Sequence[ir.Value]) -> ir.Value:
        """``g H^-1``, in the shape of the weight; ``inverses`` are the graph's."""
        if self.layout is None:
            return g
        split, perm = self.layout.split, self.layout.perm
        g_GOI = e.reshape(e.transpose(e.reshape(g, split), perm), self.layout.goi)
        parts, first = [], 0
        for array, inverse in zip(self.inverses, inverses, strict=True):
            end = first + array.shape[1]
            part = g_GOI if len(inverses) == 1 else e.slice(g_GOI, [first], [end], [2])
            parts.append(e.op("MatMul", part, inverse))
            first = end
        u_GOI = parts[0] if len(parts) == 1 else e.op("Concat", *parts, axis=2)
        u = e.transpose(e.reshape(u_GOI, [split[axis] for axis in perm]), [int(i) for i in np.argsort(perm)])
        return e.reshape(u, self.layout.shape)


Space = tuple[Metric, Sequence[ir.Value]]
"""A metric and its inverses as the graph has them."""


class Optimizer(Protocol):
    """A rule for one weight.

    Attributes:
        slots: names of the tensors, of the weight's shape and zero at first, that it carries along.
        scalars: names of the numbers that it needs at every step.
        mixes: whether a weight moves by the gradients of others, too, as its :class:`Metric` says.
    """

    slots: ClassVar[tuple[str, ...]]
    scalars: ClassVar[tuple[str, ...]]
    mixes: ClassVar[bool]

    def numbers(self, step: int, rate: float) -> dict[str, float]:
        """The scalars at ``step`` (counted from 1) and a learning rate."""

    def update(
        self, e: Emitter, w: ir.Value, g: ir.Value, slots: Values, scalars: Values, decays: bool, space: Space
    ) -> tuple[ir.Value, dict[str, ir.Value]]:
        """The new weight and slots; ``decays`` says whether weight decay applies."""


@dataclass(frozen=True)
class SGD:
    """Gradient descent with momentum."""

    momentum: float = 0.9
    decay: float = 0.0
    slots: ClassVar[tuple[str, ...]] = ("momentum",)
    scalars: ClassVar[tuple[str, ...]] = ("rate",)
    mixes: ClassVar[bool] = False

    def numbers(self, step: int, rate: float) -> dict[str, float]:
        """See :class:`Optimizer`."""
        return {"rate": rate}

    def update(
        self, e: Emitter, w: ir.Value, g: ir.Value, slots: Values, scalars: Values, decays: bool, space: Space
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
    mixes: ClassVar[bool] = False

    def numbers(self, step: int, rate: float) -> dict[str, float]:
        """See :class:`Optimizer`."""
        c = math.sqrt((1 - self.b2) / (1 - self.b2**step))
        return {"rate": rate * (1 - self.b1) / (1 - self.b1**step) / c, "epsilon": self.eps / c}

    def update(
        self, e: Emitter, w: ir.Value, g: ir.Value, slots: Values, scalars: Values, decays: bool, space: Space
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
        self, e: Emitter, w: ir.Value, g: ir.Value, slots: Values, scalars: Values, decays: bool, space: Space
    ) -> tuple[ir.Value, dict[str, ir.Value]]:
        """See :class:`Optimizer`."""
        return self._moved(e, e.mul(w, scalars["keep"]) if decays else w, g, slots, scalars)


@dataclass(frozen=True)
class FOOF:
    """Steepest descent of the layers' outputs, with momentum."""

    momentum: float = 0.9
    decay: float = 0.0
    slots: ClassVar[tuple[str, ...]] = ("momentum",)
    scalars: ClassVar[tuple[str, ...]] = ("rate", "keep")
    mixes: ClassVar[bool] = True

    def numbers(self, step: int, rate: float) -> dict[str, float]:
        """See :class:`Optimizer`."""
        return {"rate": rate, "keep": 1 - rate * self.decay}

    def update(
        self, e: Emitter, w: ir.Value, g: ir.Value, slots: Values, scalars: Values, decays: bool, space: Space
    ) -> tuple[ir.Value, dict[str, ir.Value]]:
        """See :class:`Optimizer`."""
        metric, inverses = space
        m = e.add(e.mul(slots["momentum"], self.momentum), g)
        u = metric.solve(e, m, inverses)
        length = e.op("Sqrt", e.sum(e.mul(u, m)))
        rate = e.div(e.mul(scalars["rate"], metric.norm), e.add(length, _LEAST))
        kept = e.mul(w, scalars["keep"]) if decays else w
        return e.sub(kept, e.mul(u, rate)), {"momentum": m}


OPTIMIZERS: dict[str, type[SGD] | type[Adam] | type[FOOF]] = {
    "sgd": SGD,
    "adam": Adam,
    "adamw": AdamW,
    "foof": FOOF,
}
