"""Groups of channels in tests: which one is meant, what is kept at random, models without them."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

from obs_onnx.criteria.channel_statistics import ChannelStatistics
from obs_onnx.passes.canonical.own_constants import prepare
from obs_onnx.passes.channels.coupling import Coupling, Group, Keep, couple
from obs_onnx.passes.layers.find_layers import find_layers
from obs_onnx.passes.layers.stages import Plan, plan_stages
from obs_onnx.runtimes import open_runtime

BUDGET = 1 << 28


def opened(
    proto: onnx.ModelProto,
    x: np.ndarray,
    damping: float = 1e-3,
    batch: int = 64,
    task: str = "classification",
) -> tuple[ir.Model, Coupling, Plan, ChannelStatistics]:
    model = prepare(ir.from_proto(proto))
    coupling, layers = couple(model), find_layers(model)[0]
    plan = plan_stages(model, layers)
    feeds = [{"x": x[first : first + batch]} for first in range(0, len(x), batch)]
    runtime = open_runtime("onnxruntime", 1)
    evidence = ChannelStatistics(
        runtime, model, coupling, layers, plan, feeds, budget=BUDGET, damping=damping, task=task
    )
    return model, coupling, plan, evidence


def named(coupling: Coupling, name: str) -> Group:
    return next(group for group in coupling.groups if group.name == name)


def tensors_of(model: ir.Model) -> dict[str, np.ndarray]:
    return {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}


def shape_of(proto: onnx.ModelProto) -> list[int]:
    return [dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim[1:]]


def counted(keep: Keep) -> dict[int, int]:
    return {group: int(mask.sum()) for group, mask in keep.items()}


def run(model: ir.Model, x: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.intra_op_num_threads = 1
    proto = ir.to_proto(model)
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": x} if session.get_inputs() else {})
    return y


def random_keep(coupling: Coupling, seed: int) -> dict[int, np.ndarray]:
    rng = np.random.default_rng(seed)
    keep = {}
    for group in coupling.groups:
        keep[group.id] = rng.random(group.n) < rng.uniform(0.2, 1)
        keep[group.id][rng.integers(group.n)] = True
    return keep


def entropy(z: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Cross-entropy of each example."""
    return np.log(np.exp(z).sum(1)) - z[np.arange(len(z)), labels]
