"""Second derivatives by gates against finite differences."""

from __future__ import annotations

import numpy as np

from obs_onnx.criteria.channels import CRITERIA


def test_second_order_alone(gated_chain) -> None:
    evidence, group, _, h = gated_chain
    np.testing.assert_allclose(CRITERIA["obd"](evidence, group), np.abs(h.mean(1)) / 2, rtol=1e-3, atol=1e-6)
