"""Structured Optimal Brain Surgeon against refits."""

from __future__ import annotations

import nets
import numpy as np
import pytest
from channel_helpers import opened, tensors_of
from criterion_cases import with_outputs
from nets import run_proto

from obs_onnx.criteria.channels import CRITERIA


class TestSurgeon:
    def test_one_removal_costs_what_the_refit_costs(self, make_proto) -> None:
        """The first channel to go, and its loss, are those of the cheapest refit over all readers."""
        rng = np.random.default_rng(0)
        proto = make_proto(
            "g (float[N,6] x) => (float[N,3] y, float[N,2] z)"
            "{ a = Gemm(x, w, b) h = Tanh(a) y = Gemm(h, v, c) z = MatMul(h, u) }",
            {
                "w": rng.normal(size=(6, 5)).astype(np.float32),
                "b": rng.normal(size=5).astype(np.float32),
                "v": rng.normal(size=(5, 3)).astype(np.float32),
                "c": rng.normal(size=3).astype(np.float32),
                "u": rng.normal(size=(5, 2)).astype(np.float32),
            },
        )
        x = nets.data(0, 200, 6)
        _, coupling, _, evidence = opened(proto, x, damping=0.0)
        (group,) = coupling.groups
        h = run_proto(with_outputs(evidence.model, "h"), {"x": x})["h"].astype(np.float64)
        w = tensors_of(evidence.model)
        losses = []
        for channel in range(5):
            loss = 0.0
            for weight, inputs in ((w["v"], h - h.mean(0)), (w["u"], h)):  # with and without a bias
                t, kept = inputs @ weight, np.delete(inputs, channel, axis=1)
                loss += np.sum((t - kept @ np.linalg.lstsq(kept, t, rcond=None)[0]) ** 2)
            losses.append(loss)
        scores = CRITERIA["obs"](evidence, group)
        assert scores.argmin() == np.argmin(losses)
        assert scores.min() == pytest.approx(min(losses), rel=1e-4)
        assert len(set(scores)) == 5
