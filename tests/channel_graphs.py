"""Small graphs with channels in tests: nodes and random weights by name, and removal against silence."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
from channel_helpers import random_keep, run
from onnx import TensorProto, helper, numpy_helper

from obs_onnx.passes.canonical.own_constants import prepare
from obs_onnx.passes.channels.coupling import Coupling, couple
from obs_onnx.passes.channels.remove_channels import RemoveChannels
from obs_onnx.passes.channels.silence import silence

RNG = np.random.default_rng(0)


def model(
    nodes: Sequence[onnx.NodeProto],
    weights: dict[str, np.ndarray],
    x: Sequence[int | str] = ("N", 3, 5, 5),
    y: Sequence[int | str] | None = None,
    opset: int = 18,
    ir_version: int = 10,
) -> onnx.ModelProto:
    constants = [numpy_helper.from_array(np.asarray(w), name) for name, w in weights.items()]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)]
    if ir_version < 4:
        inputs += [helper.make_tensor_value_info(c.name, c.data_type, c.dims) for c in constants]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, y)]
    graph = helper.make_graph(nodes, "g", inputs, outputs, constants)
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def node(op_type: str, inputs: str, outputs: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op_type, inputs.split(), outputs.split(), name=outputs.split()[0], **attributes)


def found(proto: onnx.ModelProto, protect: Sequence[str] = ()) -> Coupling:
    return couple(prepare(ir.from_proto(proto)), protect)


def check(proto: onnx.ModelProto, x: Sequence[int] = (3, 5, 5), seeds: int = 4) -> Coupling:
    coupling = found(proto)
    for seed in range(seeds):
        keep = random_keep(coupling, seed)
        small = coupling.model.clone()
        RemoveChannels(keep).call(small)
        onnx.checker.check_model(ir.to_proto(small), full_check=True)
        for batch in (1, 3):
            values = normal(batch, *x)
            np.testing.assert_allclose(
                run(small, values), run(silence(coupling.model, keep), values), 1e-4, 1e-4
            )
    return coupling


def sizes(coupling: Coupling) -> list[int]:
    return [group.n for group in coupling.groups]
