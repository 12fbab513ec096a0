"""Curves of groups of channels that come from a criterion's own scores, with nothing measured.

The scores of one criterion, lowest first, say how much of each group goes; the same one or another chooses
the channels inside. The total over all groups is one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from obs_onnx.allocation.curves import Ranked
from obs_onnx.allocation.thresholds import ScoreCurve, check_scores, unit
from obs_onnx.criteria.channel_statistics import ChannelStatistics
from obs_onnx.criteria.channels import CRITERIA

__all__ = ["criterion_curves", "worth"]


def criterion_curves(
    evidence: ChannelStatistics,
    *,
    order: str,
    allocation: str,
    normalize: bool,
    penalties: Mapping[int, float] | None = None,
    advance: Callable[[int], None],
) -> dict[int, Ranked]:
    """Order and curve of every group.

    Args:
        evidence: the model, its channels and calibration data.
        order: criterion that ranks the channels of a group.
        allocation: criterion that says what so many of them are worth.
        normalize: divide the worths of each group by their Euclidean norm.
        penalties: taken off the worth of each channel, by group.
        advance: called with 1 after each group.

    Raises:
        GradientError: a criterion needs gradients, and the model cannot be differentiated.
    """
    found: dict[int, tuple[NDArray[np.int64], NDArray[np.float64]]] = {}
    for group in evidence.coupling.groups:
        scores = CRITERIA[allocation](evidence, group)
        check_scores({group.name: scores})
        value = worth(allocation, scores)
        if normalize:
            value = unit(value)
        places = np.argsort(scores, kind="stable")
        value = value[places] - (penalties or {}).get(group.id, 0.0)
        if order != allocation:
            places = np.argsort(CRITERIA[order](evidence, group), kind="stable")
        found[group.id] = places, value
        evidence.forget(group)
        advance(1)
    total = sum(float(np.abs(value).sum()) for _, value in found.values()) or 1.0
    return {group: Ranked(places, ScoreCurve.of(value / total)) for group, (places, value) in found.items()}


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
