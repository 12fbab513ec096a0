from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from integer_graphs import FORMS, Form, graph

from obs_onnx.passes.layers.parameters import parameters


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_integers_count_as_the_numbers_they_stand_for(form: Form) -> None:
    model = ir.from_proto(graph(form))
    weights = 64 * 6 * (9 if form.op == "Conv" else 1)
    others = sum(
        value.const_value.size
        for value in model.graph.initializers.values()
        if value.const_value.dtype == ir.DataType.FLOAT
    )
    assert sum(one.size for one in parameters(model)) == weights + others


def test_zero_points_are_zeros(make_model) -> None:
    model = make_model(
        "g (float[N,4] x) => (float[N,3] y) { w = DequantizeLinear(q, s, z)  y = MatMul(x, w) }",
        {"q": np.array([[7, 1, 7]] * 4, np.uint8), "s": np.float32(0.1), "z": np.uint8(7)},
    )
    assert sorted((one.size, one.nonzero) for one in parameters(model)) == [(1, 1), (12, 4)]
    assert sorted(one.nbytes for one in parameters(model)) == [4, 12 + 1]
