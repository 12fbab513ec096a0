"""First derivatives by gates against finite differences."""

from __future__ import annotations

import numpy as np

from obs_onnx.criteria.channels import CRITERIA


def test_first_order(gated_chain) -> None:
    evidence, group, g, _ = gated_chain
    np.testing.assert_allclose(CRITERIA["taylor"](evidence, group), np.abs(g).mean(1), rtol=1e-4)
