"""The feed on which models are timed."""

from __future__ import annotations

import numpy as np

from obs_onnx.data.batch_axes import Role
from obs_onnx.data.feeds import Feed, TensorSpec
from obs_onnx.data.limits import check_batch
from obs_onnx.data.sources import Source
from obs_onnx.passes.errors import OptionError, named

__all__ = ["timing_feed"]


def timing_feed(source: Source, inputs: tuple[TensorSpec, ...], batch: int) -> Feed:
    """One complete feed of exactly ``batch`` samples; where there are fewer, some stand in it more than once.

    Raises:
        OptionError: the model does not take such a batch, or the memory does not.
    """
    check_batch(inputs, batch)
    feed = next(iter(source.rebatch(batch)))
    axes = source.axes
    if axes.samples and not axes.whole:
        rows = np.arange(batch) % len(feed[axes.samples[0]])
        counted = (*axes.samples, *axes.names(Role.REPEATED))
        return {**feed, **{name: np.ascontiguousarray(feed[name][rows]) for name in counted}}
    if batch not in (1, axes.group):
        own = f"it takes batches of {axes.group}" if axes.group > 1 else "its inputs share no free batch"
        raise OptionError(
            f"{named('batch')} {batch}: the model cannot be timed so, {own}: leave out {named('batch')}"
        )
    return feed
