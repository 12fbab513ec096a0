"""What outputs are compared with: scores, probabilities, numbers."""

from __future__ import annotations

import nets
import numpy as np
import pytest
from channel_helpers import entropy, named, opened
from product_chain import chain

from obs_onnx.criteria.channels import CRITERIA
from obs_onnx.criteria.reference_loss import ReferenceLoss
from obs_onnx.passes.errors import GradientError


class TestTeacher:
    def test_probabilities_are_taken_as_such(self) -> None:
        z = np.random.default_rng(0).normal(size=(5, 3))
        p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
        labels = np.array([0, 1, 2, 0, 1])
        scores, shares = (ReferenceLoss.of({"y": y}, labels) for y in (z, p))
        assert (scores.probabilities, shares.probabilities) == (False, True)
        assert shares.loss(p, labels) == pytest.approx(entropy(z, labels).mean())
        assert scores.loss(z, labels) == pytest.approx(entropy(z, labels).mean())

    def test_models_that_end_in_softmax_have_the_same_derivatives(self, make_proto) -> None:
        x = nets.data(0, 30, 7)
        found = []
        for output in ("Identity", "Softmax"):
            _, coupling, _, evidence = opened(chain(make_proto, output=output), x)
            found.append(CRITERIA["taylor"](evidence, named(coupling, "w1[1]")))
        np.testing.assert_allclose(found[0], found[1], rtol=1e-3)

    def test_a_model_without_numbers_to_differentiate(self) -> None:
        with pytest.raises(GradientError, match="float type"):
            ReferenceLoss.of({"y": np.arange(3)})
