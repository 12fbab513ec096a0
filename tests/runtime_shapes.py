"""Shapes in tests: of one node's outputs, as the rules say them and as onnxruntime computes them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from onnx import TensorProto, helper

from obs_onnx.passes.shapes.concrete import concretize

__all__ = ["assert_same_shapes"]

Dims = tuple[int, ...]


def assert_same_shapes(
    op_type: str,
    inputs: Sequence[np.ndarray | None],
    outputs: int = 1,
    domain: str = "com.microsoft",
    data: Sequence[tuple[int, int]] = (),
    opset: int = 23,
    **attributes: object,
) -> None:
    """The rules and onnxruntime agree about types and shapes, but for (output, axis) in ``data``.

    An input that is None is missing. Those axes of outputs follow from data, and stay open.
    """
    names = [f"x{i}" if array is not None else "" for i, array in enumerate(inputs)]
    feed = {name: array for name, array in zip(names, inputs, strict=True) if array is not None}
    results = [f"y{i}" for i in range(outputs)]
    node = helper.make_node(op_type, names, results, domain=domain, **attributes)
    infos = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in feed.items()
    ]
    graph = helper.make_graph(
        [node], "g", infos, [helper.make_tensor_value_info(y, TensorProto.UNDEFINED, None) for y in results]
    )
    versions = {"": opset, "com.microsoft": 1, "ai.onnx.ml": 3}
    opsets = [helper.make_opsetid(*one) for one in versions.items()]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    found = concretize(ir.from_proto(proto))
    assert not found.unknown
    named = {str(value.name): shape for value, shape in found.shapes.items()}
    kinds = {str(value.name): kind for value, kind in found.dtypes.items()}
    for info in graph.output:
        info.CopyFrom(helper.make_tensor_value_info(info.name, int(kinds[info.name]), None))
    proto.graph.CopyFrom(graph)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    for index, (name, array) in enumerate(zip(results, session.run(None, feed), strict=True)):
        shapes = [list(named[name]), list(array.shape)]
        for output, axis in data:
            if output == index:
                for shape in shapes:
                    shape[axis] = -1
        assert shapes[0] == shapes[1], (op_type, name)
        assert kinds[name].numpy() == array.dtype, (op_type, name)
