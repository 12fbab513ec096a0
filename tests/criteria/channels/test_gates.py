"""Both derivatives by gates against finite differences."""

from __future__ import annotations

import numpy as np

from obs_onnx.criteria.channels import CRITERIA


def test_second_order(gated_chain) -> None:
    evidence, group, g, h = gated_chain
    expected = np.abs(-g.mean(1) + h.mean(1) / 2)
    np.testing.assert_allclose(CRITERIA["gates"](evidence, group), expected, rtol=1e-3, atol=1e-6)
