"""Ranges of activations in integers of 8 bits, by several methods; which of them is best the data decide.

The smallest and the largest value hold everything that was seen, and leave few steps for what is usual; of
few samples they hold too little, and a tenth more helps. A percentile cuts off so many of the values at each
end (McKinstry et al. 2019). The mean squared error weighs the steps against what is cut off, over a histogram
(Nagel et al. 2021, section 3.1).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.data.sources import Source
from obs_onnx.passes.graph.extract import extract
from obs_onnx.passes.graph.inputs import input_names
from obs_onnx.runtimes import Runtime
from obs_onnx.runtimes.sessions.partial_run import Values, open_part, run_feed

__all__ = ["METHODS", "Histogram", "observe", "ranges"]

METHODS = (
    "min-max",
    "min-max and a tenth",
    "percentile 99.999",
    "percentile 99.99",
    "percentile 99.9",
    "mean squared error",
)

_BINS = 2048
_STEPS = 255  # between the lowest and the highest integer
_SHARES = np.linspace(1.0, 0.3, 36)  # of the range, that the mean squared error is computed of
_LIMITS = {"Relu", "Clip"}  # what is cut off in front of them is cut off anyway


@dataclass(frozen=True)
class Histogram:
    """Values of an activation over calibration data.

    Attributes:
        low, high: smallest and largest value.
        counts: (bins,) values between them, in bins of the same width.
    """

    low: float
    high: float
    counts: NDArray[np.int64]

    @property
    def centres(self) -> NDArray[np.float64]:
        """(bins,) the middle of each bin."""
        width = (self.high - self.low) / len(self.counts)
        return np.asarray(self.low + width * (np.arange(len(self.counts)) + 0.5))

    def percentile(self, share: float) -> tuple[float, float]:
        """The range that leaves out less than a share of the values at each end."""
        width = (self.high - self.low) / len(self.counts)
        below = np.cumsum(self.counts) / max(int(self.counts.sum()), 1)
        first = int(np.searchsorted(below, share, side="right"))
        last = int(np.searchsorted(below, 1 - share))
        return self.low + width * first, self.low + width * (last + 1)

    def least_squares(self) -> tuple[float, float]:
        """The range with the least mean squared error, among those that are smaller at both ends alike."""
        values, best, least = self.centres, (self.low, self.high), np.inf
        for upper in _SHARES:
            for lower in (1.0, upper) if upper < 1 else (1.0,):
                low, high = min(self.low * lower, 0.0), max(self.high * upper, 0.0)
                step = (high - low) / _STEPS
                if step == 0:
                    continue
                wrong = np.rint(np.clip(values, low, high) / step) * step - values
                error = float((self.counts * wrong * wrong).sum())
                if error < least:
                    best, least = (low, high), error
        return best


def observe(
    model: ir.Model, names: Iterable[str], source: Source, runtime: Runtime
) -> Mapping[str, Histogram]:
    """Histograms of values of a model; those that are not finite are left out.

    Args:
        model: of float.
        names: of values.
        source: calibration data, read twice.
        runtime: where the model runs.
    """
    given, names = input_names(model), list(names)
    inner = [name for name in names if name not in given]
    session = open_part(runtime, extract(model, given, inner)) if inner else None
    lows, highs, counts = dict[str, float](), dict[str, float](), dict[str, NDArray[np.int64]]()

    def values(feed: Values) -> Iterable[tuple[str, NDArray[np.generic]]]:
        found = dict(feed) if session is None else {**feed, **run_feed(session, feed)}
        return ((name, found[name]) for name in names if found[name].size)

    for feed in source:
        for name, array in values(feed):
            lows[name] = min(lows.get(name, np.inf), float(array.min()))
            highs[name] = max(highs.get(name, -np.inf), float(array.max()))
    finite = {name for name in lows if np.isfinite([lows[name], highs[name]]).all()}
    for feed in source:
        for name, array in values(feed):
            if name in finite:
                found, _ = np.histogram(array, _BINS, (lows[name], highs[name]))
                counts[name] = counts.get(name, 0) + found
    return {name: Histogram(lows[name], highs[name], counts[name]) for name in names if name in finite}


def ranges(
    model: ir.Model, histograms: Mapping[str, Histogram], method: str
) -> Mapping[str, tuple[float, float]]:
    """Ranges by one of :data:`METHODS`, of the smallest to the largest for each value.

    What only a Relu or a Clip reads has the range of what that gives.
    """
    found = {name: _range(one, method) for name, one in histograms.items()}
    for node in model.graph:
        given = node.inputs[0] if node.inputs else None
        if node.op_type in _LIMITS and given is not None and len(given.uses()) == 1:
            after = found.get(str(node.outputs[0].name))
            if after is not None and str(given.name) in found:
                found[str(given.name)] = after
    return found


def _range(one: Histogram, method: str) -> tuple[float, float]:
    if method == METHODS[0] or one.low == one.high:
        return one.low, one.high
    if method == METHODS[1]:
        return 1.1 * one.low, 1.1 * one.high
    if method == METHODS[-1]:
        return one.least_squares()
    return one.percentile(1 - float(method.split()[1]) / 100)
