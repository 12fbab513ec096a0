"""Random scores."""

from __future__ import annotations

import numpy as np

from obs_onnx.criteria.channels import CRITERIA


def test_random_depends_on_seed_and_group_alone(perceptron) -> None:
    evidence, coupling, _ = perceptron
    one, two = coupling.groups
    first = CRITERIA["random"](evidence, one)
    np.testing.assert_array_equal(first, CRITERIA["random"](evidence, one))
    assert not np.array_equal(first[: two.n], CRITERIA["random"](evidence, two))
