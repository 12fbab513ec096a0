"""Channels that change nothing: found where they are, removed without a trace, and only those."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import nets
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from channel_graphs import model as graph
from channel_graphs import node
from channel_helpers import run
from onnx import numpy_helper

from obs_onnx.passes.canonical.own_constants import prepare
from obs_onnx.passes.channels.coupling import couple
from obs_onnx.passes.channels.redundant import find_redundant
from obs_onnx.passes.channels.remove_channels import RemoveChannels
from obs_onnx.passes.graph.extract import extract
from obs_onnx.passes.graph.set_weights import SetWeights
from obs_onnx.passes.layers.find_layers import find_layers

Change = Callable[[np.ndarray], None]
Values = Callable[[Sequence[str], Mapping[str, np.ndarray]], dict[str, np.ndarray]]


def changed(proto: onnx.ModelProto, **changes: Change) -> onnx.ModelProto:
    """A model with some of its initializers changed in place; ``__`` stands for a dot in a name."""
    for tensor in proto.graph.initializer:
        change = changes.get(tensor.name.replace(".", "__"))
        if change is not None:
            array = numpy_helper.to_array(tensor).copy()
            change(array)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return proto


def first(count: int, value: float = 0.0, axis: int = 0) -> Change:
    """Sets the first slices along an axis."""

    def change(array: np.ndarray) -> None:
        np.moveaxis(array, axis, 0)[:count] = value

    return change


def copied(count: int, axis: int = 0) -> Change:
    """Makes the first slices along an axis copies of those behind them."""

    def change(array: np.ndarray) -> None:
        moved = np.moveaxis(array, axis, 0)
        moved[:count] = moved[count : 2 * count]

    return change


def measured(model: ir.Model, x: np.ndarray) -> Values:
    """Values inside a model, by their names and by weights that it has in place of its own."""

    def values(names: Sequence[str], tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        part = SetWeights(tensors)(model.clone()).model
        return {name: run(extract(part, ["x"], [name]), x) for name in names}

    return values


def gone(proto: onnx.ModelProto, shape: Sequence[int]) -> tuple[dict[str, int], Mapping[str, int]]:
    """Redundant channels by group, and by kind; the model without them gives what it gave."""
    model = prepare(ir.from_proto(proto))
    coupling = couple(model)
    x = np.random.default_rng(5).standard_normal((4, *shape)).astype(np.float32)
    found = find_redundant(coupling, find_layers(model)[0], measured(model, x))
    keep = {group.id: np.ones(group.n, bool) for group in coupling.groups}
    for number, channels in found.channels.items():
        assert len(set(channels.tolist())) == len(channels) < len(keep[number])
        keep[number][channels] = False
    small = SetWeights(found.tensors)(model.clone()).model
    RemoveChannels(keep, coupling.of(small)).call(small)
    y = run(model, x)
    np.testing.assert_allclose(run(small, x), y, rtol=1e-4, atol=2e-6 * float(np.abs(y).max()))
    assert sum(found.kinds.values()) == sum(map(len, found.channels.values()))
    return {coupling.groups[k].name: len(v) for k, v in found.channels.items()}, found.kinds


def convolutions(pads: int = 1) -> onnx.ModelProto:
    """a -> BatchNormalization -> Relu -> depthwise b -> Relu -> c."""
    net = nets.Net(3)
    y = net.op("Relu", net.batch_norm(net.conv("x", "a", 12, 3), "n", 12))
    y = net.op("Relu", net.conv(y, "b", 12, 12, k=1, group=12))
    weight, bias = net.weight("c.weight", 8, 12, 3, 3), net.weight("c.bias", 8, fan_in=100)
    y = net.op("Relu", net.op("Conv", y, weight, bias, pads=[pads] * 4, kernel_shape=[3, 3]))
    net.op("Identity", net.dense(net.pooled(y), "head", 8, 3), name="y")
    return net.proto({"x": [3, 7, 7]}, {"y": [3]})


class TestDead:
    def test_a_model_that_masks_have_pruned(self) -> None:
        proto = changed(convolutions(), n__scale=first(5), n__shift=first(5), b__bias=first(5))
        assert gone(proto, [3, 7, 7]) == ({"a.weight[0]": 5}, {"dead": 5})

    def test_what_nobody_reads(self) -> None:
        assert gone(changed(convolutions(), c__weight=first(4, axis=1)), [3, 7, 7]) == (
            {"a.weight[0]": 4},
            {"dead": 4},
        )

    def test_what_is_dead_makes_more_so(self) -> None:
        """A unit that reads only dead ones and has no bias, and units that only dead ones read."""

        def only_dead(array: np.ndarray) -> None:
            array[0, 4:] = 0

        proto = changed(
            nets.mlp((10, 16, 12, 4)),
            fc1__weight=first(4),
            fc1__bias=first(4),
            fc2__weight=only_dead,
            fc2__bias=first(1),
        )
        assert gone(proto, [10])[0] == {"fc1.weight[0]": 4, "fc2.weight[0]": 1}
        proto = changed(nets.mlp((10, 16, 12, 4)), fc3__weight=first(11, axis=1))
        array = next(t for t in proto.graph.initializer if t.name == "fc2.weight")
        weight = numpy_helper.to_array(array).copy()
        weight[11, :6] = 0  # the one that is read does not read these
        array.CopyFrom(numpy_helper.from_array(weight, array.name))
        assert gone(proto, [10])[0] == {"fc1.weight[0]": 6, "fc2.weight[0]": 11}

    def test_a_channel_of_each_group_stays(self) -> None:
        proto = changed(nets.mlp((10, 16, 12, 4)), fc3__weight=first(12, axis=1))
        assert gone(proto, [10])[0] == {"fc1.weight[0]": 15, "fc2.weight[0]": 11}

    @pytest.mark.parametrize("part", ["gate", "up"])
    def test_one_of_two_factors(self, part: str) -> None:
        net = nets.Net(4)
        gate, up = net.dense("x", "gate", 10, 16), net.dense("x", "up", 10, 16)
        y = net.op("Mul", net.op("Mul", gate, net.op("Sigmoid", gate)), up)
        net.op("Identity", net.dense(y, "down", 16, 4), name="y")
        proto = net.proto({"x": [10]}, {"y": [4]})
        zeros = {f"{part}__weight": first(3), f"{part}__bias": first(3)}
        assert gone(changed(proto, **zeros), [10]) == ({"gate.weight[0]": 3}, {"dead": 3})

    def test_negative_before_a_relu_is_not_always_dead(self) -> None:
        assert gone(changed(nets.mlp(), fc1__bias=first(9, -30.0)), [12])[0] == {}

    def test_in_a_residual_stream_all_parts_count(self) -> None:
        names = [f"{name}__bn__{part}" for name in ("stem", "a2") for part in ("scale", "shift")]
        assert gone(changed(nets.residual(), **{name: first(3) for name in names}), [3, 8, 8])[1] == {
            "dead": 3
        }
        assert gone(changed(nets.residual(), **{name: first(3) for name in names[:2]}), [3, 8, 8])[1] == {}

    def test_a_part_of_a_concatenation(self) -> None:
        net = nets.Net(6)
        a = net.op("Relu", net.conv("x", "a", 8, 3))
        both = net.op("Concat", a, net.op("Relu", net.conv(a, "b", 6, 8)), axis=1)
        y = net.op("Relu", net.conv(both, "c", 8, 14))
        net.op("Identity", net.dense(net.pooled(y), "head", 8, 3), name="y")
        proto = net.proto({"x": [3, 6, 6]}, {"y": [3]})
        found = gone(changed(proto, b__weight=first(2), b__bias=first(2)), [3, 6, 6])
        assert found == ({"b.weight[0]": 2}, {"dead": 2})

    @pytest.mark.parametrize("proto", [nets.mlp(), nets.residual(), convolutions()])
    def test_nothing_where_there_is_nothing(self, proto: onnx.ModelProto) -> None:
        shape = [dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim[1:]]
        assert gone(proto, shape) == ({}, {})


class TestConstant:
    def test_into_a_bias(self) -> None:
        proto = changed(convolutions(pads=0), n__scale=first(3), n__shift=first(3, 0.7))
        found, kinds = gone(proto, [3, 7, 7])
        assert found == {"a.weight[0]": 3}
        assert kinds == {"constant": 3}

    def test_not_where_zeros_around_an_image_make_a_border(self) -> None:
        def different(array: np.ndarray) -> None:
            array[:3] = [0.5, 0.6, 0.7]

        assert gone(changed(convolutions(), n__scale=first(3), n__shift=different), [3, 7, 7])[0] == {}

    def test_not_without_a_bias(self) -> None:
        net = nets.Net(5)
        y = net.op("Relu", net.dense("x", "a", 10, 16))
        y = net.op("Relu", net.op("MatMul", y, net.weight("b.weight", 16, 8)))
        net.op("Identity", net.dense(y, "c", 8, 4), name="y")

        def different(array: np.ndarray) -> None:
            array[:3] = [0.5, 0.6, 0.7]

        proto = changed(net.proto({"x": [10]}, {"y": [4]}), a__weight=first(3), a__bias=different)
        assert gone(proto, [10])[0] == {}


class TestDependent:
    def test_copies_are_added_to_the_first(self) -> None:
        proto = changed(nets.mlp(), fc1__weight=copied(5), fc1__bias=copied(5))
        assert gone(proto, [12]) == ({"fc1.weight[0]": 5}, {"copied": 5})

    def test_copies_that_differ_on_the_way_are_none(self) -> None:
        parts = ("a__weight", "a__bias", "n__scale", "n__shift", "n__mean", "n__var")
        proto = changed(convolutions(), **{name: copied(4) for name in parts})
        assert gone(proto, [3, 7, 7]) == ({}, {})
        more = {name: copied(4) for name in (*parts, "b__weight", "b__bias")}
        assert gone(changed(convolutions(), **more), [3, 7, 7]) == ({"a.weight[0]": 4}, {"copied": 4})

    def test_more_units_than_inputs_without_an_activation(self) -> None:
        net = nets.Net(7)
        y = net.op("Relu", net.dense(net.dense("x", "a", 6, 20), "b", 20, 8))
        net.op("Identity", net.dense(y, "c", 8, 3), name="y")
        assert gone(net.proto({"x": [6]}, {"y": [3]}), [6]) == ({"a.weight[0]": 13}, {"dependent": 13})

    def test_not_behind_an_activation(self) -> None:
        assert gone(nets.mlp((6, 20, 8, 3)), [6])[0] == {}

    def test_values_of_attention(self) -> None:
        """Two widths of all heads follow from others in the values: sums of them, in weight and bias."""
        proto = nets.transformer(tokens=6, width=24, heads=4)

        def combined(array: np.ndarray) -> None:
            heads = array.reshape(*array.shape[:-1], 4, 6)
            heads[..., 0] = heads[..., 1] - 0.5 * heads[..., 2]

        names = [t.name for t in proto.graph.initializer if t.name.startswith("v.")]
        found, kinds = gone(
            changed(proto, **{name.replace(".", "__"): combined for name in names}), shape(proto)
        )
        assert kinds == {"dependent": 1}
        assert list(found.values()) == [1]


def shape(proto: onnx.ModelProto) -> list[int]:
    return [dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim[1:]]


@pytest.mark.parametrize(("kind", "gates"), [("LSTM", 4), ("GRU", 3)])
@pytest.mark.parametrize("what", ["dead", "copied"])
def test_recurrent_units(kind: str, gates: int, what: str) -> None:
    net, units = nets.Net(8), 8
    x = net.op("Transpose", "x", perm=[1, 0, 2])
    names = [
        net.weight("w", 1, gates * units, 5),
        net.weight("r", 1, gates * units, units),
        net.weight("b", 1, 2 * gates * units, fan_in=100),
    ]
    states = net.op(kind, x, *names, hidden_size=units)
    y = net.op("Squeeze", states, net.constant("axes", [1], np.int64))
    y = net.op("Transpose", y, perm=[1, 0, 2])
    y = net.op("Add", net.op("MatMul", y, net.weight("d", units, 3)), net.weight("e", 3, fan_in=100))
    net.op("Identity", y, name="y")

    def change(array: np.ndarray) -> None:
        rows = np.moveaxis(array, 1, 0).reshape(-1, units, *array.shape[:1], *array.shape[2:])
        rows[:, :2] = 0 if what == "dead" else rows[:, 2:4]
        np.moveaxis(array, 1, 0)[:] = rows.reshape(-1, *rows.shape[2:])

    proto = changed(net.proto({"x": [6, 5]}, {"y": [6, 3]}), w=change, r=change, b=change)
    assert gone(proto, [6, 5])[1] == {what: 2}


@pytest.mark.parametrize("zero", [0, 7])
@pytest.mark.parametrize("reader", ["QLinearConv", "ConvInteger", "Conv"])
def test_zeros_of_integers_are_the_zero_point(zero: int, reader: str) -> None:
    """What integers multiply by zero is dead; what they make of nothing, or copy, is left where integers read
    it."""
    made, read = np.full((5, 3, 1, 1), 9, np.uint8), np.full((2, 5, 1, 1), 9, np.uint8)
    made[1], read[:, 2], read[:, 4] = 0, 0, 7
    nodes = [
        node("QuantizeLinear", "x s z", "q"),
        node("QLinearConv", "q s z w s k s z", "c"),
        node("DequantizeLinear", "c s z", "d"),
        node("Conv", "d v", "y"),
    ]
    weights = {"s": np.float32(0.05), "z": np.uint8(128), "k": np.uint8(zero), "w": made, "v": read}
    if reader == "QLinearConv":
        nodes[2:] = [node("QLinearConv", "c s z v s k s z", "e"), node("DequantizeLinear", "e s z", "y")]
    elif reader == "ConvInteger":
        nodes[2:] = [node("ConvInteger", "c v z k", "e"), node("Cast", "e", "y", to=onnx.TensorProto.FLOAT)]
    else:
        weights["v"] = np.random.default_rng(0).standard_normal((2, 5, 1, 1)).astype(np.float32)
    coupling = couple(prepare(ir.from_proto(graph(nodes, weights))))
    (group,) = coupling.groups
    x = np.random.default_rng(1).standard_normal((2, 3, 5, 5)).astype(np.float32)
    found = find_redundant(coupling, find_layers(coupling.model)[0], measured(coupling.model, x))
    if reader == "Conv":
        assert found.kinds == {"copied": 3}
        return
    assert found.kinds == {"dead": 1}
    assert not found.tensors
    dead = {0: 2, 7: 4}[zero]
    assert {key: value.tolist() for key, value in found.channels.items()} == {group.id: [dead]}
    small = coupling.model.clone()
    RemoveChannels({group.id: np.arange(5) != dead}).call(small)
    np.testing.assert_array_equal(run(small, x), run(coupling.model, x))
