from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from repository import MODELS

from obs_onnx import prune
from obs_onnx.passes.canonical.upcast import Upcast, uses_bfloat16
from obs_onnx.passes.graph.set_weights import SetWeights


@pytest.fixture
def bfloat16_model() -> ir.Model:
    model = ir.load(MODELS / "digits_mlp.onnx")
    for value in model.graph.initializers.values():
        array = value.const_value.numpy().astype(ml_dtypes.bfloat16)
        value.const_value = ir.Tensor(array, name=value.name)
    outputs = [value for node in model.graph for value in node.outputs]
    for value in (*model.graph.inputs, *model.graph.initializers.values(), *outputs):
        value.type = ir.TensorType(ir.DataType.BFLOAT16)
    return model


def test_numbers_stay_and_the_original_keeps_its_types(bfloat16_model: ir.Model) -> None:
    copy = Upcast()(bfloat16_model.clone()).model
    assert uses_bfloat16(bfloat16_model)
    assert not uses_bfloat16(copy)
    assert bfloat16_model.graph.outputs[0].dtype == ir.DataType.BFLOAT16
    for name, value in copy.graph.initializers.items():
        before = bfloat16_model.graph.initializers[name].const_value.numpy()
        np.testing.assert_array_equal(value.const_value.numpy(), before.astype(np.float32))


def test_new_weights_of_the_copy_fit_in_bfloat16(bfloat16_model: ir.Model) -> None:
    copy = Upcast()(bfloat16_model.clone()).model.clone()
    value = copy.graph.initializers["fc3.bias"]
    new = np.linspace(0.1, 1, value.const_value.size)
    SetWeights({"fc3.bias": new})(copy)
    np.testing.assert_array_equal(
        copy.graph.initializers["fc3.bias"].const_value.numpy(),
        new.astype(ml_dtypes.bfloat16).astype(np.float32),
    )


def test_a_bfloat16_model_is_pruned_and_stays_one(bfloat16_model: ir.Model, tmp_path: Path) -> None:
    ir.save(bfloat16_model, tmp_path / "m.onnx")
    result = prune(
        tmp_path / "m.onnx",
        tmp_path / "m.pruned.onnx",
        calib=MODELS / "digits_mlp.calib.npz",
        eval=MODELS / "digits_mlp.test.npz",
        mode="weights",
        targets={"sparsity": 0.8},
        effort="quick",
    )
    written = ir.load(tmp_path / "m.pruned.onnx")
    weight = written.graph.initializers["fc1.weight"].const_value
    assert weight.dtype == ir.DataType.BFLOAT16
    assert result.report.met
    assert result.report.after.accuracy is not None
    assert result.report.after.accuracy > 0.95
    layers = ("fc1.weight", "fc2.weight", "fc3.weight")
    arrays = [written.graph.initializers[name].const_value.numpy().astype(np.float32) for name in layers]
    zeros = sum(int((array == 0).sum()) for array in arrays)
    assert zeros >= 0.8 * sum(array.size for array in arrays)
