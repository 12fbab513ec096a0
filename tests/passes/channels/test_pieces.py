"""Channels and pieces of outputs, whatever carries them there."""

from __future__ import annotations

import numpy as np
import pytest

from obs_onnx.passes.channels.pieces import channel_axes

SHAPES = {"a": (4, 8, 1, 1), "b": (6, 8, 1, 1), "w": (5, 10)}
HEAD = "p = Conv(x, a) q = Conv(x, b) s = Sigmoid(q)"
TWO = [(range(4), "p"), (range(4, 10), "s")]


def found(make_model, nodes: str, output: str, **constants: np.ndarray) -> list:
    """(axis, [(elements, node)]) of the output ``y``."""
    weights = {name: np.ones(shape, np.float32) for name, shape in SHAPES.items() if f", {name})" in nodes}
    text = f"g (float[N, 8, 4, 4] x) => (float{output} y) {{ {nodes} }}"
    model = make_model(text, {**weights, **constants})
    for node in model.graph:
        node.name = node.outputs[0].name
    return [
        (one.axis, [(range(p.elements[0], p.elements[-1] + 1), p.node) for p in one.pieces])
        for one in channel_axes(model)["y"]
    ]


@pytest.mark.parametrize(
    ("tail", "output", "axis"),
    [
        ("y = Concat<axis = 1>(p, s)", "[N, 10, 4, 4]", 1),
        ("c = Concat<axis = 1>(p, s) y = Relu(c)", "[N, 10, 4, 4]", 1),
        ("c = Concat<axis = 1>(p, s) y = Mul(c, half)", "[N, 10, 4, 4]", 1),
        (
            "c = Concat<axis = 1>(p, s) r = Reshape(c, rows) y = Transpose<perm = [0, 2, 1]>(r)",
            "[N, 16, 10]",
            2,
        ),
        ("c = Concat<axis = 1>(p, s) y = Softmax<axis = 1>(c)", "[N, 10, 4, 4]", 1),
    ],
)
def test_inputs_of_a_concat_are_pieces(make_model, tail: str, output: str, axis: int) -> None:
    constants = {"half": np.float32(0.5), "rows": np.array([0, 10, 16])}
    used = {name: value for name, value in constants.items() if name in tail}
    ((where, pieces),) = found(make_model, f"{HEAD} {tail}", output, **used)
    assert where == axis
    assert pieces == TWO


def test_pieces_of_levels_that_lie_in_a_row(make_model) -> None:
    nodes = f"""{HEAD} c = Concat<axis = 1>(p, s) r = Reshape(c, rows)
        e = Concat<axis = 1>(p, s) t = Reshape(e, rows) y = Concat<axis = 2>(r, t)"""
    axes = found(make_model, nodes, "[N, 10, 32]", rows=np.array([0, 10, 16]))
    assert [axis for axis, _ in axes] == [1]  # positions are no channels
    assert [elements for elements, _ in axes[0][1]] == [range(4), range(4, 10)]


def test_a_concat_of_positions_divides_nothing(make_model) -> None:
    ((axis, pieces),) = found(make_model, f"{HEAD} y = Concat<axis = 3>(p, p)", "[N, 4, 4, 8]")
    assert axis == 1
    assert [elements for elements, _ in pieces] == [range(4)]


def test_pieces_of_one_layer_that_are_treated_apart(make_model) -> None:
    nodes = """q = Conv(x, b) u, v = Split<axis = 1>(q, sizes) t = Exp(u) y = Concat<axis = 1>(t, v)"""
    ((axis, pieces),) = found(make_model, nodes, "[N, 6, 4, 4]", sizes=np.array([2, 4]))
    assert axis == 1
    assert pieces == [(range(2), "t"), (range(2, 6), "u")]


def test_channels_of_a_layer_are_one_piece(make_model) -> None:
    ((axis, pieces),) = found(make_model, "y = Conv(x, b)", "[N, 6, 4, 4]")
    assert (axis, pieces) == (1, [(range(6), "y")])


def test_what_nothing_is_known_of_has_no_channels(make_model) -> None:
    assert found(make_model, "y = Neg(x)", "[N, 8, 4, 4]") == []


def test_what_others_say_about_an_axis_does_not_count(make_model) -> None:
    """A consumer that fixes the channels of the head, as NonMaxSuppression or TopK do, hides nothing."""
    model = make_model(
        """g (float[N, 8, 4, 4] x) => (float[N, 10, 4, 4] y, int64[N, 1, 4, 4] i) {
            p = Conv(x, a) q = Conv(x, b) y = Concat<axis = 1>(p, q) i = ArgMax<axis = 1>(q) }""",
        {name: np.ones(SHAPES[name], np.float32) for name in "ab"},
    )
    (one,) = channel_axes(model)["y"]
    assert [len(piece.elements) for piece in one.pieces] == [4, 6]
