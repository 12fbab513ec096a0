"""Norms of all weights that go with a channel."""

from __future__ import annotations

import nets
import numpy as np
from channel_helpers import named, opened, tensors_of

from obs_onnx.criteria.channels import CRITERIA


class TestMagnitude:
    def test_all_that_goes_with_a_hidden_unit(self, perceptron) -> None:
        evidence, coupling, _ = perceptron
        w = tensors_of(evidence.model)
        parts = (w["fc1.weight"].T, w["fc1.bias"][None], w["fc2.weight"])
        group = named(coupling, "fc1.weight[0]")
        l1 = sum(np.abs(part.astype(np.float64)).sum(0) for part in parts)
        l2 = np.sqrt(sum((part.astype(np.float64) ** 2).sum(0) for part in parts))
        np.testing.assert_allclose(CRITERIA["l1"](evidence, group), l1, rtol=1e-6)
        for name in ("l2", "magnitude"):
            np.testing.assert_allclose(CRITERIA[name](evidence, group), l2, rtol=1e-6)

    def test_channels_of_every_group_of_a_convolution(self) -> None:
        """A channel of the grouped convolution stands in each of its four groups."""
        _, coupling, _, evidence = opened(nets.grouped(), nets.data(0, 20, 3, 6, 6))
        w = tensors_of(evidence.model)
        width = next(g for g in coupling.groups if g.name == "cardinal.weight[0]")
        assert width.n == 6
        expected = (w["cardinal.weight"].reshape(4, 6, -1) ** 2).sum((0, 2))
        expected += (w["cardinal.bias"].reshape(4, 6) ** 2).sum(0)
        expected += (w["expand.weight"].reshape(16, 4, 6) ** 2).sum((0, 1))
        np.testing.assert_allclose(CRITERIA["l2"](evidence, width) ** 2, expected, rtol=1e-5)
