"""Seconds of choosing the weights of a layer that go, and of refitting the others."""

from __future__ import annotations

from collections.abc import Sequence

from obs_onnx.pruning.forecast.layers import LayerWork
from obs_onnx.pruning.forecast.rates import Rates
from obs_onnx.solvers import Pattern
from obs_onnx.solvers.admm import EFFORTS
from obs_onnx.solvers.solve import METHODS, methods_for

__all__ = ["solving"]

_WIDE = 2048  # columns from which ADMM is short where no effort is given
_DONE = {"brief": 1.0, "quick": 0.8, "normal": 0.6, "thorough": 0.4}  # of the steps, until a support stays
_ELEMENT = 40  # bytes that a step takes in for each weight
_SURGEON_CALLS, _SURGEON_MACS = 6, 1.2  # of a row, for each column and for each cube of them
_FEW = 48  # columns of layers whose rows are refitted many at a time
_STEPPED, _STEPS, _EARLY_STEPS = 1024, 60, 20  # columns from which refits go in steps, and how many
_ROW = 40  # operations that refit a row
_WEIGHT = 12  # bytes that are taken in for each weight of a solution, whatever its method


def solving(
    work: LayerWork,
    rates: Rates,
    sparsities: Sequence[float],
    method: str,
    pattern: Pattern,
    effort: str | None,
) -> float:
    """Solving a layer that is posed, at several sparsities.

    Args:
        work: the layer.
        rates: of this machine.
        sparsities: shares of the weights that go.
        method: as the user named it.
        pattern: of the zeros.
        effort: see :func:`obs_onnx.solvers.solve.solve_levels`.
    """
    shape = (work.groups, work.rows, work.columns)
    methods = methods_for(method, shape, len(sparsities), pattern) if method in METHODS else ()
    effort = effort or ("quick" if work.columns >= _WIDE else "normal")
    weights = work.groups * work.rows * work.columns
    seconds = 0.0
    for name in methods or (method,):
        if name in ("obs", "lobs"):
            macs = _SURGEON_MACS * weights * work.columns**2
            seconds += macs * rates.product(256) + _SURGEON_CALLS * weights * rates.call
        if name == "admm":
            seconds += _annealing(work, rates, len(sparsities), effort)
        seconds += sum(_refit(work, rates, one, effort in ("brief", "quick")) for one in sparsities)
        seconds += len(sparsities) * _WEIGHT * weights * rates.gather
    return seconds


def _annealing(work: LayerWork, rates: Rates, levels: int, effort: str) -> float:
    penalties, iterations = EFFORTS[effort]
    steps = levels * len(penalties) * iterations * _DONE[effort]
    weights = work.groups * work.rows * work.columns
    each = weights * work.columns * rates.product(min(work.rows, work.columns)) + 30 * rates.call
    each += _ELEMENT * weights * rates.gather
    inverses = len(penalties) * work.groups * work.columns**3 / 2 * rates.factor(work.columns) / 2
    return steps * each + inverses


def _refit(work: LayerWork, rates: Rates, sparsity: float, early: bool) -> float:
    """Of the weights that stay, others in each row; in steps where layers are wide and that is less."""
    rows = work.groups * work.rows
    if work.columns <= _FEW:
        return rows * (work.columns**3 / 3 * rates.factor(work.columns) + rates.call)
    side = min(sparsity, 1 - sparsity) * work.columns
    macs = rows * (side**3 / 6 + side**2 + (work.columns * side if sparsity < 0.5 else 0.0))
    direct = macs * rates.factor(side) + rows * _ROW * rates.call + 8 * rows * side * side * rates.byte
    if work.columns < _STEPPED:
        return direct
    steps = (_EARLY_STEPS if early else _STEPS) * rates.product(work.columns) + 4 * rates.exact(work.columns)
    return min(direct, rows * work.columns**2 * steps)
