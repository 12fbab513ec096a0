"""Costs that regularise a criterion (Molchanov et al. 2017, arXiv 1611.06440, section 2.2).

    score - sum over costs of lambda times what one channel costs

``flops`` are in millions (two for each multiply-accumulate), ``memory`` and ``bandwidth`` in megabytes
(:mod:`obs_onnx.passes.costs.traffic`), ``latency`` in milliseconds. A channel costs what the dense model
saves without it; of a group that goes in steps of several channels, the mean over the first step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from obs_onnx.allocation.channels import Quantum, admissible
from obs_onnx.passes.channels.coupling import Coupling, Group
from obs_onnx.passes.costs.model_costs import Cost, Costs
from obs_onnx.passes.costs.traffic import Traffic
from obs_onnx.passes.errors import OptionError, named

__all__ = ["REGULARIZERS", "Scaled", "check_regularizers", "penalties", "regularizers"]

REGULARIZERS = ("flops", "memory", "bandwidth", "latency")

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
    """Costs by name, in the units of the module.

    Args:
        coupling: of the model.
        macs: multiply-accumulates of one run on one sample.
        sizes: bytes of every value of that run, by name.
        latency: of one run in milliseconds, where it is known.
    """
    counted, traffic = Costs(coupling).macs, Traffic(coupling, sizes)
    per_sample = macs / max(counted.value({}), 1)
    found: dict[str, Cost] = {
        "flops": Scaled(counted, 2 * per_sample / _MILLION),
        "memory": Scaled(traffic.memory, 1 / _MILLION),
        "bandwidth": Scaled(traffic.bandwidth, 1 / _MILLION),
    }
    return found if latency is None else {**found, "latency": latency}


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
        OptionError: ``latency`` was not measured.
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
