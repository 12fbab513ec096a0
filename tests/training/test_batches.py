"""The order of samples."""

from __future__ import annotations

import numpy as np

from obs_onnx.data.feeds import TensorSpec
from obs_onnx.data.open_source import open_source
from obs_onnx.training.batches import shuffled


def test_batches_depend_on_seed_and_step_alone(rng):
    data = {"x": np.arange(20, dtype=np.float32)[:, None]}
    source = open_source(data, [TensorSpec("x", (None, 1), np.dtype(np.float32))])
    stream = shuffled(source, 6, seed=1)
    first = [next(stream).rows for _ in range(7)]
    for epoch in (first[:3], first[3:6]):
        assert len(np.unique(np.concatenate(epoch))) == 18
    assert not np.array_equal(np.concatenate(first[:3]), np.concatenate(first[3:6]))
    again = shuffled(source, 6, seed=1, start=4)
    assert all(np.array_equal(next(again).rows, rows) for rows in first[4:])
    assert not np.array_equal(next(shuffled(source, 6, seed=2)).rows, first[0])
