"""A perceptron with its statistics, and models with more outputs."""

from __future__ import annotations

import nets
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from channel_helpers import opened

from obs_onnx.criteria.channel_statistics import ChannelStatistics
from obs_onnx.passes.channels.coupling import Coupling


def with_outputs(model: ir.Model, *names: str) -> onnx.ModelProto:
    proto = ir.to_proto(model)
    proto.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    return proto


@pytest.fixture(scope="module")
def perceptron() -> tuple[ChannelStatistics, Coupling, np.ndarray]:
    x = nets.data(0, 150, 12)
    _, coupling, _, evidence = opened(nets.mlp(), x)
    return evidence, coupling, x
