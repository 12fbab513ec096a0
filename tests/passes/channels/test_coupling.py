"""Groups, frozen nodes and removal on small graphs whose answer is known."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from channel_graphs import check, found, model, node, normal, sizes
from channel_helpers import run
from onnx import TensorProto, helper

from obs_onnx.passes.channels.remove_channels import RemoveChannels
from obs_onnx.passes.channels.silence import silence


def test_residual_block() -> None:
    """The stem and the block's last convolution are one group; the block's inner channels another."""
    nodes = [
        node("Conv", "x a", "s", pads=[1] * 4),
        node("Conv", "s b", "t", pads=[1] * 4),
        node("Relu", "t", "u"),
        node("Conv", "u c", "v", pads=[1] * 4),
        node("Add", "s v", "w"),
        node("GlobalAveragePool", "w", "p"),
        node("Flatten", "p", "f"),
        node("Gemm", "f d", "y", transB=1),
    ]
    weights = {"a": normal(8, 3, 3, 3), "b": normal(6, 8, 3, 3), "c": normal(8, 6, 3, 3), "d": normal(4, 8)}
    coupling = check(model(nodes, weights))
    assert sizes(coupling) == [8, 6]
    outer, inner = coupling.groups
    assert set(outer.sites) == {("a", 0), ("b", 1), ("c", 0), ("d", 1)}
    assert set(inner.sites) == {("b", 0), ("c", 1)}
    assert coupling.incidence(inner, "c", 1).toarray().tolist() == np.eye(6, dtype=bool).tolist()
    (frozen,) = coupling.frozen
    assert (frozen.node, frozen.op_type) == ("y", "Gemm")
    assert "output" in frozen.reason


def test_zero_padded_shortcut() -> None:
    """Channels that a shortcut pads may go as well, and take their padding with them."""
    nodes = [
        node("Conv", "x a", "s", pads=[1] * 4),
        node("Conv", "s b", "t", pads=[1] * 4),
        node("Pad", "s pads", "v"),
        node("Add", "t v", "w"),
        node("GlobalAveragePool", "w", "p"),
        node("Flatten", "p", "f"),
        node("Gemm", "f d", "y", transB=1),
    ]
    pads = np.array([0, 2, 0, 0, 0, 2, 0, 0])
    weights = {"a": normal(4, 3, 3, 3), "b": normal(8, 4, 3, 3), "pads": pads, "d": normal(4, 8)}
    coupling = check(model(nodes, weights))
    assert sizes(coupling) == [4, 4]
    keep = {g.id: np.arange(g.n) < 1 for g in coupling.groups}
    small = coupling.model.clone()
    RemoveChannels(keep).call(small)
    assert small.graph.initializers["a"].shape == (1, 3, 3, 3)
    assert small.graph.initializers["b"].shape == (2, 1, 3, 3)
    (pad,) = (n for n in small.graph if n.op_type == "Pad")
    assert pad.inputs[1] is not None
    assert pad.inputs[1].const_value.numpy().tolist() == [0, 1, 0, 0, 0, 0, 0, 0]


def test_dense_concatenation() -> None:
    nodes = [
        node("Conv", "x a", "s"),
        node("Conv", "s b", "t"),
        node("Concat", "s t", "u", axis=1),
        node("Conv", "u c", "v"),
        node("Concat", "u v", "w", axis=1),
        node("Flatten", "w", "f"),
        node("Gemm", "f d", "y", transB=1),
    ]
    kernels = {"a": normal(4, 3, 1, 1), "b": normal(3, 4, 1, 1), "c": normal(5, 7, 1, 1)}
    coupling = check(model(nodes, {**kernels, "d": normal(4, 12 * 25)}))
    assert sizes(coupling) == [4, 3, 5]
    assert coupling.incidence(coupling.groups[1], "d", 1).sum(1).tolist() == [25] * 3


def test_grouped_convolution_loses_groups_or_the_same_channels_of_each() -> None:
    nodes = [
        node("Conv", "x a", "s"),
        node("Conv", "s b", "t", group=3),
        node("Conv", "t c", "u"),
        node("GlobalMaxPool", "u", "y"),
    ]
    kernels = {"a": normal(12, 3, 1, 1), "b": normal(6, 4, 3, 3), "c": normal(2, 6, 1, 1)}
    coupling = check(model(nodes, kernels))
    assert sorted(sizes(coupling)) == [2, 3, 4]
    groups = next(g for g in coupling.groups if g.n == 3)
    small = coupling.model.clone()
    RemoveChannels({groups.id: np.array([True, False, True])}).call(small)
    (grouped,) = (n for n in small.graph if n.name == "t")
    assert grouped.attributes.get_int("group") == 2
    assert small.graph.initializers["b"].shape == (4, 4, 3, 3)


def test_heads_and_widths_of_attention() -> None:
    nodes = [
        *(node("MatMul", f"x w{k}", k) for k in "qkv"),
        *(node("Reshape", f"{k} split", f"{k}1") for k in "qkv"),
        *(
            node("Transpose", f"{k}1", f"{k}2", perm=[0, 2, 3, 1] if k == "k" else [0, 2, 1, 3])
            for k in "qkv"
        ),
        node("MatMul", "q2 k2", "s"),
        node("Softmax", "s", "p", axis=-1),
        node("MatMul", "p v2", "o"),
        node("Transpose", "o", "o1", perm=[0, 2, 1, 3]),
        node("Reshape", "o1 join", "o2"),
        node("MatMul", "o2 wo", "y"),
    ]
    weights = {f"w{k}": normal(6, 12) for k in "qkv"} | {"wo": normal(12, 6)}
    weights |= {"split": np.array([0, 0, 3, 4]), "join": np.array([0, 0, 12])}
    coupling = check(model(nodes, weights, x=("N", "T", 6)), x=(7, 6))
    assert sorted(sizes(coupling)) == [3, 4, 4]
    heads = next(g for g in coupling.groups if g.n == 3)
    assert {site.initializer for site in heads.sites} == {"wq", "wk", "wv", "wo"}


def test_shared_weights_shrink_alike_or_not_at_all() -> None:
    """One kernel applied twice ties what goes in and out of it."""
    nodes = [
        node("Conv", "x a", "s"),
        node("Conv", "s b", "t", pads=[1] * 4),
        node("Conv", "t b", "u", pads=[1] * 4),
        node("Conv", "u c", "v"),
        node("GlobalMaxPool", "v", "y"),
    ]
    kernels = {"a": normal(12, 3, 1, 1), "b": normal(12, 12, 3, 3), "c": normal(2, 12, 1, 1)}
    coupling = check(model(nodes, kernels))
    assert sizes(coupling) == [12]


def test_tied_embedding_keeps_its_rows() -> None:
    nodes = [
        node("Cast", "x", "i", to=7),
        node("Gather", "table i", "e"),
        node("MatMul", "e w", "h"),
        node("Transpose", "table", "t", perm=[1, 0]),
        node("MatMul", "h t", "y"),
    ]
    coupling = found(model(nodes, {"table": normal(40, 32), "w": normal(32, 32)}, x=("N", "T")))
    assert sizes(coupling) == [32]
    assert ("table", 1) in coupling.groups[0].sites
    assert ("table", 0) not in coupling.groups[0].sites


def test_unknown_operator_freezes_and_says_so() -> None:
    nodes = [
        node("Conv", "x a", "s"),
        node("Det", "s", "t"),
        node("Conv", "s b", "u"),
        node("Conv", "u c", "y"),
    ]
    nodes[1] = helper.make_node("Strange", ["s"], ["t"], name="t", domain="some.where")
    proto = model(nodes, {"a": normal(6, 3, 1, 1), "b": normal(4, 6, 1, 1), "c": normal(2, 4, 1, 1)})
    proto.graph.output.append(helper.make_tensor_value_info("t", TensorProto.FLOAT, None))
    proto.opset_import.append(helper.make_opsetid("some.where", 1))
    coupling = found(proto)
    assert sizes(coupling) == [4]
    assert [(f.node, f.op_type) for f in coupling.frozen if "nothing is known" in f.reason] == [
        ("t", "some.where::Strange")
    ]


def test_bodies_freeze_what_they_capture() -> None:
    then = helper.make_graph(
        [helper.make_node("Relu", ["s"], ["a1"])], "then", [], [helper.make_tensor_value_info("a1", 1, None)]
    )
    other = helper.make_graph(
        [helper.make_node("Neg", ["s"], ["b1"])], "else", [], [helper.make_tensor_value_info("b1", 1, None)]
    )
    nodes = [
        node("Conv", "x a", "r"),
        node("Conv", "r b", "s"),
        node("ReduceSum", "x", "sum", keepdims=0),
        node("Greater", "sum zero", "c"),
        helper.make_node("If", ["c"], ["t"], name="if", then_branch=then, else_branch=other),
        node("Conv", "t d", "y"),
    ]
    weights = {
        "a": normal(6, 3, 1, 1),
        "b": normal(5, 6, 1, 1),
        "d": normal(2, 5, 1, 1),
        "zero": np.float32(0),
    }
    coupling = check(model(nodes, weights))
    assert sizes(coupling) == [6]
    assert "if" in {frozen.node for frozen in coupling.frozen}


def test_protect_by_pattern() -> None:
    nodes = [node("Conv", "x a", "s"), node("Conv", "s b", "t"), node("Conv", "t c", "y")]
    proto = model(nodes, {"a": normal(6, 3, 1, 1), "b": normal(4, 6, 1, 1), "c": normal(2, 4, 1, 1)})
    assert sizes(found(proto)) == [6, 4]
    assert sizes(found(proto, ["t"])) == []
    assert sizes(found(proto, ["a*"])) == [4]


def test_old_models_list_initializers_as_inputs() -> None:
    nodes = [node("Conv", "x a", "s"), node("Flatten", "s", "f"), node("Gemm", "f b c", "y", transB=1)]
    weights = {"a": normal(6, 3, 1, 1), "b": normal(4, 150), "c": normal(4)}
    proto = model(nodes, weights, opset=9, ir_version=3)
    coupling = found(proto)
    assert sizes(coupling) == [6]
    small = coupling.model.clone()
    RemoveChannels({0: np.arange(6) != 2}).call(small)
    onnx.checker.check_model(ir.to_proto(small), full_check=True)
    assert small.graph.initializers["b"].shape == (4, 125)


def test_masks_must_fit() -> None:
    nodes = [node("Conv", "x a", "s"), node("Conv", "s b", "y")]
    coupling = found(model(nodes, {"a": normal(6, 3, 1, 1), "b": normal(4, 6, 1, 1)}))
    with pytest.raises(ValueError, match="mask of 6"):
        coupling.alive({0: np.ones(5, bool)})
    with pytest.raises(ValueError, match="at least one"):
        RemoveChannels({0: np.zeros(6, bool)}).call(coupling.model.clone())


def test_the_scale_of_attention_stays_when_it_is_computed_from_a_shape() -> None:
    """The square root of the dense width goes on dividing."""
    nodes = [
        node("MatMul", "x w", "q"),
        node("Shape", "q", "shape"),
        node("Slice", "shape last end", "width"),
        node("Cast", "width", "float", to=1),
        node("Div", "q float", "s"),
        node("MatMul", "s v", "y"),
    ]
    weights = {"w": normal(6, 8), "v": normal(8, 4), "last": np.array([-1]), "end": np.array([9])}
    coupling = check(model(nodes, weights, x=("N", "T", 6)), x=(7, 6))
    assert sizes(coupling) == [8]


def test_old_forms_of_operators() -> None:
    """Slices, pads, splits and axes given as attributes."""
    nodes = [
        node("Conv", "x a", "s"),
        node("Slice", "s", "t", axes=[1, 2], starts=[2, 0], ends=[-1, 3]),
        node("Pad", "t", "u", pads=[0, 1, 0, 0, 0, 2, 0, 0]),
        node("Conv", "u b", "v"),
        node("Split", "v", "p q r", axis=1, split=[3, 2, 3]),
        node("Mul", "p r", "w"),
        node("Concat", "w q", "z", axis=1),
        node("ReduceMean", "z", "m", axes=[2, 3], keepdims=1),
        node("Squeeze", "m", "o", axes=[2, 3]),
        node("Softmax", "o", "e"),
        node("Unsqueeze", "o", "f", axes=[2, 3]),
        node("Upsample", "f scales", "g"),
        node("Flatten", "g", "h"),
        node("Gemm", "h c d", "i", transB=1),
        node("Sum", "i e e", "y"),
    ]
    weights = {"a": normal(9, 3, 1, 1), "b": normal(8, 9, 1, 1), "c": normal(5, 20), "d": normal(5)}
    nodes, weights = nodes[:9] + nodes[10:14], weights | {"scales": np.array([1, 1, 2, 2], np.float32)}
    nodes[-1] = node("Gemm", "h c d", "y", transB=1)
    coupling = check(model(nodes, weights, opset=9, ir_version=4))
    assert {"Softmax", "Gemm"} & {f.op_type for f in coupling.frozen}
    assert sum(sizes(coupling)) >= 9


def test_squeeze_without_axes_drops_no_channel_axis_of_one_element() -> None:
    for opset in (11, 18):
        nodes = [
            node("Conv", "x a", "s"),
            node("GlobalAveragePool", "s", "p"),
            node("Squeeze", "p", "q"),
            node("Gemm", "q b", "y", transB=1),
        ]
        proto = model(nodes, {"a": normal(6, 3, 1, 1), "b": normal(4, 6)}, x=("N", 3, 5, 5), opset=opset)
        coupling = found(proto)
        keep = {0: np.arange(6) == 4}
        small = coupling.model.clone()
        RemoveChannels(keep).call(small)
        values = normal(3, 3, 5, 5)
        np.testing.assert_allclose(run(small, values), run(silence(coupling.model, keep), values), 1e-5, 1e-5)


def test_part_of_a_product_is_frozen() -> None:
    """A slice through (group, channel of the group) could be left without any element."""
    nodes = [
        node("Conv", "x a", "s"),
        node("Conv", "s b", "t", group=3),
        node("Slice", "s from to axis", "u"),
        node("Conv", "u c", "v"),
        node("GlobalMaxPool", "v", "w"),
        node("GlobalMaxPool", "t", "z"),
        node("Concat", "w z", "y", axis=1),
    ]
    weights = {"a": normal(6, 3, 1, 1), "b": normal(3, 2, 1, 1), "c": normal(2, 4, 1, 1)}
    weights |= {"from": np.array([1]), "to": np.array([5]), "axis": np.array([1])}
    check(model(nodes, weights))
