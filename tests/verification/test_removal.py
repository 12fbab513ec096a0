"""Smaller models against silenced ones, and smaller models that are wrong."""

from __future__ import annotations

import nets
import numpy as np
import onnx_ir as ir
import pytest
from channel_helpers import random_keep, shape_of

from obs_onnx.passes.canonical.own_constants import prepare
from obs_onnx.passes.channels.coupling import Coupling, couple
from obs_onnx.passes.channels.remove_channels import RemoveChannels
from obs_onnx.passes.errors import VerificationError
from obs_onnx.runtimes import open_runtime
from obs_onnx.verification.removal import check_removal, decided_outputs

RUNTIME = open_runtime("onnxruntime", 1)


def removed(proto, seed: int = 0) -> tuple[Coupling, dict[int, np.ndarray], ir.Model]:
    coupling = couple(prepare(ir.from_proto(proto)))
    keep = random_keep(coupling, seed)
    small = coupling.model.clone()
    RemoveChannels(keep).call(small)
    return coupling, keep, small


@pytest.mark.parametrize("name", sorted(nets.NETS))
def test_removal_is_confirmed_for_every_family(name: str) -> None:
    proto = nets.NETS[name]()
    worst, allowed = check_removal(RUNTIME, *removed(proto), {"x": nets.data(0, 4, *shape_of(proto))})
    assert 0 <= worst <= allowed == 1e-3


def test_a_weight_that_is_another_is_found() -> None:
    proto = nets.residual()
    coupling, keep, small = removed(proto)
    value = small.graph.initializers["head.weight"]
    array = value.const_value.numpy().copy()
    array[0, 0] += 1
    value.const_value = ir.tensor(array, name="head.weight")
    with pytest.raises(VerificationError, match="differs by"):
        check_removal(RUNTIME, coupling, keep, small, {"x": nets.data(0, 4, 3, 8, 8)})


def test_channels_other_than_those_that_went_are_found() -> None:
    coupling, keep, small = removed(nets.mlp())
    other = {group: np.roll(mask, 1) for group, mask in keep.items()}
    with pytest.raises(VerificationError, match="differs by"):
        check_removal(RUNTIME, coupling, other, small, {"x": nets.data(0, 4, 12)})


def test_an_output_of_another_shape_is_named() -> None:
    coupling, keep, small = removed(nets.mlp())
    for name in ("fc3.weight", "fc3.bias"):
        value = small.graph.initializers[name]
        array = value.const_value.numpy()[:3]
        value.const_value, value.shape = ir.tensor(array, name=name), ir.Shape(array.shape)
    for node in small.graph:
        node.outputs[0].shape = None
    small.graph.outputs[0].shape = ir.Shape(["batch", 3])
    with pytest.raises(
        VerificationError, match=r"output y has shape \(4, 3\) without the channels, not \(4, 5\)"
    ):
        check_removal(RUNTIME, coupling, keep, small, {"x": nets.data(0, 4, 12)})


DECIDED = """g (float[N,6] x) => (float[N,4] y, float[N,4] rounded, int64[N] best) {
    a = Gemm(x, w1, b1)  h = Relu(a)  y = MatMul(h, w2)
    scaled = Mul(y, large)  rounded = Round(scaled)  best = ArgMax <axis = 1, keepdims = 0> (y)
}"""


def decided(make_proto, large: float):
    rng = np.random.default_rng(0)
    tensors = {
        "w1": rng.standard_normal((6, 8)), "b1": rng.standard_normal(8), "w2": rng.standard_normal((8, 4)),
        "large": np.array(large),
    }  # fmt: skip
    return make_proto(DECIDED, {name: array.astype(np.float32) for name, array in tensors.items()})


def test_what_follows_from_decisions(make_proto) -> None:
    assert decided_outputs(prepare(ir.from_proto(decided(make_proto, 1.0)))) == {"rounded", "best"}


def scaled(model: ir.Model, name: str, factor: float) -> None:
    value = model.graph.initializers[name]
    value.const_value = ir.tensor(value.const_value.numpy() * np.float32(factor), name=name)


def test_decisions_on_equal_numbers_may_turn_out_otherwise(make_proto) -> None:
    """A score at one half rounds to another number when it is off by what rounding errors make."""
    feed = {"x": nets.data(0, 40, 6)}
    coupling, keep, small = removed(decided(make_proto, 1.0))
    y = RUNTIME.session(ir.to_proto(small).SerializeToString()).run(feed)["y"]
    half = 0.4999 / np.sort(y[y > 0])[(y > 0).sum() // 2]
    coupling, keep, small = removed(decided(make_proto, half))
    before, after = small, small.clone()
    scaled(after, "w2", 1 + 5e-4)
    rounded = [
        RUNTIME.session(ir.to_proto(m).SerializeToString()).run(feed)["rounded"] for m in (before, after)
    ]
    assert np.linalg.norm(rounded[0] - rounded[1]) > 1e-2 * np.linalg.norm(rounded[0])
    assert check_removal(RUNTIME, coupling, keep, after, feed)[0] <= 1e-3
    scaled(after, "w2", 1.01)
    with pytest.raises(VerificationError, match="differs by"):
        check_removal(RUNTIME, coupling, keep, after, feed)
