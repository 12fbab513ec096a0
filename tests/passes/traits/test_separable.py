"""Linear maps along one axis, pulled back by their matrices."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from nets import build_model, run_proto

from obs_onnx.passes.graph.names import Names
from obs_onnx.passes.shapes.infer_shapes import InferShapes
from obs_onnx.passes.traits.separable import identity, pull_back
from obs_onnx.passes.traits.vjp import Vjp


def rule_of(text: str) -> tuple[ir.Model, Vjp]:
    model = ir.from_proto(build_model(text))
    InferShapes().call(model)
    return model, Vjp(model, Names(model), "near", of=model.graph[0])


@pytest.mark.parametrize("length", ["4", "L"])
@pytest.mark.parametrize("dtype", ["float", "double"])
def test_the_identity_of_a_known_or_a_free_length(length: str, dtype: str) -> None:
    model, v = rule_of(f"g ({dtype}[N,{length},3] x) => ({dtype}[N,{length},3] y) {{ y = Relu(x) }}")
    model.graph.outputs.append(identity(v, v.x(), 1))
    kind = {"float": np.float32, "double": np.float64}[dtype]
    found = run_proto(ir.to_proto(model), {"x": np.zeros((2, 4, 3), kind)})
    eye = found[model.graph.outputs[-1].name]
    assert eye.dtype == kind
    np.testing.assert_array_equal(eye, np.eye(4)[None, None])


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2])
def test_a_gradient_times_the_transposed_matrix_along_any_axis(axis: int) -> None:
    rng = np.random.default_rng(0)
    shape, before = [3, 4, 5], 6
    after = shape[axis]
    dims = ",".join(map(str, shape))
    model, v = rule_of(
        f"g (float[{dims}] x, float[1,1,{before},{after}] m) => (float[{dims}] y) {{ y = Relu(x) }}"
    )
    model.graph.outputs.append(pull_back(v, v.y(), model.graph.inputs[1], axis))
    x, m = rng.random(shape, np.float32), rng.standard_normal((1, 1, before, after)).astype(np.float32)
    found = run_proto(ir.to_proto(model), {"x": x, "m": m})[model.graph.outputs[-1].name]
    expected = np.moveaxis(np.moveaxis(x, axis, -1) @ m[0, 0].T, -1, axis)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
