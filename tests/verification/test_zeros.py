"""Promised zeros and patterns, against tampered models."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from layer_runs import normal, stored
from pruned_mlp import changed, halved

from obs_onnx.passes.canonical.canonicalize import canonicalize
from obs_onnx.passes.errors import VerificationError
from obs_onnx.passes.layers.find_layers import find_layers
from obs_onnx.solvers import UNSTRUCTURED, parse_pattern
from obs_onnx.verification.zeros import check_zeros


class TestCheckZeros:
    def masks(self, model: ir.Model) -> dict[str, np.ndarray]:
        layers, _ = find_layers(model)
        return {layer.name: layer.layout.to_matrix(stored(model, layer.name)) != 0 for layer in layers}

    def test_counts(self, scaled_mlp) -> None:
        pruned = changed(scaled_mlp, w1=halved(stored(scaled_mlp, "w1")))
        layers, _ = find_layers(scaled_mlp)
        assert check_zeros(pruned, layers, self.masks(pruned), UNSTRUCTURED) == {"w1": 30, "w2": 0}
        assert check_zeros(pruned, layers, {}, UNSTRUCTURED) == {"w1": 30, "w2": 0}

    def test_a_weight_that_came_back(self, scaled_mlp) -> None:
        pruned = changed(scaled_mlp, w1=halved(stored(scaled_mlp, "w1")))
        layers, _ = find_layers(scaled_mlp)
        masks = self.masks(pruned)
        tampered = stored(pruned, "w1")
        tampered[tuple(np.argwhere(tampered == 0)[3])] = 1e-20
        with pytest.raises(VerificationError, match="layer w1 has 1 weights that should be zero"):
            check_zeros(changed(pruned, w1=tampered), layers, masks, UNSTRUCTURED)

    def test_patterns_lie_along_the_inputs(self, make_model) -> None:
        model = canonicalize(
            make_model("g (float[N,8] x) => (float[N,4] y) { y = MatMul(x, w) }", {"w": normal(0, 8, 4)})
        )
        layers, _ = find_layers(model)
        along = stored(model, "w")
        along[[0, 3, 4, 6]] = 0  # two of every four inputs
        pruned = changed(model, w=along)
        assert check_zeros(pruned, layers, self.masks(pruned), parse_pattern("2:4")) == {"w": 16}
        across = stored(model, "w")
        across[:4, [0, 1]] = 0  # two of every four outputs
        across[0, 2] = 0
        pruned = changed(model, w=across)
        for pattern, ok in (("3:4", True), ("2:4", False), ("4x1", False), ("1x4", False), ("1x1", True)):
            if ok and pattern == "1x1":
                assert check_zeros(pruned, layers, self.masks(pruned), parse_pattern(pattern)) == {"w": 9}
            else:
                with pytest.raises(VerificationError, match="layer w breaks the pattern"):
                    check_zeros(pruned, layers, self.masks(pruned), parse_pattern(pattern))

    def test_a_kept_weight_may_be_zero(self, make_model) -> None:
        model = canonicalize(
            make_model("g (float[N,8] x) => (float[N,4] y) { y = MatMul(x, w) }", {"w": normal(0, 8, 4)})
        )
        layers, _ = find_layers(model)
        values = stored(model, "w")
        values[:4] = 0
        masks = self.masks(changed(model, w=values))
        values[5, 1] = 0
        assert check_zeros(changed(model, w=values), layers, masks, parse_pattern("1x4")) == {"w": 17}
