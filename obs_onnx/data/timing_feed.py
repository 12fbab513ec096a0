"""The feed on which models are timed."""

from __future__ import annotations

import numpy as np

from obs_onnx.data.feeds import Feed, TensorSpec
from obs_onnx.data.sources import Source, batch_layout
from obs_onnx.passes.errors import OptionError, named

__all__ = ["timing_feed"]


def timing_feed(source: Source, inputs: tuple[TensorSpec, ...], batch: int) -> Feed:
    """One complete feed of exactly ``batch`` samples; where there are fewer, some stand in it more than once.

    Raises:
        OptionError: the model does not take such a batch.
    """
    feed = next(iter(source.rebatch(batch)))
    layout = batch_layout(inputs)
    if layout == "free":
        rows = np.arange(batch) % len(next(iter(feed.values())))
        return {name: np.ascontiguousarray(array[rows]) for name, array in feed.items()}
    if batch not in (1, layout):
        own = "its inputs share no batch" if layout == "none" else f"it takes batches of {layout}"
        raise OptionError(
            f"{named('batch')} {batch}: the model cannot be timed so, {own}: leave out {named('batch')}"
        )
    return feed
