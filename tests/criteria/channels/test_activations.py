"""Statistics of activations, on activations computed here."""

from __future__ import annotations

import nets
import numpy as np
import pytest
from channel_helpers import named, opened
from criterion_cases import with_outputs
from nets import run_proto

from obs_onnx.criteria.channels import CRITERIA

STATISTICS = {
    "mean": lambda x: np.abs(x.mean(0)),
    "std": lambda x: x.std(0),
    "apoz": lambda x: (x != 0).mean(0),
}


def rows(x: np.ndarray) -> np.ndarray:
    """Positions by channels, of images."""
    return np.moveaxis(x, 1, -1).reshape(-1, x.shape[1]).astype(np.float64)


class TestActivations:
    @pytest.mark.parametrize("name", STATISTICS)
    def test_hidden_units(self, perceptron, name: str) -> None:
        evidence, coupling, x = perceptron
        seen = run_proto(with_outputs(evidence.model, "h1", "h2"), {"x": x})
        for value, key in (("h1", "fc1.weight[0]"), ("h2", "fc2.weight[0]")):
            expected = STATISTICS[name](seen[value].astype(np.float64))
            found = CRITERIA[name](evidence, named(coupling, key))
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)

    @pytest.mark.parametrize("name", STATISTICS)
    def test_a_channel_that_several_layers_read(self, name: str) -> None:
        """The mean over the inputs of the two convolutions and the head that read the trunk."""
        x = nets.data(0, 60, 3, 8, 8)
        _, coupling, _, evidence = opened(nets.residual(), x)
        group = named(coupling, "stem.weight[0]")
        readers = {one.layer.name: one.layer.uses[0].x for one in evidence.consumers(group)}
        assert set(readers) == {"a1.weight", "b1.weight", "skip.weight"}
        inputs = sorted(set(readers.values()))
        assert len(inputs) == 2
        seen = run_proto(with_outputs(evidence.model, *inputs), {"x": x})
        expected = np.mean([STATISTICS[name](rows(seen[value])) for value in inputs], axis=0)
        np.testing.assert_allclose(CRITERIA[name](evidence, group), expected, rtol=1e-4, atol=1e-7)

    def test_groups_that_no_layer_reads_go_by_their_weights(self) -> None:
        """Keys and queries meet each other before any layer reads them."""
        _, coupling, _, evidence = opened(nets.transformer(), nets.data(0, 30, 6, 10))
        unread = [group for group in coupling.groups if not evidence.consumers(group)]
        assert unread
        for group in unread:
            for name in ("obs", *STATISTICS):
                np.testing.assert_array_equal(
                    CRITERIA[name](evidence, group), CRITERIA["l2"](evidence, group)
                )
