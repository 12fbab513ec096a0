"""Criteria: what each channel of a group is worth.

A criterion is a function of the :class:`~obs_onnx.criteria.channel_statistics.ChannelStatistics` and a group
that gives one number for each channel, of any scale; channels go in the order of rising numbers.
:data:`CRITERIA` names them all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from obs_onnx.criteria.channel_statistics import ChannelStatistics
from obs_onnx.criteria.channels.activations import average, deviation, share_not_zero
from obs_onnx.criteria.channels.fisher import fisher
from obs_onnx.criteria.channels.gates import gates
from obs_onnx.criteria.channels.magnitude import l1, l2
from obs_onnx.criteria.channels.mutual_information import mutual_information
from obs_onnx.criteria.channels.oba import oba, oba_paper, oba_second
from obs_onnx.criteria.channels.obd import obd
from obs_onnx.criteria.channels.obs import surgeon
from obs_onnx.criteria.channels.oracle import oracle
from obs_onnx.criteria.channels.random import at_random
from obs_onnx.criteria.channels.taylor import taylor
from obs_onnx.passes.channels.coupling import Group

__all__ = ["CRITERIA", "Criterion", "worth"]

Criterion: TypeAlias = Callable[[ChannelStatistics, Group], NDArray[np.float64]]

CRITERIA: Mapping[str, Criterion] = {
    "obs": surgeon,
    "magnitude": l2,
    "l1": l1,
    "l2": l2,
    "mean": average,
    "std": deviation,
    "apoz": share_not_zero,
    "mutual-information": mutual_information,
    "taylor": taylor,
    "fisher": fisher,
    "obd": obd,
    "gates": gates,
    "oba": oba,
    "oba-second": oba_second,
    "oba-paper": oba_paper,
    "random": at_random,
    "oracle": oracle,
}

_CUMULATIVE = {"obs"}  # scores are of all channels that go up to this one


def worth(name: str, scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """(channels,) what each channel adds to what removing those of lower scores costs.

    Args:
        name: of the criterion.
        scores: that it gave for the channels of a group.
    """
    if name not in _CUMULATIVE:
        return scores
    order = np.argsort(scores, kind="stable")
    added = np.empty(len(scores))
    added[order] = np.diff(scores[order], prepend=0.0)
    return added
