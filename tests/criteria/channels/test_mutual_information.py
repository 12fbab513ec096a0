"""Mutual information with the class, where it is known."""

from __future__ import annotations

import nets
import numpy as np
import pytest
from channel_helpers import opened

from obs_onnx.criteria.channel_statistics import ChannelStatistics
from obs_onnx.criteria.channels import CRITERIA
from obs_onnx.passes.channels.coupling import Coupling


class TestMutualInformation:
    @pytest.fixture
    def case(self, make_proto) -> tuple[ChannelStatistics, Coupling]:
        """Hidden units: the class itself, a constant, something independent, half of the class."""
        proto = make_proto(
            "g (float[N,4] x) => (float[N,2] y) { a = Gemm(x, w, b) h = Relu(a) y = Gemm(h, v, c) }",
            {
                "w": np.eye(4, dtype=np.float32),
                "b": np.full(4, 9, np.float32),
                "v": np.array([[1, -1], [0, 0], [0, 0], [0, 0]], np.float32),
                "c": np.array([-9, 9], np.float32),
            },
        )
        sign = np.repeat([-1.0, 1.0], 64)
        independent = np.tile(np.arange(8.0), 16)
        half = np.where(np.tile(np.arange(64) < 32, 2), 0.0, sign)
        x = np.stack([sign, np.zeros(128), independent, half], axis=1).astype(np.float32)
        _, coupling, _, evidence = opened(proto, x[np.random.default_rng(0).permutation(128)])
        return evidence, coupling

    def test_known_values(self, case) -> None:
        evidence, coupling = case
        (group,) = coupling.groups
        np.testing.assert_allclose(
            CRITERIA["mutual-information"](evidence, group), [np.log(2), 0, 0, np.log(2) / 2], atol=1e-9
        )

    def test_without_classes_it_is_the_deviation(self, make_proto) -> None:
        proto = make_proto(
            "g (float[N,4] x) => (float[N,1,3] y)"
            "{ a = MatMul(x, w) h = Relu(a) s = MatMul(h, v) y = Unsqueeze(s, axis) }",
            {
                "w": np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32),
                "v": np.ones((8, 3), np.float32),
                "axis": np.array([1]),
            },
        )
        _, coupling, _, evidence = opened(proto, nets.data(0, 50, 4))
        (group,) = coupling.groups
        assert evidence.classes is None
        found = CRITERIA["mutual-information"](evidence, group)
        np.testing.assert_array_equal(found, CRITERIA["std"](evidence, group))
