"""The Fisher information of gates, every class with its probability."""

from __future__ import annotations

import nets
import numpy as np
from channel_helpers import entropy, named, opened
from product_chain import chain, doubles, logits

from obs_onnx.criteria.channels import CRITERIA


def test_fisher_is_the_expectation_over_the_models_own_classes(make_proto) -> None:
    """Every class counts with its probability."""
    proto, few = chain(make_proto), nets.data(0, 3, 7)
    w, x64 = doubles(proto), few.astype(np.float64)
    p = np.exp(logits(w, x64))
    p /= p.sum(1, keepdims=True)
    expected, step = np.zeros(6), 1e-5
    for label in range(4):
        labels = np.full(3, label)
        for k, unit in enumerate(np.eye(6) * step):
            high, low = (entropy(logits(w, x64, 1 + sign * unit), labels) for sign in (1, -1))
            expected[k] += np.mean(p[:, label] * ((high - low) / (2 * step)) ** 2) / 2
    _, coupling, _, evidence = opened(proto, few)
    found = CRITERIA["fisher"](evidence, named(coupling, "w1[1]"))
    np.testing.assert_allclose(found, expected, rtol=1e-3)
