"""What makes widths multiples of a number: runs of elements, and what stands in a row."""

from __future__ import annotations

import nets
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from obs_onnx.passes.canonical.own_constants import prepare
from obs_onnx.passes.channels.coupling import couple
from obs_onnx.passes.costs.widths import Widths, widths_of


def widths(proto: onnx.ModelProto, multiple: int) -> tuple[dict[int, list[int]], Widths]:
    """Steps of the groups, by their numbers of channels, and all."""
    coupling = couple(prepare(ir.from_proto(proto)))
    found, steps = widths_of(coupling, multiple), dict[int, list[int]]()
    for group in coupling.groups:
        steps.setdefault(group.n, []).append(found.steps[group.id])
    return steps, found


def attention(heads: int, width: int) -> onnx.ModelProto:
    return nets.transformer(tokens=6, width=heads * width, heads=heads)


@pytest.mark.parametrize(
    ("width", "multiple", "heads", "inside"),
    [(16, 8, 1, 8), (12, 8, 2, 8), (4, 8, 2, 8), (12, 16, 4, 16), (12, 1, 1, 1)],
)
def test_heads_are_runs_of_their_widths(width: int, multiple: int, heads: int, inside: int) -> None:
    steps, _ = widths(attention(5, width), multiple)
    assert steps[5] == [heads]
    assert set(steps[width]) == {inside}


def test_groups_of_a_convolution_are_runs_and_their_channels_are_not() -> None:
    net = nets.Net()
    y = net.op("Relu", net.conv(net.op("Relu", net.conv("x", "a", 40, 3)), "b", 40, 40, group=5))
    net.op("Identity", net.dense(net.pooled(y), "head", 40, 3), name="y")
    steps, _ = widths(net.proto({"x": [3, 6, 6]}, {"y": [3]}), 8)
    assert steps == {5: [1], 8: [8, 8]}


def test_flattened_places_do_not_count() -> None:
    net = nets.Net()
    y = net.op("Flatten", net.op("Relu", net.conv("x", "a", 24, 3)))
    net.op("Identity", net.dense(net.op("Relu", net.dense(y, "b", 24 * 16, 20)), "c", 20, 3), name="y")
    assert widths(net.proto({"x": [3, 4, 4]}, {"y": [3]}), 8)[0] == {24: [8], 20: [8]}


@pytest.mark.parametrize(
    ("first", "second", "counted"),
    [
        (20, 12, True),  # a multiple as it is
        (20, 16, True),  # one with 16 and 16
        (16, 24, True),
        (16, 2, False),  # two that cannot change are in the way
        (16, 8, True),
    ],
)
def test_what_stands_in_a_row(first: int, second: int, counted: bool) -> None:
    net = nets.Net()
    a = net.op("Relu", net.conv("x", "a", first, 3))
    both = net.op("Concat", a, net.op("Relu", net.conv(a, "b", second, first)), axis=1)
    y = net.op("Relu", net.conv(both, "c", 8, first + second))
    net.op("Identity", net.dense(net.pooled(y), "head", 8, 3), name="y")
    _, found = widths(net.proto({"x": [3, 6, 6]}, {"y": [3]}), 8)
    assert bool(found.sums) == counted
    for one in found.sums:
        assert len(one.groups) == 2
        a, b = one.groups
        assert one.holds({}, 8)
        assert one.holds({a: 8, b: 8}, 8)
        assert one.holds({a: 16}, 8) == ((16 + second) % 8 == 0 or first == 16)
        assert not one.holds({a: 8, b: 5}, 8)


def test_places_of_the_input_beside_channels() -> None:
    """Two coordinates in a row with 64 channels: no multiple as it is, and none whatever goes."""
    net = nets.Net()
    both = net.op("Concat", net.op("Relu", net.conv("x", "a", 64, 2)), "x", axis=1)
    y = net.op("Relu", net.conv(both, "c", 8, 66))
    net.op("Identity", net.dense(net.pooled(y), "head", 8, 3), name="y")
    steps, found = widths(net.proto({"x": [2, 6, 6]}, {"y": [3]}), 8)
    assert (steps, found.sums) == ({64: [8], 8: [8]}, ())


def test_steps_hold_in_every_weight() -> None:
    """All multiples of the steps, in all nets: every axis of a weight is a multiple or as it was."""
    rng = np.random.default_rng(0)
    for build in nets.NETS.values():
        coupling = couple(prepare(ir.from_proto(build())))
        found = widths_of(coupling, 4)
        for _ in range(5):
            counts = {
                group.id: int(
                    rng.choice([*range(found.steps[group.id], group.n, found.steps[group.id]), group.n])
                )
                for group in coupling.groups
            }
            if not all(one.holds(counts, 4) for one in found.sums):
                continue
            keep = {group.id: np.arange(group.n) < counts[group.id] for group in coupling.groups}
            for name, axes in coupling.keep_indices(keep).items():
                if name.endswith("weight"):
                    assert all(len(kept) % 4 == 0 for kept in axes.values()), (name, axes)
