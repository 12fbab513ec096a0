"""What a model is written with: constants once, and inner shapes only where the input declared some."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from obs_onnx.passes.canonical.finished import finished
from obs_onnx.passes.canonical.own_constants import prepare

TEXT = "g (float[N,8] x) => (float[N,8] y) { a = Mul(x, v)  b = Add(a, v)  y = Sub(b, v) }"


@pytest.mark.parametrize("declared", [False, True])
def test_inner_shapes_are_declared_where_they_were(make_model, declared: bool) -> None:
    original = make_model(TEXT, {"v": np.arange(8, dtype=np.float32)})
    if declared:
        original = ir.from_proto(onnx.shape_inference.infer_shapes(ir.to_proto(original)))
    prepared = prepare(original)
    written = ir.to_proto(finished(prepared, original))
    made = {name for node in written.graph.node for name in node.output}
    assert bool(made & {info.name for info in written.graph.value_info}) == declared
    assert [one.name for one in written.graph.initializer] == ["v"]
    onnx.checker.check_model(written, full_check=True)
    assert len(prepared.graph.initializers) == 3
