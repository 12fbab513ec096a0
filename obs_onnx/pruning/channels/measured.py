"""Search among plans of equal cost by refitting and measuring real candidates.

Damages of single groups add up only roughly: layers that are refitted later mend what earlier ones lost, and
errors of groups meet. So each group's curve gets a weight that is learned. A candidate is what the allocation
makes of weighted curves, refitted as a whole on few samples and measured at the outputs. All candidates so
far give the weights by regularised least squares; the next candidate follows from the most likely weights,
or from ones drawn around them (Thompson sampling). The best candidate is refitted on all data and taken only
if its error on held-out data, on which nothing was searched, is below that of the plan that was there first.

Selection of what goes by measured candidates is that of EvoPress (Sieberling et al. 2024, arXiv:2410.14649).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from obs_onnx.allocation.targets import TARGETS
from obs_onnx.progress import Advance
from obs_onnx.pruning.calibrated import Calibrated
from obs_onnx.pruning.channels.attempt import ChannelAttempt, Keeps
from obs_onnx.pruning.channels.curves import RefitProbe
from obs_onnx.pruning.channels.round import Round, Tried
from obs_onnx.pruning.effort import PLAN_SAMPLES
from obs_onnx.pruning.options import DAMAGE, ModeOptions
from obs_onnx.results.pruning import plain
from obs_onnx.work.digest import digest_of

__all__ = ["Weights", "plan_count", "searched"]

_APART, _TILT = 0.4, 0.5  # deviations of weights: of each by itself, and of the last against the first group
_NOISE = 0.1  # share of the damage that weighted curves do not explain
_LEAST, _MOST = 0.2, 5.0
_DRAWS = 8  # until a plan is new
_GAIN = 0.01  # share of the damage, less is not worth a refit on all data


@dataclass
class Weights:
    """Weights of the groups' curves, learned from measured candidates.

    Args:
        first: (groups,) damages that the curves expect of the plan to improve, groups in the order of the
            model.
        damage: measured of that plan.
        seed: of what is drawn.
    """

    first: NDArray[np.float64]
    damage: float
    seed: int
    _expected: list[NDArray[np.float64]] = field(default_factory=list, init=False)
    _gains: list[float] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self._random = np.random.default_rng(self.seed)

    def add(self, expected: NDArray[np.float64], damage: float) -> None:
        """A candidate: (groups,) damages that the curves expect, and what was measured."""
        self._expected.append((expected - self.first) / max(self.first.sum(), 1e-300))
        self._gains.append(damage / self.damage - 1)

    def posterior(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean (groups,) and covariance (groups, groups) of the weights.

        A candidate's damage is linear in the weights. Before any was measured they are 1, and uncertain: each
        by itself, and all along the model, since more refits follow the first groups than the last.
        """
        count = len(self.first)
        prior = _APART**2 * np.eye(count) + _TILT**2 * np.outer(_tilt(count), _tilt(count))
        if not self._gains:
            return np.ones(count), prior
        x_KG, y_K = np.array(self._expected), np.array(self._gains)
        spread = x_KG @ prior @ x_KG.T + _NOISE**2 * np.eye(len(y_K))
        gain = np.linalg.solve(spread, x_KG @ prior).T
        return 1 + gain @ (y_K - x_KG.sum(1)), prior - gain @ x_KG @ prior

    def proposals(self) -> Iterator[NDArray[np.float64]]:
        """Weights worth a try, most promising first: likely ones where some are known, then drawn ones."""
        mean, covariance = self.posterior()
        if not self._gains:
            yield 1 + _TILT * _tilt(len(mean))
        elif len(self._gains) % 2:
            yield np.clip(mean, _LEAST, _MOST)
        for _ in range(_DRAWS):
            drawn = self._random.multivariate_normal(mean, covariance, check_valid="ignore", method="eigh")
            yield np.clip(drawn, _LEAST, _MOST)


def _tilt(count: int) -> NDArray[np.float64]:
    """Rising from -1 to 1."""
    return np.linspace(-1, 1, count) if count > 1 else np.zeros(1)


def plan_count(calibrated: Calibrated, options: ModeOptions, limits: Collection[str]) -> int:
    """How many plans of equal cost are compared at most; none where that says nothing or is too dear.

    Args:
        calibrated: the dense model and the data.
        options: how channels are chosen.
        limits: names of the targets that limit costs.
    """
    if options.allocation != DAMAGE or not (options.compensate and options.sequential):
        return 0
    if not limits or any(TARGETS[name].timed for name in limits):
        return 0
    dense, effort = calibrated.dense, calibrated.budget.effort
    layers = [layer for stage in dense.stages.stages for layer in stage.layers]
    return effort.affordable_plans(dense.cost.macs, sum(dense.cost.sizes.values()), layers)


def searched(
    part: Round, limits: dict[str, float], first: Tried, found: ChannelAttempt
) -> tuple[ChannelAttempt, str | None]:
    """The attempt or a better one within the same limits, and what the search brought.

    Args:
        part: groups with their curves.
        limits: that hold for the attempt.
        first: what it keeps.
        found: the attempt.
    """
    task = part.task
    count = plan_count(task.calibrated, task.options, limits)
    if not (count and first.holds and len(part.ranked) > 1):
        return found, None
    with task.recorder.stage("measured search", count) as advance:
        best, tried = _best(part, limits, first, count, advance)
    if best is first:
        return found, f"measured search: none of {tried} other plans of the same cost does less damage"
    other = part.attempt(best)
    before, after = found.quality.output_error or 0.0, other.quality.output_error or 0.0
    note = (
        f"measured search: {tried} other plans of the same cost were refitted; held-out output error "
        f"{plain(before)} as the curves share out, {plain(after)} as searched"
    )
    return (other, note) if after < before else (found, f"{note}: not taken")


def _best(
    part: Round, limits: dict[str, float], first: Tried, count: int, advance: Advance
) -> tuple[Tried, int]:
    """The plan that does least damage behind a refit, and how many others than the first were measured."""
    task, groups = part.task, list(part.ranked)
    fit, test = task.calibrated.data.for_damage()
    probe = RefitProbe.of(task, part.dense_evidence, fit, test, samples=PLAN_SAMPLES, start=part.start)
    work = task.calibrated.work.stage("measured search", task.calibrated.dense.model, part.start)

    def damage(keep: Keeps) -> float:
        return work.one(float, digest_of(keep), lambda: probe(keep))

    def expected(plan: Tried) -> NDArray[np.float64]:
        found = part.expected(plan)
        return np.array([found[group] for group in groups])

    best, least = first, damage(first.keep)
    weights = Weights(expected(first), least, task.calibrated.data.seed)
    seen, start = {digest_of(first.keep)}, least
    for _ in range(count if start > 0 else 0):
        for proposed in weights.proposals():
            plan = part.weighted(dict(zip(groups, proposed.tolist(), strict=True))).choose(limits)
            if plan.holds and digest_of(plan.keep) not in seen:
                break
        else:
            break
        seen.add(digest_of(plan.keep))
        found = damage(plan.keep)
        weights.add(expected(plan), found)
        if found < least:
            best, least = plan, found
        advance(1)
    return (best if least < (1 - _GAIN) * start else first), len(seen) - 1
