"""Which weights may be zero together: unstructured, N:M runs, blocks.

A pattern turns scores into the mask that keeps the highest total score. Scores of weights that live or die
together add up, so with squared (scaled) weights as scores the result is the Euclidean projection.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from obs_onnx.passes.errors import OptionError

__all__ = ["UNSTRUCTURED", "Pattern", "follows", "parse_pattern", "pooled", "project"]

T = TypeVar("T", bound=np.generic)

_MANY, _SAMPLE = 1 << 15, 1 << 12  # numbers of which a sample is looked at first, and how many those are


@dataclass(frozen=True)
class Pattern:
    """Structure of the zeros of a weight of shape (G, O, I).

    Attributes:
        kind: "unstructured"; "nm": at most ``rows`` non-zeros in every run of ``columns`` consecutive
            columns of a row (the last run may be shorter); "block": ``rows`` x ``columns`` consecutive
            weights live or die together (smaller at the border; blocks do not cross groups).
        rows, columns: see there; 1 and 1 if unstructured.
    """

    kind: Literal["unstructured", "nm", "block"] = "unstructured"
    rows: int = 1
    columns: int = 1

    def __str__(self) -> str:
        if self.kind == "unstructured":
            return self.kind
        return f"{self.rows}{':' if self.kind == 'nm' else 'x'}{self.columns}"


UNSTRUCTURED = Pattern()


def parse_pattern(text: str | None) -> Pattern:
    """Pattern of "2:4" (2 non-zeros of every 4 columns), "1x4" (blocks), "unstructured", "1x1", "" or None.

    Raises:
        OptionError: the text is no pattern, or an N:M pattern does not have 0 < N < M.
    """
    if text is None or text in ("", "unstructured", "1x1"):
        return UNSTRUCTURED
    match = re.fullmatch(r"(\d+)([:x])(\d+)", text)
    if match is None:
        raise OptionError(f"pattern {text!r} is neither N:M (like 2:4) nor RxC (like 1x4)")
    rows, columns = int(match[1]), int(match[3])
    if match[2] == ":":
        if not 0 < rows < columns:
            raise OptionError(f"pattern {text!r} keeps N of every M weights, so 0 < N < M must hold")
        return Pattern("nm", rows, columns)
    if rows < 1 or columns < 1:
        raise OptionError(f"pattern {text!r} has an empty block")
    return Pattern("block", rows, columns)


def _largest(scores: NDArray[np.floating], keep: int) -> NDArray[np.bool_]:
    """Mask of the ``keep`` largest of a vector; of equal ones the first."""
    if keep >= scores.size or keep <= 0:
        return np.full(scores.shape, keep > 0)
    edge = _ranked(scores, scores.size - keep)
    mask = scores > edge
    mask[np.flatnonzero(scores == edge)[: keep - np.count_nonzero(mask)]] = True
    return mask


def _ranked(scores: NDArray[np.floating], rank: int) -> float:
    """The number that ``rank`` others of a vector come before, if they rise.

    A sorted sample says between which two numbers it lies, nearly always, and few lie there (Floyd and
    Rivest, "Expected Time Bounds for Selection", 1975).
    """
    if scores.size >= _MANY:
        some = np.sort(scores[:: scores.size // _SAMPLE | 1])
        place, slack = rank * len(some) // scores.size, 3 * math.isqrt(len(some))
        low, high = some[max(place - slack, 0)], some[min(place + slack, len(some) - 1)]
        between = scores[(scores >= low) & (scores <= high)]
        left = rank - np.count_nonzero(scores < low)
        if 0 <= left < len(between):
            return float(np.partition(between, left)[left])
    return float(np.partition(scores, rank)[rank])


def _fill_up(
    scores: NDArray[np.floating], pattern: Pattern
) -> tuple[NDArray[np.floating], NDArray[np.int64]]:
    """Scores summed over blocks, (G, block rows, block columns), and the number of weights in each."""
    groups, rows, columns = scores.shape
    r, c = pattern.rows, pattern.columns
    padded = np.zeros((groups, -(-rows // r) * r, -(-columns // c) * c), scores.dtype)
    padded[:, :rows, :columns] = scores
    total = padded.reshape(groups, padded.shape[1] // r, r, padded.shape[2] // c, c).sum(axis=(2, 4))
    heights = np.minimum(r, rows - r * np.arange(total.shape[1]))
    widths = np.minimum(c, columns - c * np.arange(total.shape[2]))
    return total, np.broadcast_to(np.outer(heights, widths), total.shape)


def pooled(scores_GOI: NDArray[np.floating], pattern: Pattern) -> NDArray[np.floating]:
    """Scores (G, O, I), those of weights that live or die together replaced by their mean."""
    if pattern.kind != "block":
        return scores_GOI
    total, sizes = _fill_up(scores_GOI, pattern)
    return _spread(total / sizes, pattern, scores_GOI.shape)


def _spread(blocks: NDArray[T], pattern: Pattern, shape: tuple[int, ...]) -> NDArray[T]:
    """What is said about each block, for each of its weights (G, O, I)."""
    each = np.repeat(np.repeat(blocks, pattern.rows, axis=1), pattern.columns, axis=2)
    return each[:, : shape[1], : shape[2]]


def project(scores_GOI: NDArray[np.floating], sparsity: float, pattern: Pattern) -> NDArray[np.bool_]:
    """Mask (G, O, I) of what to keep: highest total score under the pattern, over the whole layer.

    Args:
        scores_GOI: non-negative worth of every weight.
        sparsity: share of the weights to remove, in [0, 1]. An N:M pattern fixes it: 0 keeps everything,
            anything else follows the pattern. Of blocks as many go as it takes to reach the share.
        pattern: see there.

    Raises:
        OptionError: sparsity outside [0, 1].
    """
    if not 0 <= sparsity <= 1:
        raise OptionError(f"a sparsity of {sparsity} is not between 0 and 1")
    groups, rows, columns = scores_GOI.shape
    if pattern.kind == "nm":
        if sparsity == 0:
            return np.ones(scores_GOI.shape, bool)
        width = pattern.columns
        padded = np.full((groups, rows, -(-columns // width) * width), -1.0)
        padded[:, :, :columns] = scores_GOI
        runs = padded.reshape(groups, rows, -1, width)
        order = np.argsort(-runs, axis=3, kind="stable")
        mask = np.zeros(runs.shape, bool)
        np.put_along_axis(mask, order[..., : pattern.rows], True, axis=3)
        return mask.reshape(groups, rows, -1)[:, :, :columns]
    if pattern.kind == "block":
        total, sizes = _fill_up(scores_GOI, pattern)
        order = np.argsort((total / sizes).ravel(), kind="stable")
        removed = np.concatenate([[0], np.cumsum(sizes.ravel()[order])])
        count = int(np.searchsorted(removed, round(sparsity * scores_GOI.size)))
        keep = np.ones(order.size, bool)
        keep[order[:count]] = False
        return _spread(keep.reshape(total.shape), pattern, scores_GOI.shape)
    keep_count = scores_GOI.size - round(sparsity * scores_GOI.size)
    return _largest(scores_GOI.ravel(), keep_count).reshape(scores_GOI.shape)


def follows(mask_GOI: NDArray[np.bool_], pattern: Pattern) -> bool:
    """Whether the kept weights obey the pattern."""
    if pattern.kind == "unstructured":
        return True
    if pattern.kind == "nm":
        run = Pattern("block", 1, pattern.columns)
        return bool((_fill_up(mask_GOI.astype(np.int64), run)[0] <= pattern.rows).all())
    kept, sizes = _fill_up(mask_GOI.astype(np.int64), pattern)
    return bool(((kept == 0) | (kept == sizes)).all())
