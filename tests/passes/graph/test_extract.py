"""Parts of a graph as models of their own."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from obs_onnx.passes.canonical.canonicalize import canonicalize
from obs_onnx.passes.graph.extract import extract


def weight(seed: int, *shape: int) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=shape) / 2).astype(np.float32)


class TestExtract:
    BODY = "g (float[N,4] x) => (float[N,4] y) { a = MatMul(x, w) r = Relu(a) y = MatMul(r, v) }"
    TENSORS = {"w": weight(0, 4, 4), "v": weight(1, 4, 4)}  # noqa: RUF012

    def test_a_weight_can_be_fed(self, make_model, run_model) -> None:
        part = extract(canonicalize(make_model(self.BODY, self.TENSORS)), ["w", "x"], ["r"])
        assert {value.name for value in part.graph.inputs} == {"w", "x"}
        assert list(part.graph.initializers) == []
        x = weight(2, 3, 4)
        expected = np.maximum(x @ self.TENSORS["v"], 0)
        actual = run_model(part, {"x": x, "w": self.TENSORS["v"]})["r"]
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)

    def test_what_it_does_not_reach_is_dropped(self, make_model) -> None:
        part = extract(make_model(self.BODY, self.TENSORS), ["x", "r"], ["y"])
        assert [value.name for value in part.graph.inputs] == ["r"]
        assert list(part.graph.initializers) == ["v"]
        assert [node.op_type for node in part.graph] == ["MatMul"]

    def test_the_model_stays_as_it_was(self, make_model) -> None:
        model = make_model(self.BODY, self.TENSORS)
        before = ir.to_proto(model).SerializeToString(deterministic=True)
        part = extract(model, ["r"], ["y"])
        part.graph.initializers["v"].const_value = ir.tensor(np.zeros((4, 4), np.float32), name="v")
        assert ir.to_proto(model).SerializeToString(deterministic=True) == before

    def test_inputs_that_do_not_bound_it(self, make_model) -> None:
        with pytest.raises(ValueError, match="x"):
            extract(make_model(self.BODY, self.TENSORS), ["r"], ["a"])

    def test_initializers_that_are_inputs_too(self, make_proto, run_model) -> None:
        proto = make_proto(self.BODY, self.TENSORS, opset=8, ir_version=3)
        for name in self.TENSORS:
            proto.graph.input.append(onnx.helper.make_tensor_value_info(name, 1, [4, 4]))
        onnx.checker.check_model(proto)
        part = extract(canonicalize(ir.from_proto(proto)), ["r"], ["y"])
        assert [value.name for value in part.graph.inputs] == ["r"]
        r = weight(3, 2, 4)
        np.testing.assert_allclose(run_model(part, {"r": r})["y"], r @ self.TENSORS["v"], rtol=1e-5)
