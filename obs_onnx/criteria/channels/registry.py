"""All criteria for channels, one entry each; the code of one is imported when it is first asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from obs_onnx.criteria.channel_statistics import ChannelStatistics
from obs_onnx.passes.channels.coupling import Group

__all__ = ["CRITERIA", "DEFAULT", "Criterion", "worth"]

DEFAULT = "obs"

Scorer: TypeAlias = Callable[[ChannelStatistics, Group], NDArray[np.float64]]


@dataclass(frozen=True)
class Criterion:
    """A criterion.

    Attributes:
        place: ``module:function``, a :data:`Scorer`.
        gradients: the model has to be differentiable.
        cumulative: a score is of all channels that go up to this one, not of this one alone.
        exhaustive: every channel is removed and the outcome measured: what the others only estimate.
    """

    place: str
    gradients: bool = False
    cumulative: bool = False
    exhaustive: bool = False

    def __call__(self, evidence: ChannelStatistics, group: Group) -> NDArray[np.float64]:
        """(channels,) a number for each channel of ``group``, of any scale; the lowest goes first.

        Raises:
            GradientError: it needs gradients, and the model cannot be differentiated.
        """
        scorer: Scorer = resolve_name(self.place)
        return scorer(evidence, group)


_HERE = "obs_onnx.criteria.channels"

CRITERIA: Mapping[str, Criterion] = {
    "obs": Criterion(f"{_HERE}.obs:surgeon", cumulative=True),
    "magnitude": Criterion(f"{_HERE}.magnitude:l2"),
    "l1": Criterion(f"{_HERE}.magnitude:l1"),
    "l2": Criterion(f"{_HERE}.magnitude:l2"),
    "mean": Criterion(f"{_HERE}.activations:average"),
    "std": Criterion(f"{_HERE}.activations:deviation"),
    "apoz": Criterion(f"{_HERE}.activations:share_not_zero"),
    "mutual-information": Criterion(f"{_HERE}.mutual_information:mutual_information"),
    "taylor": Criterion(f"{_HERE}.taylor:taylor", gradients=True),
    "fisher": Criterion(f"{_HERE}.fisher:fisher", gradients=True),
    "obd": Criterion(f"{_HERE}.obd:obd", gradients=True),
    "gates": Criterion(f"{_HERE}.gates:gates", gradients=True),
    "oba": Criterion(f"{_HERE}.oba:oba", gradients=True),
    "oba-second": Criterion(f"{_HERE}.oba:oba_second", gradients=True),
    "oba-paper": Criterion(f"{_HERE}.oba:oba_paper", gradients=True),
    "random": Criterion(f"{_HERE}.random:at_random"),
    "oracle": Criterion(f"{_HERE}.oracle:oracle", exhaustive=True),
}
"""Name of a criterion, as in ``--criterion`` -> the criterion."""


def worth(name: str, scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """(channels,) what each channel adds to what removing those of lower scores costs.

    Args:
        name: of the criterion.
        scores: that it gave for the channels of a group.
    """
    if not CRITERIA[name].cumulative:
        return scores
    order = np.argsort(scores, kind="stable")
    added = np.empty(len(scores))
    added[order] = np.diff(scores[order], prepend=0.0)
    return added
