"""A net of wide layers whose time is known, to measure tables and blocks of."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from formula_runtime import FormulaRuntime
from nets import Net

from obs_onnx.io.onnx_file import serialize
from obs_onnx.passes.canonical.own_constants import prepare
from obs_onnx.passes.channels.coupling import Coupling, couple
from obs_onnx.runtimes import open_runtime

LOCAL = open_runtime("onnxruntime", 1)


def wide() -> onnx.ModelProto:
    """Three convolutions of many channels, the first and the last joined by a skip."""
    net = Net(7)
    x = net.op("Relu", net.conv("x", "stem", 64, 3))
    y = net.op("Relu", net.conv(x, "inner", 96, 64))
    x = net.op("Relu", net.op("Add", net.conv(y, "outer", 64, 96), x))
    net.op("Identity", net.dense(net.pooled(x), "head", 64, 6), name="y")
    return net.proto({"x": [3, 4, 4]}, {"y": [6]})


def coupled(proto: onnx.ModelProto) -> Coupling:
    return couple(prepare(ir.from_proto(proto)))


def sample_of(coupling: Coupling, batch: int = 1) -> dict[str, np.ndarray]:
    (value,) = coupling.model.graph.inputs
    shape = (batch, *(int(dim) for dim in value.shape[1:]))
    return {str(value.name): np.random.default_rng(0).standard_normal(shape).astype(np.float32)}


def seconds(runtime: FormulaRuntime, model: ir.Model) -> float:
    (found,) = runtime.session(serialize(model)).time({}, 1)
    return found
