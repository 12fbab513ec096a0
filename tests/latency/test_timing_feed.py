"""The feed that timing runs on."""

from __future__ import annotations

import numpy as np
import pytest
from nets import NETS, Net
from wide_net import LOCAL

from obs_onnx.data.open_source import open_source
from obs_onnx.data.sources import Source
from obs_onnx.latency.timing_feed import timing_feed
from obs_onnx.passes.errors import OptionError


class TestSample:
    def source(self, rows: int) -> tuple[Source, tuple]:
        inputs = LOCAL.session(NETS["mlp"]().SerializeToString()).inputs
        x = np.arange(12.0 * rows, dtype=np.float32).reshape(rows, 12)
        return open_source({"x": x}, inputs, batch_size=4), inputs

    @pytest.mark.parametrize("batch", [1, 3, 5, 12])
    def test_the_batch_is_what_was_asked_for(self, batch: int) -> None:
        source, inputs = self.source(5)
        x = timing_feed(source, inputs, batch)["x"]
        assert x.shape == (batch, 12)
        np.testing.assert_array_equal(x[:, 0], 12 * (np.arange(batch) % 5))

    def test_a_fixed_batch(self) -> None:
        net = Net(0)
        net.op("Identity", net.dense("x", "fc", 12, 3), name="y")
        inputs = LOCAL.session(net.proto({"x": [12]}, {"y": [3]}, batch=2).SerializeToString()).inputs
        source = open_source({"x": np.ones((6, 12), np.float32)}, inputs, batch_size=4)
        for batch in (1, 2):
            assert timing_feed(source, inputs, batch)["x"].shape == (2, 12)
        with pytest.raises(OptionError, match=r"batch 3: .* it takes batches of 2: leave"):
            timing_feed(source, inputs, 3)
