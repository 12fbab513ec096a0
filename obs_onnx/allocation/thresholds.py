"""How much of each layer or group to remove when a criterion's own scores decide: one threshold for all.

What has the lowest scores in the whole network goes, wherever it stands, until the target is reached, as in
Molchanov et al. 2017 (arXiv 1611.06440), Sun et al. 2025 (arXiv 2502.17941) and global magnitude pruning.
Where counts are bound to multiples or scores do not rise, the threshold is one for the slopes of the lower
convex hull of the sums.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from obs_onnx.allocation.channels import Allocation, Quantum, admissible
from obs_onnx.allocation.curves import Curve, lower_hull
from obs_onnx.passes.costs.model_costs import Cost
from obs_onnx.passes.errors import DataError
from obs_onnx.solvers.patterns import Pattern, pooled

__all__ = ["ScoreCurve", "check_scores", "score_curves", "threshold_channels", "threshold_weights", "unit"]

Float = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ScoreCurve(Curve):
    """A curve that is the sum of the scores of what is removed.

    Attributes:
        scores: (size,) in the order of removal; negative ones are better gone.
    """

    scores: Float = field(default_factory=lambda: np.zeros(0))

    @classmethod
    def of(cls, scores: Float) -> ScoreCurve:
        """Of scores in the order of removal."""
        return cls(len(scores), (), (), (), scores=np.asarray(scores, np.float64))

    @cached_property
    def _rising(self) -> Float:
        return np.maximum.accumulate(np.concatenate([[0.0], np.cumsum(self.scores)]))

    def damage(self, sparsity: Float) -> Float:
        """Summed score, never falling and never negative."""
        return np.asarray(np.interp(np.asarray(sparsity) * self.size, np.arange(self.size + 1), self._rising))


def scores_of(curve: Curve) -> Float:
    """Scores behind a curve.

    Raises:
        TypeError: it was measured.
    """
    if not isinstance(curve, ScoreCurve):
        raise TypeError("a measured curve has no scores: one threshold needs them")
    return curve.scores


def unit(scores: Float) -> Float:
    """Divided by their Euclidean norm, as scores of different layers are made comparable in the papers."""
    norm = float(np.linalg.norm(scores))
    return scores / norm if norm > 0 else scores


def check_scores(scores: Mapping[str, Float]) -> None:
    """Refuse scores that are no numbers.

    Raises:
        DataError: see above.
    """
    for name, score in scores.items():
        if not np.isfinite(score).all():
            raise DataError(
                f"the scores of {name} are not finite: look for extreme values in data and weights"
            )


def score_curves(scores: Mapping[str, Float], pattern: Pattern, normalize: bool) -> dict[str, ScoreCurve]:
    """Curves of layers whose weights go in the order of their scores (G, O, I).

    The total over all layers is one. Weights that live or die together share their scores.
    """
    check_scores(scores)
    ordered = {name: np.sort(pooled(score, pattern), axis=None) for name, score in scores.items()}
    if normalize:
        ordered = {name: unit(score) for name, score in ordered.items()}
    total = sum(float(score.sum()) for score in ordered.values()) or 1.0
    return {name: ScoreCurve.of(score / total) for name, score in ordered.items()}


def threshold_weights(curves: Mapping[str, Curve], budget: int) -> dict[str, int]:
    """Weights to remove per layer: the ``budget`` lowest scores of all; at least one weight stays in each.

    Args:
        curves: of every layer that may lose weights, each a :class:`ScoreCurve` with scores rising.
        budget: weights to remove from all of them together.
    """
    removable = {name: scores_of(curve)[:-1] for name, curve in curves.items()}
    pool = np.concatenate([np.zeros(0), *removable.values()])
    if budget >= len(pool):
        return {name: len(scores) for name, scores in removable.items()}
    if budget <= 0:
        return dict.fromkeys(removable, 0)
    threshold = np.partition(pool, budget - 1)[budget - 1]
    counts = {name: int(np.searchsorted(scores, threshold)) for name, scores in removable.items()}
    ties = {
        name: int(np.searchsorted(scores, threshold, "right")) - counts[name]
        for name, scores in removable.items()
    }
    missing, left = budget - sum(counts.values()), sum(ties.values())
    for name, tied in ties.items():  # of weights exactly at the threshold the same share everywhere
        more = round(missing * tied / left) if left else 0
        counts[name] += more
        missing, left = missing - more, left - tied
    return counts


def threshold_channels(
    curves: Mapping[int, Curve],
    limits: Sequence[tuple[Cost, float]],
    quantum: int | Mapping[int, Quantum] = 1,
    reduced: Collection[int] = (),
) -> Allocation:
    """Channels that each group keeps: the lowest scores go, whatever they save, until all limits hold.

    Groups that lower none of the costs stay whole. Counts that have to be multiples of a quantum go in steps,
    by the mean score of a step's channels.

    Args:
        curves: of the groups, each a :class:`ScoreCurve`.
        limits: costs, and what each may be at most; all must hold.
        quantum: see :func:`obs_onnx.allocation.channels.admissible`.
        reduced: groups that may not stay whole.
    """
    kept, start, steps = {group: curve.size for group, curve in curves.items()}, dict[int, int](), []
    for group, curve in sorted(curves.items()):
        own = quantum if isinstance(quantum, int) else quantum.get(group, 1)
        counts = admissible(curve.size, own, group not in reduced)
        start[group] = int(counts[-1])
        if all(float(cost.saving({}, group, int(counts[0]))) <= 0 for cost, _ in limits):
            continue
        gone = (curve.size - counts[::-1]).astype(np.float64)
        sums = np.concatenate([[0.0], np.cumsum(scores_of(curve))])[curve.size - counts[::-1]]
        corners = lower_hull(gone, sums)
        slopes = np.repeat(np.diff(sums[corners]) / np.diff(gone[corners]), np.diff(corners))
        steps += [(float(s), n / curve.size, group, int(n)) for s, n in zip(slopes, gone[1:], strict=True)]
    steps.sort()  # of equal scores the same share everywhere

    def after(number: int) -> dict[int, int]:
        counts = dict(start)
        for _, _, group, gone in steps[:number]:
            counts[group] = kept[group] - gone
        return counts

    def holds(number: int) -> bool:
        counts = after(number)
        return all(cost.value(counts) <= limit + 1e-12 * abs(limit) for cost, limit in limits)

    low, high = -1, len(steps)
    met = holds(high)
    while met and high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    found = after(high)
    spent = sum(float(curves[g].damage(np.array([1 - n / kept[g]]))[0]) for g, n in found.items())
    return Allocation(found, met, spent)
