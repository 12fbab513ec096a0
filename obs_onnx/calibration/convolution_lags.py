"""Which products a convolution's second moment is made of: lags between kernel offsets, cut into cells.

Two kernel offsets d and e see the same image shifted by the lag l = e - d, so the block (d, e) of the moment
is the sum of ``x[p] x[p + l]^T`` over the window of d. For each lag the image is cut at the borders of all
windows into cells; a cell's product is computed once and belongs to every block whose window covers it.
Half of the lags follow from symmetry.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from obs_onnx.calibration.unfold import ALL, Array, Axis, Slice, take

__all__ = ["Lag", "cell_product", "lag_plan", "moved"]

_LINE = 256  # positions from which a product runs at full speed


@dataclass(frozen=True)
class Lag:
    """Products to compute for one lag: cells of the input, and the kernel offset pairs each belongs to."""

    shift: tuple[int, ...]
    cells: tuple[tuple[Slice, ...], ...]
    pairs: tuple[tuple[tuple[int, int], ...], ...]


def _axis_lag(axis: Axis, lag: int) -> list[tuple[Slice, list[tuple[int, int]]]]:
    where = {start: k for k, start in enumerate(axis.starts)}
    pairs = [(k, where[s + lag]) for s, k in where.items() if s + lag in where]
    cuts = sorted({axis.starts[k] + edge for k, _ in pairs for edge in (0, axis.out)})
    shift = lag // axis.up
    cells = []
    for low, high in itertools.pairwise(cuts):
        first = max(-(-low // axis.up), 0, -shift)
        last = min(-(-high // axis.up), axis.size, axis.size - shift)
        inside = [(k, e) for k, e in pairs if axis.starts[k] <= low and high <= axis.starts[k] + axis.out]
        if first < last and inside:
            cells.append((slice(first, last), inside))
    return cells


@lru_cache(maxsize=256)
def lag_plan(axes: tuple[Axis, ...]) -> tuple[Lag, ...]:
    """All lags up to symmetry with their cells."""
    sizes = [len(axis.starts) for axis in axes]
    spread = [
        sorted({e - d for d in axis.starts for e in axis.starts if (e - d) % axis.up == 0}) for axis in axes
    ]
    plan = []
    for lag in itertools.product(*spread):
        if lag < (0,) * len(axes):
            continue
        cells, pairs = [], []
        per_axis = [_axis_lag(axis, step) for axis, step in zip(axes, lag, strict=True)]
        for combination in itertools.product(*per_axis):
            cells.append(tuple(cell for cell, _ in combination))
            members = []
            for chosen in itertools.product(*(inside for _, inside in combination)):
                d = np.ravel_multi_index([k for k, _ in chosen], sizes)
                e = np.ravel_multi_index([k for _, k in chosen], sizes)
                members.append((int(d), int(e)))
            pairs.append(tuple(members))
        shift = tuple(step // axis.up for step, axis in zip(lag, axes, strict=True))
        plan.append(Lag(shift, tuple(cells), tuple(pairs)))
    return tuple(plan)


def moved(cell: Sequence[Slice], shift: Sequence[int]) -> tuple[Slice, ...]:
    """The cell, shifted by ``shift`` elements per axis."""
    return tuple(slice(c.start + s, c.stop + s, c.step) for c, s in zip(cell, shift, strict=True))


def _lines(cell: Sequence[Slice], samples: int) -> Iterator[tuple[int | Slice, ...]]:
    """Indices of the lines of a cell: as many of its last axes at once as make a product worth its call."""
    whole, positions = len(cell), samples
    while whole > 0 and (positions < _LINE or whole == len(cell)):
        whole -= 1
        positions *= len(range(cell[whole].start, cell[whole].stop, cell[whole].step or 1))
    for at in itertools.product(*(range(c.start, c.stop, c.step or 1) for c in cell[:whole])):
        yield *at, *cell[whole:]


def cell_product(a: Array, b: Array, a_cell: Sequence[Slice], b_cell: Sequence[Slice]) -> NDArray[np.float64]:
    """(G, C, D): ``a`` (G, C, *spatial, N) times ``b`` (G, D, *spatial, N), summed over equal cells."""
    groups, rows, columns = a.shape[0], a.shape[1], b.shape[1]
    if rows == columns == 1:
        a_view, b_view = take(a, (ALL, 0, *a_cell)), take(b, (ALL, 0, *b_cell))
        letters = "bcdefh"[: len(a_cell)]
        line = np.einsum(f"a{letters}n,a{letters}n->ab", a_view, b_view)
        return np.asarray(line.sum(axis=1, dtype=np.float64).reshape(groups, 1, 1))
    total = np.zeros((groups, rows, columns))
    samples = a.shape[-1]
    for a_line, b_line in zip(_lines(a_cell, samples), _lines(b_cell, samples), strict=True):
        left = take(a, (ALL, ALL, *a_line)).reshape(groups, rows, -1)
        right = take(b, (ALL, ALL, *b_line)).reshape(groups, columns, -1)
        if groups == 1:
            total[0] += left[0] @ right[0].T
        else:
            total += left @ right.swapaxes(1, 2)
    return total
