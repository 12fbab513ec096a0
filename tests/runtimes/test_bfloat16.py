"""Models in bfloat16 where a runtime has kernels for it and where it has none."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from obs_onnx.passes.errors import ModelError
from obs_onnx.runtimes import open_runtime
from obs_onnx.runtimes.bfloat16 import runnable


class Picky:
    """A runtime that may refuse bfloat16."""

    def __init__(self, refuses: bool) -> None:
        self.refuses, self.asked = refuses, 0

    def session(self, model: bytes, external_data: object = None) -> None:
        self.asked += 1
        if self.refuses:
            raise ModelError("no kernel for bfloat16")


def matmul(make_model, dtype: str) -> ir.Model:
    kind = {"bfloat16": ml_dtypes.bfloat16, "float": np.float32}[dtype]
    return make_model(
        f"g ({dtype}[N,4] x) => ({dtype}[N,3] y) {{ y = MatMul(x, w) }}",
        {"w": np.random.default_rng(0).standard_normal((4, 3)).astype(kind)},
    )


def test_other_types_are_not_even_tried(make_model) -> None:
    model, runtime = matmul(make_model, "float"), Picky(refuses=True)
    assert runnable(runtime, model) == (model, False)
    assert runtime.asked == 0


def test_what_has_kernels_stays(make_model) -> None:
    model, runtime = matmul(make_model, "bfloat16"), Picky(refuses=False)
    found, copied = runnable(runtime, model)
    assert (found is model, copied, runtime.asked) == (True, False, 1)


def test_what_has_none_becomes_a_copy_in_single_precision(make_model) -> None:
    model = matmul(make_model, "bfloat16")
    found, copied = runnable(Picky(refuses=True), model)
    assert copied
    assert model.graph.inputs[0].dtype == ir.DataType.BFLOAT16
    w = model.graph.initializers["w"].const_value.numpy().astype(np.float32)
    np.testing.assert_array_equal(found.graph.initializers["w"].const_value.numpy(), w)
    x = np.random.default_rng(1).standard_normal((2, 4)).astype(np.float32)
    session = open_runtime("onnxruntime", 1).session(ir.to_proto(found).SerializeToString())
    np.testing.assert_allclose(session.run({"x": x})["y"], x @ w, rtol=1e-5)


@pytest.mark.parametrize("copied", [True, False])
def test_on_onnxruntime_itself_it_runs_either_way(make_model, copied: bool) -> None:
    found, _ = runnable(open_runtime("onnxruntime", 1), matmul(make_model, "bfloat16" if copied else "float"))
    session = open_runtime("onnxruntime", 1).session(ir.to_proto(found).SerializeToString())
    dtype = session.inputs[0].dtype
    assert session.run({"x": np.ones((2, 4), dtype)})["y"].shape == (2, 3)
