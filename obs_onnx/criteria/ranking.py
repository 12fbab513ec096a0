"""Scores of channels where removing them can be tried out."""

from __future__ import annotations

from collections.abc import Callable
from pkgutil import resolve_name
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from obs_onnx.criteria.channel_statistics import ChannelStatistics
from obs_onnx.criteria.channels import CRITERIA
from obs_onnx.criteria.channels.oracle import RemovalDamage
from obs_onnx.passes.channels.coupling import Group

__all__ = ["Ranking", "RemovalDamage", "ranking"]

Ranking: TypeAlias = Callable[[Group, RemovalDamage], NDArray[np.float64]]
"""(channels,) scores of a group, the lowest goes first; removals of its channels can be measured."""


def ranking(name: str, evidence: ChannelStatistics) -> Ranking:
    """Scores by a criterion; those of an exhaustive one are what removals do to the outputs.

    Args:
        name: of the criterion, in :data:`obs_onnx.criteria.channels.CRITERIA`.
        evidence: what it judges by, unless it tries removals out.
    """
    criterion = CRITERIA[name]
    if not criterion.exhaustive:
        return lambda group, damage: criterion(evidence, group)
    tried: Ranking = resolve_name(criterion.trial)
    return tried
