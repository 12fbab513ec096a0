"""All criteria for channels, one entry each; the code of one is imported when it is first asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:  # names of criteria are read where no arrays are loaded
    import numpy as np
    from numpy.typing import NDArray

    from obs_onnx.criteria.channel_statistics import ChannelStatistics
    from obs_onnx.passes.channels.coupling import Group

__all__ = ["CRITERIA", "DEFAULT", "Criterion"]

DEFAULT = "obs"

Scorer: TypeAlias = "Callable[[ChannelStatistics, Group], NDArray[np.float64]]"


@dataclass(frozen=True)
class Criterion:
    """A criterion.

    Attributes:
        place: ``module:function``, a :data:`Scorer`.
        gradients: the model has to be differentiable.
        cumulative: a score is of all channels that go up to this one, not of this one alone.
        trial: ``module:function``, a :data:`~obs_onnx.criteria.ranking.Ranking` that takes the place of the
            scores where removals can be tried out; none for a criterion that only estimates.
    """

    place: str
    gradients: bool = False
    cumulative: bool = False
    trial: str = ""

    @property
    def exhaustive(self) -> bool:
        """Whether every channel is removed and the outcome measured: what the others estimate."""
        return bool(self.trial)

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
    "oracle": Criterion(f"{_HERE}.oracle:oracle", trial=f"{_HERE}.oracle:damages"),
}
"""Name of a criterion, as in ``--criterion`` -> the criterion."""
