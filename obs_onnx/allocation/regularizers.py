"""Costs that regularise a criterion (Molchanov et al. 2017, arXiv 1611.06440, section 2.2).

    score - sum over costs of lambda times what one channel costs

``flops`` are in millions (two for each multiply-accumulate), ``memory`` and ``bandwidth`` in megabytes
(:mod:`obs_onnx.passes.costs.traffic`), ``latency`` in milliseconds. A channel costs what the dense model
saves without it; of a group that goes in steps of several channels, the mean over the first step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from obs_onnx.allocation.channels import Quantum, admissible
from obs_onnx.passes.channels.coupling import Coupling, Group
from obs_onnx.passes.costs.model_costs import Cost, Costs
from obs_onnx.passes.costs.traffic import Traffic
from obs_onnx.passes.errors import OptionError, named

__all__ = [
    "REGULARIZERS",
    "Dense",
    "Regularizer",
    "Scaled",
    "check_regularizers",
    "penalties",
    "regularizers",
]

_MILLION = 1e6


@dataclass(frozen=True)
class Scaled:
    """A cost in other units."""

    cost: Cost
    factor: float

    def value(self, counts: Mapping[int, int]) -> float:
        """The cost of the whole model."""
        return self.factor * self.cost.value(counts)

    def saving(self, counts: Mapping[int, int], group: int, fewer: ArrayLike) -> NDArray[np.float64]:
        """What is saved when ``group`` alone keeps ``fewer`` channels."""
        return self.factor * self.cost.saving(counts, group, fewer)

    def coupled(self, group: int) -> frozenset[int]:
        """Groups whose savings depend on the count of ``group``."""
        return self.cost.coupled(group)


@dataclass(frozen=True)
class Dense:
    """A dense model, as a function of how many channels each group keeps.

    Attributes:
        coupling: of the model.
        macs: multiply-accumulates of one run on one sample.
        sizes: bytes of every value of that run, by name.
        latency: of one run in milliseconds, where it is known.
    """

    coupling: Coupling
    macs: int
    sizes: Mapping[str, int]
    latency: Cost | None

    @property
    def flops(self) -> Cost:
        """Two for each multiply-accumulate of one sample, in millions."""
        counted = Costs(self.coupling).macs
        per_sample = self.macs / max(counted.value({}), 1)
        return Scaled(counted, 2 * per_sample / _MILLION)

    @cached_property
    def traffic(self) -> Traffic:
        """Memory and bandwidth in bytes."""
        return Traffic(self.coupling, self.sizes)


@dataclass(frozen=True)
class Regularizer:
    """A cost that scores can be corrected by.

    Attributes:
        cost: of a model, in the units of the module; None where it is not known.
        timed: it is known only where models are timed.
    """

    cost: Callable[[Dense], Cost | None]
    timed: bool = False


REGULARIZERS: Mapping[str, Regularizer] = {
    "flops": Regularizer(lambda dense: dense.flops),
    "memory": Regularizer(lambda dense: Scaled(dense.traffic.memory, 1 / _MILLION)),
    "bandwidth": Regularizer(lambda dense: Scaled(dense.traffic.bandwidth, 1 / _MILLION)),
    "latency": Regularizer(lambda dense: dense.latency, timed=True),
}
"""Name of a cost, as in ``--regularize NAME=LAMBDA`` -> the cost."""


def check_regularizers(weights: Mapping[str, float]) -> None:
    """Refuse unknown names and numbers that take nothing off.

    Raises:
        OptionError: see above.
    """
    for name, weight in weights.items():
        if name not in REGULARIZERS:
            raise OptionError(f"{named('regularize')} {name}: unknown, use one of {', '.join(REGULARIZERS)}")
        if not (np.isfinite(weight) and weight >= 0):
            raise OptionError(f"{named('regularize')} {name}={weight}: give a number that is not negative")


def regularizers(
    coupling: Coupling, macs: int, sizes: Mapping[str, int], latency: Cost | None = None
) -> dict[str, Cost]:
    """Costs that are known by name, in the units of the module; arguments as for :class:`Dense`."""
    dense = Dense(coupling, macs, sizes, latency)
    found = {name: one.cost(dense) for name, one in REGULARIZERS.items()}
    return {name: cost for name, cost in found.items() if cost is not None}


def penalties(
    weights: Mapping[str, float],
    costs: Mapping[str, Cost],
    groups: Sequence[Group],
    quantum: Mapping[int, Quantum] | None = None,
) -> dict[int, float]:
    """What is taken off the score of every channel of each group.

    Args:
        weights: lambda of each cost by name.
        costs: see :func:`regularizers`.
        groups: of the model.
        quantum: which counts each group may keep; all by default.

    Raises:
        OptionError: a cost is not known, since nothing was timed.
    """
    if missing := weights.keys() - costs.keys():
        raise OptionError(
            f"{named('regularize')} {min(missing)}: only known where a target latency is asked for"
        )
    found = {}
    for group in groups:
        fewer = int(admissible(group.n, (quantum or {}).get(group.id, 1))[-2:][0])
        saved = {name: float(costs[name].saving({}, group.id, fewer)) for name in weights}
        found[group.id] = sum(weights[name] * saved[name] for name in weights) / max(group.n - fewer, 1)
    return found
