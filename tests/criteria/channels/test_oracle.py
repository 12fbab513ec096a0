"""The oracle: each channel silenced in turn."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from nets import run_proto
from scipy.special import logsumexp

from obs_onnx.criteria.channels import CRITERIA
from obs_onnx.passes.channels.silence import silence


def test_the_oracle_without_a_damage_is_the_change_of_the_loss(perceptron) -> None:
    """Cross-entropy with the classes that the model itself names, each channel silenced in turn."""
    evidence, coupling, x = perceptron
    group, answer = coupling.groups[0], next(iter(run_proto(ir.to_proto(evidence.model), {"x": x}).values()))

    def loss(scores: np.ndarray) -> float:
        scores = scores.astype(np.float64)
        named_class = scores[np.arange(len(scores)), answer.argmax(1)]
        return float(np.mean(logsumexp(scores, axis=1) - named_class))

    changes = []
    for channel in range(group.n):
        silenced = silence(evidence.model, {group.id: np.arange(group.n) != channel}, coupling)
        scores = next(iter(run_proto(ir.to_proto(silenced), {"x": x}).values()))
        changes.append(abs(loss(scores) - loss(answer)))
    np.testing.assert_allclose(CRITERIA["oracle"](evidence, group), changes, rtol=1e-3, atol=1e-6)
