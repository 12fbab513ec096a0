"""Models in two, and back in one."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from decided_nets import HEADS, decided, detector, images
from nets import run_proto

from obs_onnx.passes.canonical.canonicalize import canonicalize, plain
from obs_onnx.passes.canonical.own_constants import prepare
from obs_onnx.passes.channels.coupling import couple
from obs_onnx.passes.channels.remove_channels import RemoveChannels
from obs_onnx.passes.errors import ModelError
from obs_onnx.passes.interface.cut import Cut, cut
from obs_onnx.passes.shapes.infer_shapes import InferShapes


def cut_at(proto: onnx.ModelProto, *op_types: str) -> Cut:
    whole = plain(ir.from_proto(proto))
    InferShapes().call(whole)
    return cut(whole, [node for node in whole.graph if node.op_type in op_types])


def same(a: onnx.ModelProto, b: onnx.ModelProto, x: np.ndarray) -> None:
    expected = run_proto(a, {"x": x})
    for name, y in run_proto(b, {"x": x}).items():
        np.testing.assert_allclose(y, expected[name], 1e-5, 1e-5)


def test_what_the_rest_reads_is_given_once_and_in_the_order_in_which_it_was_computed() -> None:
    """Views and transposes of one tensor are one place; scores are read as they are and transposed."""
    found = cut_at(detector(), "NonMaxSuppression")
    assert found.places == ("bs", "scores_")
    assert found.outputs == ("boxes", "scores", "labels")
    assert [str(value.name) for value in found.front.graph.outputs] == ["bs", "scores_"]
    assert [value.shape for value in found.front.graph.outputs] == [(1, 4, 16), (1, 3, 16)]


@pytest.mark.parametrize("form", [lambda front: front, canonicalize, prepare])
def test_all_forms_of_the_front_get_the_rest_back(form) -> None:
    proto = detector()
    proto.metadata_props.add(key="names", value="cat dog")
    found = cut_at(proto, "NonMaxSuppression")
    restored = ir.to_proto(found.restored(form(found.front)))
    onnx.checker.check_model(restored, full_check=True)
    assert restored.graph.input == proto.graph.input
    assert restored.graph.output == proto.graph.output
    assert restored.metadata_props == proto.metadata_props
    for seed in range(4):
        same(proto, restored, images(1, seed))


def test_a_front_without_channels_is_followed_by_the_same_rest() -> None:
    found = cut_at(detector(), "NonMaxSuppression")
    small = prepare(found.front)
    coupling = couple(small)
    keep = {group.id: np.arange(group.n) % 2 == 0 for group in coupling.groups}
    RemoveChannels(keep, coupling).call(small)
    restored = found.restored(small)
    onnx.checker.check_model(ir.to_proto(restored), full_check=True)
    assert restored.graph.initializers["w2"].shape == (8, 8, 3, 3)
    x = images(1)
    front = run_proto(ir.to_proto(found.front_of(restored)), {"x": x})
    for name, y in run_proto(ir.to_proto(small), {"x": x}).items():
        np.testing.assert_allclose(front[name], y, 1e-5, 1e-5)
    behind = [[node.op_type for node in found.rest_of(one).graph] for one in (found.whole, restored)]
    assert behind[0] == behind[1]


def test_a_constant_of_both_parts_is_cut_in_front_only() -> None:
    shared = (
        "p = Mul(br, v)  t = Conv(p, wb)  i = ArgMax <axis = 1> (t)  e = Reshape(v, flat)  y = Gather(e, i)"
    )
    more = {"v": np.arange(16, dtype=np.float32).reshape(1, 16, 1, 1), "flat": np.array([-1])}
    proto = decided(shared, "float[N,1,4,4] y", "N", **more)
    found = cut_at(proto, "ArgMax")
    small = prepare(found.front)
    coupling = couple(small)
    RemoveChannels({coupling.groups[-1].id: np.arange(16) > 7}, coupling).call(small)
    assert small.graph.initializers["v"].shape[1] == 8
    restored = found.restored(small)
    sizes = sorted(v.shape.numpy() for n, v in restored.graph.initializers.items() if n.startswith("v"))
    assert sizes == [(1, 8, 1, 1), (1, 16, 1, 1)]
    onnx.checker.check_model(ir.to_proto(restored), full_check=True)


def test_names_that_the_front_has_taken_since_give_way() -> None:
    found = cut_at(detector(), "NonMaxSuppression")
    front = found.front.clone()
    for old, new in (("a", "bi"), ("b", "labels")):
        next(y for node in front.graph for y in node.outputs if y.name == old).name = new
    restored = ir.to_proto(found.restored(front))
    onnx.checker.check_model(restored, full_check=True)
    same(detector(), restored, images(1))


def test_what_follows_from_the_inputs_or_from_outputs_in_front_is_computed_in_the_rest() -> None:
    nodes = "logits = Conv(br, wb)  p = Softmax <axis = 1> (logits)  i = ArgMax <axis = 1> (p)"
    nodes += "  m = Cast <to = 7> (x)  s = ReduceSum(m)  t = Squeeze(s)  y = Add(i, t)"
    proto = decided(nodes, "float[N,4,4,4] logits, int64[N,1,4,4] y", "N")
    found = cut_at(proto, "ArgMax")
    assert found.places == ()
    assert [node.op_type for node in found.rest_of(found.whole).graph] == [
        "Softmax",
        "ArgMax",
        "Cast",
        "ReduceSum",
        "Squeeze",
        "Add",
    ]
    same(proto, ir.to_proto(found.restored(canonicalize(found.front))), images(3))


def test_inputs_that_only_the_rest_reads_and_defaults_stay_where_they_are() -> None:
    proto = decided(
        HEADS + "i = Greater(scores_, t)  y = And(i, m)", "bool[1,3,16] y", t=np.array(0.5, np.float32)
    )
    make = onnx.helper.make_tensor_value_info
    proto.graph.input.append(make("m", onnx.TensorProto.BOOL, [1, 3, 16]))
    proto.graph.input.append(make("t", onnx.TensorProto.FLOAT, []))
    found = cut_at(proto, "Greater")
    assert [value.name for value in found.front.graph.inputs] == ["x", "m"]
    restored = ir.to_proto(found.restored(canonicalize(found.front)))
    assert [value.name for value in restored.graph.input] == ["x", "m", "t"]
    feed = {"x": images(1), "m": np.ones((1, 3, 16), bool)}
    np.testing.assert_array_equal(run_proto(restored, feed)["y"], run_proto(proto, feed)["y"])


def test_bodies_that_read_the_front_move_with_their_constants() -> None:
    body = """
        y = Loop <body = b (int64 i, bool c) => (bool co, float[3] row) {
            half = Constant <value_float = 0.5> ()  col = Gather <axis = 2> (scores_, i)  s = Squeeze(col)
            g = Greater(s, half)  z = Cast <to = 1> (g)  row = Mul(s, z)  co = Identity(c) }> (n, yes)
    """
    more = {"n": np.array(16), "yes": np.array(True)}
    proto = decided(HEADS + body, "float[k,3] y", **more)
    found = cut_at(proto, "Loop")
    assert found.places == ("scores_",)
    restored = ir.to_proto(found.restored(canonicalize(found.front)))
    onnx.checker.check_model(restored, full_check=True)
    same(proto, restored, images(1))


def test_nothing_to_prune_in_front_is_an_error() -> None:
    proto = decided("i = ArgMax <axis = 1> (x)  y = Cast <to = 1> (i)", "float[N,1,8,8] y", "N")
    with pytest.raises(ModelError, match=r"in front of node 'n4' \(ArgMax\)"):
        cut_at(proto, "ArgMax")
