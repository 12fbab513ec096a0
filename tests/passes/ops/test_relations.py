"""Which channels may go, by attributes that change it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from float64 import evaluator
from onnx import TensorProto, helper, numpy_helper

from obs_onnx.passes.canonical.own_constants import prepare
from obs_onnx.passes.channels.coupling import couple
from obs_onnx.passes.channels.remove_channels import RemoveChannels
from obs_onnx.passes.channels.silence import silence


def model(op_type, constants=(), opset=19, last=4, **attributes):
    """A convolution to 4 channels, the operator, and a convolution of what then are ``last`` channels."""
    rng = np.random.default_rng(0)
    held = {"w0": rng.standard_normal((4, 3, 1, 1)), "w1": rng.standard_normal((2, last, 1, 1))}
    held |= {f"c{i}": array for i, array in enumerate(constants) if array is not None}
    names = ["" if array is None else f"c{i}" for i, array in enumerate(constants)]
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w0"], ["h"], name="first"),
            helper.make_node(op_type, ["h", *names], ["m"], name="middle", **attributes),
            helper.make_node("Conv", ["m", "w1"], ["y"], name="last"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [
            numpy_helper.from_array(a.astype(np.float32) if a.dtype == float else a, n)
            for n, a in held.items()
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def removable(proto):
    return [group.n for group in couple(prepare(ir.from_proto(proto))).groups]


@pytest.mark.parametrize(
    ("scales", "groups"), [([1, 1, 2, 2], [4]), ([1, 1, 1.1, 1.1], [4]), ([1, 1.1, 1, 1], [])]
)
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_an_axis_that_is_resampled_stays_though_it_keeps_its_length(scales, groups, mode):
    assert removable(model("Resize", (None, np.array(scales, np.float32)), mode=mode)) == groups
    assert removable(model("Upsample", (np.array(scales, np.float32),), opset=9, mode=mode)) == groups


def test_a_common_scale_for_all_axes_resamples_them_all():
    sizes = np.array([1, 4, 5, 5])
    assert removable(model("Resize", (None, None, sizes))) == [4]
    assert removable(model("Resize", (None, None, sizes), keep_aspect_ratio_policy="not_larger")) == []


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_places_become_channels_in_either_order(mode):
    proto = model("SpaceToDepth", opset=28, last=16, blocksize=2, mode=mode)
    dense = prepare(ir.from_proto(proto))
    coupling = couple(dense)
    (group,) = coupling.groups
    keep = {group.id: np.array([True, False, True, True])}
    small = dense.clone()
    RemoveChannels(keep).call(small)
    x = np.random.default_rng(1).standard_normal((1, 3, 4, 4)).astype(np.float32)
    expected, found = (
        evaluator(ir.to_proto(m)).run(None, {"x": x})[0] for m in (silence(dense, keep), small)
    )
    assert small.graph.initializers["w1"].const_value.shape.numpy() == (2, 12, 1, 1)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
