"""Scores of channels where removing them can be tried out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from obs_onnx.criteria.channel_statistics import ChannelStatistics
from obs_onnx.criteria.channels import CRITERIA
from obs_onnx.criteria.channels.oracle import RemovalDamage, damages
from obs_onnx.passes.channels.coupling import Group

__all__ = ["Ranking", "RemovalDamage", "ranking"]

Ranking: TypeAlias = Callable[[Group, RemovalDamage], NDArray[np.float64]]
"""(channels,) scores of a group, the lowest goes first; removals of its channels can be measured."""

_MEASURED: Mapping[str, Ranking] = {"oracle": damages}


def ranking(name: str, evidence: ChannelStatistics) -> Ranking:
    """Scores by a criterion; those of the oracle are what removals do to the outputs.

    Args:
        name: of the criterion, in :data:`obs_onnx.criteria.channels.CRITERIA`.
        evidence: what it judges by, unless it measures.
    """
    criterion = CRITERIA[name]
    return _MEASURED.get(name, lambda group, damage: criterion(evidence, group))
