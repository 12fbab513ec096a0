"""Written models against tampered ones."""

from __future__ import annotations

import numpy as np
import pytest
from layer_runs import RUNTIME, stored
from pruned_mlp import FEEDS, changed

from obs_onnx.io.onnx_file import serialize
from obs_onnx.passes.canonical.canonicalize import canonicalize
from obs_onnx.passes.errors import VerificationError
from obs_onnx.passes.graph.set_weights import SetWeights
from obs_onnx.verification.written_model import check_model


class TestCheckModel:
    def test_other_numbers(self, scaled_mlp) -> None:
        expected = RUNTIME.session(serialize(scaled_mlp)).run(FEEDS[0])
        check_model(RUNTIME, scaled_mlp, FEEDS[0], expected)
        tampered = stored(scaled_mlp, "w1")
        tampered[2, 3] += 0.01
        with pytest.raises(VerificationError, match="output y of the written model differs"):
            check_model(RUNTIME, changed(scaled_mlp, w1=tampered), FEEDS[0], expected)

    def test_outputs_that_vanish_are_measured_by_those_of_the_dense_model(self, scaled_mlp) -> None:
        expected = RUNTIME.session(serialize(scaled_mlp)).run(FEEDS[0])
        noise = {name: y + np.float32(1e-3) * np.abs(y).max() for name, y in expected.items()}
        with pytest.raises(VerificationError, match="differs"):
            check_model(RUNTIME, scaled_mlp, FEEDS[0], noise)
        check_model(RUNTIME, scaled_mlp, FEEDS[0], noise, {name: 100 * y for name, y in expected.items()})

    def test_a_model_that_is_none(self, scaled_mlp) -> None:
        expected = RUNTIME.session(serialize(scaled_mlp)).run(FEEDS[0])
        broken = scaled_mlp.clone()
        next(iter(broken.graph)).op_type = "Gemmm"
        with pytest.raises(VerificationError, match="checker"):
            check_model(RUNTIME, broken, FEEDS[0], expected)

    @pytest.mark.parametrize("value", [-np.inf, np.nan])
    def test_numbers_that_are_not_finite_must_be_the_same(self, make_model, value: float) -> None:
        model = make_model(
            "g (float[N,6] x) => (float[N,6] y) { y = Add(x, m) }",
            {"m": np.array([0, 0, value, 0, 0, 0], np.float32)},
        )
        expected = RUNTIME.session(serialize(model)).run(FEEDS[0])
        check_model(RUNTIME, model, FEEDS[0], expected)
        finite = canonicalize(model)
        SetWeights({"m": np.zeros(6)})(finite)
        with pytest.raises(VerificationError, match="differs"):
            check_model(RUNTIME, finite, FEEDS[0], expected)
