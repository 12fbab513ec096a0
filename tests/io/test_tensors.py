"""Tensors of models, wherever they lie."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx_files import WEIGHTS, store

from obs_onnx.io.onnx_file import load_model
from obs_onnx.io.tensors import in_memory, replace_tensors, size_of, tensors, unmap


@pytest.fixture
def model(make_proto, tmp_path: Path) -> ir.Model:
    """An initializer and a constant node, both in a file beside the model."""
    proto = make_proto(
        "g (float[N,8] x) => (float[N,4] y) { h = MatMul(x, w)  b = Constant<value = float[4] {1,1,1,1}>()"
        "  y = Add(h, b) }",
        {"w": WEIGHTS["w"]},
    )
    constant = next(node for node in proto.graph.node if node.op_type == "Constant").attribute[0].t
    constant.name = "b"
    offset = 0
    with (tmp_path / "w.bin").open("wb") as file:
        for tensor in (proto.graph.initializer[0], constant):
            array = onnx.numpy_helper.to_array(tensor)
            file.write(array.tobytes())
            tensor.ClearField("raw_data")
            tensor.ClearField("float_data")
            tensor.data_location = onnx.TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value="w.bin")
            tensor.external_data.add(key="offset", value=str(offset))
            offset += array.nbytes
    return load_model(store(proto, tmp_path))


def test_all_tensors_know_their_file(model: ir.Model, tmp_path: Path) -> None:
    found = list(tensors(model))
    assert size_of(model) == 4 * (32 + 4)
    assert all(isinstance(one, ir.ExternalTensor) for one in found)
    assert {one.path for one in found} == {os.path.realpath(tmp_path / "w.bin")}  # type: ignore[attr-defined]


def test_a_copy_in_memory_refers_to_no_file(model: ir.Model) -> None:
    copy = in_memory(model)
    assert not any(isinstance(one, ir.ExternalTensor) for one in tensors(copy))
    assert all(isinstance(one, ir.ExternalTensor) for one in tensors(model))
    np.testing.assert_array_equal(next(tensors(copy)).numpy(), WEIGHTS["w"])
    np.testing.assert_array_equal([*tensors(copy)][1].numpy(), np.ones(4))


def test_data_that_is_about_to_be_replaced_is_held(model: ir.Model, tmp_path: Path) -> None:
    unmap(model, tmp_path / "other.bin")
    assert all(isinstance(one, ir.ExternalTensor) for one in tensors(model))
    unmap(model, Path(os.path.realpath(tmp_path / "w.bin")))
    (tmp_path / "w.bin").unlink()
    np.testing.assert_array_equal(next(tensors(model)).numpy(), WEIGHTS["w"])


def test_a_transposed_array_is_written_in_order(make_model) -> None:
    model = make_model("g (float[N,8] x) => (float[N,4] y) { y = MatMul(x, w) }", {"w": WEIGHTS["w"]})
    turned = np.asfortranarray(WEIGHTS["w"])
    replace_tensors(model, lambda one: ir.Tensor(turned, name=one.name))
    (tensor,) = tensors(in_memory(model))
    assert tensor.tobytes() == WEIGHTS["w"].tobytes()
