"""Whether data can be what a model was made for: what cannot be right is refused, what looks wrong is told.

An error that is measured on wrong data is small and means nothing: a network that gets pixels of 0 to 255
where it was trained on 0 to 1, or noise, or the same picture again and again, hardly uses what pruning takes
away.
:data:`SAMPLES` samples of each source are looked at.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, bdtrc, betaincinv

from obs_onnx.data.feeds import Array, Feed, is_float
from obs_onnx.data.rows import RandomRows
from obs_onnx.data.sources import SampleSource, Source
from obs_onnx.passes.errors import DataError

__all__ = [
    "SAMPLES",
    "Seen",
    "check_samples",
    "contradiction",
    "differences",
    "guesses",
    "look",
    "saturation",
]

SAMPLES = 256
_FEW = 16  # samples, below which two sets have to differ more
_DISTANCE, _RATIO, _RATIO_OF_FEW = 0.75, 2.0, 4.0  # of means in standard deviations, and of these deviations
_PIXELS = 255.0
_DARK = 32.0  # pixels of a picture reach more than this
_SURE = 30.0  # nats between the best and the second class: nobody is as sure
_ENDS = 1e-6
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Range:
    """The numbers of an input over all samples; infinite ones (masks) do not count."""

    count: int
    mean: float
    deviation: float
    low: float
    high: float
    whole: float

    def __str__(self) -> str:
        return f"mean {self.mean:.3g}, deviation {self.deviation:.3g}, {self.low:.3g} to {self.high:.3g}"


@dataclass(frozen=True)
class Seen:
    """What was seen of data.

    Attributes:
        where: name of the data.
        samples: that were looked at (feeds, where these come whole).
        different: of them.
        ranges: of the inputs that hold numbers.
        random: it is drawn, not data.
    """

    where: str
    samples: int
    different: int
    ranges: Mapping[str, Range]
    random: bool


def look(source: Source, *others: Source) -> Seen:
    """Go over some samples of a source, and of others of the same kind."""
    seen, count = set(), 0
    sums: dict[str, list[NDArray[np.float64]]] = {}
    names = None if source.axes.whole or not source.axes.samples else source.axes.samples
    for one in (source, *others):
        most = count + SAMPLES
        for feed in one.limit(SAMPLES):
            parts = [feed] if names is None else _samples(feed, names)
            seen |= {_digest(part) for part in parts}
            count += len(parts)
            for name, x in feed.items():
                if x.dtype.kind in "biuf" or is_float(x.dtype):
                    sums.setdefault(name, []).append(_sums(x))
            if count >= most:  # a stream is limited by feeds, which may hold many samples
                break
    random = isinstance(source, SampleSource) and any(isinstance(r, RandomRows) for r in source.rows.values())
    ranges = {name: _range(np.array(rows)) for name, rows in sums.items()}
    return Seen(source.where, count, len(seen), ranges, random)


def check_samples(seen: Seen) -> list[str]:
    """Warnings about calibration data by itself.

    Raises:
        DataError: all samples are the same.
    """
    if seen.samples > 1 and seen.different == 1:
        zero = all(one.low == one.high == 0 for one in seen.ranges.values())
        what = "hold nothing but 0" if zero and seen.ranges else "are the same"
        raise DataError(
            f"{seen.where}: all {seen.samples} samples {what}: give samples as the model will meet them"
        )
    if seen.random:
        return [f"{seen.where} is noise: no error that is measured on it says anything about real data"]
    if seen.different <= seen.samples / 2:
        return [
            f"{seen.where}: only {seen.different} of {seen.samples} samples are different: held-out ones are "
            "among those that are fitted, so that errors look smaller than they are"
        ]
    return []


def differences(calibration: Seen, evaluation: Seen) -> list[str]:
    """Warnings about calibration data whose numbers are far from those that the accuracy is measured on."""
    found = []
    for name, a in calibration.ranges.items():
        b = evaluation.ranges.get(name)
        if b is None or calibration.random or min(a.count, b.count) < 2:
            continue
        low, high = sorted((a.deviation, b.deviation))
        few = min(calibration.samples, evaluation.samples) < _FEW
        apart = abs(a.mean - b.mean) > _DISTANCE * (2 if few else 1) * high and high > 0
        if apart or high > (_RATIO_OF_FEW if few else _RATIO) * low:
            found.append(
                f"input {name!r} differs between {calibration.where} ({a}) and {evaluation.where} ({b}): one "
                "of them is prepared in another way than the model was trained with"
            )
    return found


def saturation(seen: Seen, outputs: Mapping[str, Array], scores_NC: Array | None) -> list[str]:
    """Warnings about pixels of 0 to 255 in a model that they drive to its limits.

    Args:
        seen: the data.
        outputs: of the model for some of it.
        scores_NC: the class scores among them, if there are any.
    """
    pixels = [
        name
        for name, one in seen.ranges.items()
        if one.low >= 0
        and _DARK < one.high <= _PIXELS
        and one.whole > 0.9
        and one.count > _FEW * seen.samples
    ]
    if not pixels or not (_is_sure(scores_NC) if scores_NC is not None else _at_ends(outputs)):
        return []
    return [
        f"input {pixels[0]!r} holds whole numbers up to {seen.ranges[pixels[0]].high:g}, and the outputs are "
        "at their limits: pixels of 0 to 255 may have to be scaled as the model was trained (often x / 255)"
    ]


def guesses(accuracy: float | None, samples: int, classes: int) -> list[str]:
    """A warning about a trained model that is right no more often than one that guesses."""
    if accuracy is None or classes < 2 or samples < 1:
        return []
    right, chance = round(accuracy * samples), 1 / classes
    guessed = _at_least(right, samples, chance) > 1 - _CONFIDENCE
    poor = float(bdtr(right, samples, (1 + chance) / 2)) < 1 - _CONFIDENCE
    if not (guessed and poor):
        return []
    return [
        f"the model is right for {right} of {samples} labelled samples, as often as by guessing one of "
        f"{classes} classes: the labels or the preprocessing are not those it was trained with"
    ]


def contradiction(
    drop: float | None, labelled: int, agreement: float | None, samples: int, error: float | None
) -> list[str]:
    """A warning about a loss of accuracy that the held-out calibration data rules out.

    A model can lose accuracy only where its class changes: on like data, no more than on the samples that are
    put into another class.

    Args:
        drop: of the accuracy, 0 to 1.
        labelled: samples that it was measured on.
        agreement: share of the held-out calibration data put into the same class.
        samples: of these.
        error: of the outputs on the same.
    """
    if drop is None or agreement is None or drop <= 0 or not samples or not labelled:
        return []
    changed = _interval(round((1 - agreement) * samples), samples)[1]
    lost = _interval(round(min(drop, 1.0) * labelled), labelled)[0]
    if lost <= changed:
        return []
    by = "" if error is None else f" (output error {error:.3g})"
    return [
        f"accuracy fell by {100 * drop:.1f} points, but only {100 * (1 - agreement):.1f} % of the held-out "
        f"calibration data{by} is put into another class: it is not like the data with labels"
    ]


def _samples(feed: Feed, names: tuple[str, ...]) -> list[Feed]:
    return [{name: feed[name][row] for name in names} for row in range(len(feed[names[0]]))]


def _digest(sample: Feed) -> bytes:
    found = hashlib.blake2b(digest_size=16)
    for name in sorted(sample):
        array = np.asarray(sample[name], order="C")
        found.update(f"{name}{array.shape}".encode())
        found.update(repr(array.tolist()).encode() if array.dtype.kind in "OSU" else array.tobytes())
    return found.digest()


def _sums(x: Array) -> NDArray[np.float64]:
    """Count, sum, sum of squares, least, largest and whole numbers of what is finite."""
    flat = x.astype(np.float64).ravel()
    flat = flat[np.isfinite(flat)]
    if not flat.size:
        return np.array([0, 0, 0, np.inf, -np.inf, 0])
    whole = np.count_nonzero(flat == np.rint(flat))
    return np.array([flat.size, flat.sum(), np.square(flat).sum(), flat.min(), flat.max(), whole])


def _range(sums: NDArray[np.float64]) -> Range:
    count, total, square, _, _, whole = sums.sum(axis=0)
    mean = total / max(count, 1)
    spread = max(square / max(count, 1) - mean**2, 0.0)
    low, high = sums[:, 3].min(), sums[:, 4].max()
    deviation = 0.0 if low >= high else float(np.sqrt(spread))
    return Range(int(count), float(mean), deviation, float(low), float(high), float(whole / max(count, 1)))


def _is_sure(scores_NC: Array) -> bool:
    """At least half of the samples are put into a class with more certainty than any training gives."""
    best = np.sort(scores_NC.astype(np.float64), axis=1)[:, -2:]
    probable = bool(scores_NC.min() >= 0 and np.allclose(scores_NC.sum(axis=1), 1, atol=1e-3))
    with np.errstate(divide="ignore"):
        margin = np.log(best[:, 1]) - np.log(best[:, 0]) if probable else best[:, 1] - best[:, 0]
    return bool(np.mean(margin > _SURE) >= 0.5)


def _at_ends(outputs: Mapping[str, Array]) -> bool:
    """The outputs are those of a sigmoid or hyperbolic tangent far from zero, or of a clip."""
    floats = [y.astype(np.float64) for y in outputs.values() if is_float(y.dtype) and y.size]
    if not floats or any(np.abs(y).max() > 1 for y in floats):
        return False
    ends = [(np.abs(y) > 1 - _ENDS) | (np.abs(y) < _ENDS) for y in floats]
    full = any((np.abs(y) > 1 - _ENDS).any() for y in floats)
    return full and all(end.mean() > 0.9 for end in ends)


def _at_least(count: int, trials: int, share: float) -> float:
    """Probability of so many hits or more, if ``share`` is that of one.

    These two are ``scipy.stats.binomtest``; importing ``scipy.stats`` takes longer than all else.
    """
    return float(bdtrc(count - 1, trials, share)) if count > 0 else 1.0


def _interval(count: int, trials: int) -> tuple[float, float]:
    """The shares of hits that go with so many of them, by Clopper and Pearson."""
    tail = (1 - _CONFIDENCE) / 2
    low = float(betaincinv(count, trials - count + 1, tail)) if count > 0 else 0.0
    high = float(betaincinv(count + 1, trials - count, 1 - tail)) if count < trials else 1.0
    return low, high
