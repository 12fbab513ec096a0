"""Parts of outputs that have a scale of their own, and the error of each of them.

One norm over boxes up to 320 and scores up to 1 sees no scores. An output is therefore divided, once, by the
graph and by what the dense model gives for the data:

1. Inputs of a Concat in front of the output are parts, along the axis they are joined on
   (:mod:`obs_onnx.passes.channels.pieces`); everything else counts samples.
2. Where there is none, and inside of each of them, channels whose spreads lie within a factor of three of the
   largest among them are one part. Without a graph these are the columns of an output (samples, features).
3. Class scores of whole samples, which only say something together, and whatever has no axis of channels, are
   one part.

With outputs ``y`` of the dense model and ``z`` of another one, over all elements of a part:

    spread = sqrt(mean (y - mean of its channel)^2)        on the data it was divided by
    error  = sqrt(mean (z - y)^2) / spread

so that a level that never changes hides nothing. Class scores are measured against their level (the root mean
square), which decides the class of a sample as much as what varies does. So is a part that does not vary; one
that is zero everywhere is measured against the spread of its output. No part is measured against less than a
small share of the largest spread of its output: 3% where its channels are classes of positions, whose scores
have one scale, so that a class that the data hardly shows does not decide alone, and 0.01% elsewhere. The
channels of one input of a Concat have one scale, too: 3% of the largest spread among them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from obs_onnx.data.feeds import Array, is_float
from obs_onnx.passes.channels.pieces import ChannelAxis, Piece
from obs_onnx.passes.errors import OptionError, named
from obs_onnx.results.pruning import PartError

__all__ = ["LEVEL", "SHARE", "SPREAD", "ErrorSums", "Part", "Spreads", "weighted"]

SPREAD, LEVEL, SHARE = "spread", "level", "share of its output's spread"
"""What errors are relative to."""

_ALIKE = 3.0  # largest ratio of spreads in one part
_STILL = 1e-6  # a spread below this share of the level is rounding
_RARE, _LEAST = 0.03, 1e-4  # of the largest spread of an output, for scores of classes and for anything else
_SHOWN = 4  # stretches of elements in a name
_BLOCK = 1 << 15  # numbers that stay in the cache


@dataclass(frozen=True)
class Part:
    """A part of an output.

    Attributes:
        output: its name.
        name: of the part: that of the output where it is all of it, else with the elements, ``y[4:84]``.
        axis: along which its elements lie; None for a whole output of which no such axis is known.
        elements: indices along that axis; empty for all.
        node: that gave them, where that is known.
        spread: root mean square distance of its numbers from the mean of their channel, on the data.
        level: root mean square of its numbers.
        scale: what its error is divided by.
        basis: what that is: its spread, its level, or a share of the spread of its output.
        weight: of its error among those of the others.
    """

    output: str
    name: str
    axis: int | None = None
    elements: tuple[int, ...] = ()
    node: str = ""
    spread: float = 0.0
    level: float = 0.0
    scale: float = 0.0
    basis: str = SPREAD
    weight: float = 1.0

    @property
    def still(self) -> bool:
        """Whether it does not vary on the data."""
        return self.spread <= _STILL * self.level

    def of(self, y: Array) -> Array:
        """Its elements of an output."""
        if self.axis is None or not self.elements:
            return y
        return np.take(y, self.elements, axis=self.axis)


@dataclass
class _Moments:
    """Count, mean and squared distances from it of each element along an axis, of finite numbers."""

    axis: int | None
    count: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    mean: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    around: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    def fits(self, y: Array) -> bool:
        """Whether ``y`` has as many elements as what was seen before."""
        return self.axis is None or (
            self.axis < y.ndim and (not len(self.count) or len(self.count) == y.shape[self.axis])
        )

    def add(self, y: Array) -> None:
        """One more output."""
        y_NC = y.reshape(-1, 1) if self.axis is None else np.moveaxis(y, self.axis, -1)
        y_NC = y_NC.reshape(-1, y_NC.shape[-1])
        if not len(self.count):
            self.count, self.mean, self.around = (np.zeros(y_NC.shape[1]) for _ in range(3))
        step = max(1, _BLOCK // y_NC.shape[1])
        for first in range(0, len(y_NC), step):
            self._add(y_NC[first : first + step].astype(np.float64))

    def _add(self, y_NC: NDArray[np.float64]) -> None:
        """Chan, Golub and LeVeque, "Updating Formulae and a Pairwise Algorithm" (1979)."""
        finite = np.isfinite(y_NC)
        n = finite.sum(axis=0)
        if finite.all():
            mean = y_NC.mean(axis=0)
            away = y_NC - mean
        else:
            mean = np.where(finite, y_NC, 0).sum(axis=0) / np.maximum(n, 1)
            away = np.where(finite, y_NC - mean, 0)
        around = np.square(away).sum(axis=0)
        total = np.maximum(self.count + n, 1)
        self.around += around + (mean - self.mean) ** 2 * self.count * n / total
        self.mean += (mean - self.mean) * n / total
        self.count += n

    def part(self, output: str, piece: Piece | None) -> Part:
        """The part with the elements of ``piece``; None for all."""
        whole = piece is None or len(piece.elements) == len(self.count)
        chosen = slice(None) if piece is None else list(piece.elements)
        n = max(float(self.count[chosen].sum()), 1.0)
        spread = math.sqrt(float(self.around[chosen].sum()) / n)
        squares = self.around[chosen] + self.count[chosen] * np.square(self.mean[chosen])
        return Part(
            output,
            output if whole or piece is None else f"{output}[{_stretches(piece.elements)}]",
            self.axis,
            () if whole or piece is None else piece.elements,
            "" if piece is None else piece.node,
            spread,
            math.sqrt(float(squares.sum()) / n),
        )

    def alike(self, piece: Piece) -> list[Piece]:
        """Its elements, divided by their spreads; those that vary by rounding alone lie apart."""
        spreads = np.sqrt(self.around / np.maximum(self.count, 1))
        most = spreads[list(piece.elements)].max(initial=0.0)
        spreads[spreads <= _STILL * np.maximum(np.abs(self.mean), most)] = 0
        found: list[list[int]] = []
        largest = np.inf
        for element in sorted(piece.elements, key=lambda i: -spreads[i]):
            if not found or spreads[element] * _ALIKE < largest:
                found.append([])
                largest = spreads[element]
            found[-1].append(element)
            if not largest:
                largest = -1.0  # what does not vary is one part
        return [Piece(tuple(sorted(one)), piece.node) for one in found]


class Spreads:
    """Collects what the dense model gives for the data, and divides its outputs.

    Args:
        axes: by output, axes of channels; outputs that are not there have the second axis of two.
        whole: outputs that are one part, and the axis of their channels.
        classes: outputs whose channels are classes.
    """

    def __init__(
        self,
        axes: Mapping[str, Sequence[ChannelAxis]],
        whole: Mapping[str, int],
        classes: Collection[str] = (),
    ) -> None:
        self._axes, self._whole, self._classes = axes, whole, classes
        self._moments: dict[str, dict[int | None, _Moments]] = {}

    def add(self, outputs: Mapping[str, Array]) -> None:
        """The outputs for one batch."""
        for name, y in outputs.items():
            if not is_float(y.dtype) or not y.size:
                continue
            if name not in self._moments:
                self._moments[name] = {axis: _Moments(axis) for axis in (None, *self._candidates(name, y))}
            moments = self._moments[name]
            for axis in [axis for axis, one in moments.items() if not one.fits(y)]:
                del moments[axis]
            for one in moments.values():
                one.add(y)

    def parts(self) -> tuple[Part, ...]:
        """Of all outputs of a float type that were seen."""
        return tuple(
            part
            for name, found in self._moments.items()
            for part in _scaled(
                self._of(name, found), name in self._whole, _RARE if name in self._classes else _LEAST
            )
        )

    def _candidates(self, name: str, y: Array) -> list[int]:
        if name in self._whole:
            return [self._whole[name]]
        if name in self._axes:
            return [
                one.axis
                for one in self._axes[name]
                if one.axis < y.ndim and y.shape[one.axis] == sum(len(p.elements) for p in one.pieces)
            ]
        return [1] if y.ndim == 2 else []

    def _of(self, name: str, found: Mapping[int | None, _Moments]) -> list[list[Part]]:
        """The division along the axis on which spreads differ most; for each piece, its parts."""
        choices = [(0.0, [[found[None].part(name, None)]])]
        for axis, moments in found.items():
            if axis is not None:
                whole = Piece(tuple(range(len(moments.count))))
                pieces = next((a.pieces for a in self._axes.get(name, ()) if a.axis == axis), (whole,))
                divided = [moments.alike(piece) for piece in pieces]
                if name in self._whole:
                    pieces, divided = (whole,), [[whole]]
                largest = pieces if len(pieces) > 1 else divided[0]
                contrast = _contrast([moments.part(name, piece) for piece in largest])
                choices.append((contrast, [[moments.part(name, one) for one in p] for p in divided]))
        return max(reversed(choices), key=lambda choice: choice[0])[1]


def _contrast(parts: Sequence[Part]) -> float:
    """Largest ratio of their spreads; 0 for a single one."""
    if len(parts) == 1:
        return 0.0
    spreads = [part.spread for part in parts if not part.still]
    return max(spreads) / min(spreads) if spreads else 1.0


def _scaled(pieces: Sequence[Sequence[Part]], scores: bool, share: float) -> list[Part]:
    """Parts of one output with what their errors are divided by.

    Args:
        pieces: for each piece, its parts.
        scores: they are class scores of whole samples.
        share: of the largest spread, that no part is measured against less than.
    """
    largest = max(part.spread for parts in pieces for part in parts)
    found = []
    for parts in pieces:
        least = share * largest
        if len(pieces) > 1:
            least = max(least, _RARE * max(part.spread for part in parts))
        for part in parts:
            basis = LEVEL if part.level and (scores or part.still) else SPREAD
            scale = part.level if basis == LEVEL else part.spread or largest
            if scale < least:
                scale, basis = least, SHARE
            found.append(replace(part, scale=scale, basis=basis))
    return found


def _stretches(elements: Sequence[int]) -> str:
    """``0, 4:84`` of indices."""
    found = []
    for _, members in groupby(enumerate(elements), lambda pair: pair[1] - pair[0]):
        run = [element for _, element in members]
        found.append(str(run[0]) if len(run) == 1 else f"{run[0]}:{run[-1] + 1}")
    return ",".join(found[:_SHOWN]) + (",..." if len(found) > _SHOWN else "")


def weighted(parts: Sequence[Part], weights: Mapping[str, float]) -> tuple[Part, ...]:
    """Parts with the weights that were asked for, by name of a part, its output, or the node that gave it.

    Exact names come before patterns of a shell, what is named more closely before what is named less so.

    Raises:
        OptionError: a name that fits nothing.
    """
    found, used = [], set()
    for part in parts:
        names = [name for name in (part.name, part.node, part.output) if name]
        hits = [key for name in names for key in weights if name == key]
        hits += [key for name in names for key in weights if fnmatchcase(name, key)]
        used.update(hits)
        found.append(replace(part, weight=float(weights[hits[0]])) if hits else part)
    if unknown := [name for name in weights if name not in used]:
        listed = ", ".join(f"{part.name} from {part.node}" if part.node else part.name for part in parts)
        raise OptionError(f"{named('weight')} {unknown[0]!r} fits no part of an output: there are {listed}")
    if parts and not any(part.weight for part in found):
        raise OptionError(f"{named('weight')} 0 for all parts of the outputs leaves nothing to measure")
    return tuple(found)


class ErrorSums:
    """Errors of parts, summed over batches.

    Args:
        parts: which ones.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = tuple(parts)
        self._squares = [0.0] * len(self.parts)
        self._counts = [0.0] * len(self.parts)

    def add(self, dense: Mapping[str, Array], other: Mapping[str, Array]) -> None:
        """One batch; an output of another shape counts as all wrong."""
        for number, part in enumerate(self.parts):
            if part.output not in dense or part.weight == 0:
                continue
            y, z = dense[part.output], other[part.output]
            squares, count = _squares(part.of(y), part.of(z)) if y.shape == z.shape else _lost(part, y)
            self._squares[number] += squares
            self._counts[number] += count

    def errors(self) -> tuple[PartError, ...]:
        """Of all parts that were compared."""
        return tuple(
            PartError(
                part.name,
                part.output,
                part.node,
                part.basis,
                part.scale,
                part.weight,
                _ratio(math.sqrt(squares / count) if math.isfinite(squares) else math.inf, part.scale),
                part.scale * math.sqrt(count) / part.weight,
            )
            for part, squares, count in zip(self.parts, self._squares, self._counts, strict=True)
            if count
        )


def _squares(y: Array, z: Array) -> tuple[float, float]:
    """Sum of squared differences, and of how many numbers; equal infinities (masked scores) are equal."""
    y, z = y.reshape(-1), z.reshape(-1)
    total = count = 0.0
    for first in range(0, y.size, _BLOCK):
        before = y[first : first + _BLOCK].astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is told elsewhere
            difference = z[first : first + _BLOCK].astype(np.float64) - before
            squares = _energy(difference)
            if math.isfinite(squares):
                count += len(before)
            else:
                difference[z[first : first + _BLOCK] == before] = 0.0
                squares = _energy(difference)
                count += float(np.isfinite(before).sum())
        total += squares
    return total if math.isfinite(total) else math.inf, count


def _energy(x: NDArray[np.float64]) -> float:
    return float(np.einsum("i,i->", x, x))  # a dot product would start threads for it


def _lost(part: Part, y: Array) -> tuple[float, float]:
    """As if each number were off by the part's scale."""
    count = float(np.isfinite(part.of(y)).sum())
    return count * (part.scale**2 or 1.0), count


def _ratio(error: float, scale: float) -> float:
    if error == 0:
        return 0.0
    return error / scale if scale > 0 else math.inf
