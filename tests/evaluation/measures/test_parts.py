"""Parts of outputs and their errors against formulas written out."""

from __future__ import annotations

import math

import numpy as np
import pytest

from obs_onnx.evaluation.measures.parts import SHARE, SPREAD, ErrorSums, Part, Spreads, weighted
from obs_onnx.passes.channels.pieces import ChannelAxis, Piece
from obs_onnx.passes.errors import OptionError

RANDOM = np.random.default_rng(7)
BOXES, SCORES = 300 * RANDOM.random((8, 4, 50)), RANDOM.random((8, 6, 50)) ** 8
HEAD = np.concatenate([BOXES, SCORES], axis=1).astype(np.float32)
PIECES = {"y": [ChannelAxis(1, (Piece(tuple(range(4)), "boxes"), Piece(tuple(range(4, 10)), "scores")))]}


def parts_of(*batches: np.ndarray, axes=None, whole=None) -> tuple[Part, ...]:
    spreads = Spreads(axes or {}, whole or {})
    for y in batches:
        spreads.add({"y": y})
    return spreads.parts()


def errors_of(parts, y: np.ndarray, z: np.ndarray) -> dict[str, float]:
    sums = ErrorSums(parts)
    for rows in (slice(0, 3), slice(3, None)):
        sums.add({"y": y[rows]}, {"y": z[rows]})
    return {one.name: one.error for one in sums.errors()}


def test_pieces_have_their_own_spread_around_the_mean_of_each_channel() -> None:
    boxes, scores = parts_of(HEAD[:3], HEAD[3:], axes=PIECES)
    assert (boxes.name, boxes.node, scores.name, scores.node) == ("y[0:4]", "boxes", "y[4:10]", "scores")
    for part, y in ((boxes, BOXES), (scores, SCORES)):
        around = y - y.mean(axis=(0, 2), keepdims=True)
        assert part.spread == part.scale == pytest.approx(np.sqrt(np.mean(around**2)), rel=1e-5)
    off = HEAD.copy()
    off[:, 4:] += 0.1
    found = errors_of((boxes, scores), HEAD, off)
    assert found == {"y[0:4]": 0, "y[4:10]": pytest.approx(0.1 / scores.spread, rel=1e-4)}


def test_a_level_hides_nothing() -> None:
    y = (1000 + RANDOM.standard_normal((64, 1))).astype(np.float64)
    (part,) = parts_of(y)
    assert errors_of([part], y, y + 0.5)["y"] == pytest.approx(0.5 / y.std(), rel=1e-9)


@pytest.mark.parametrize(
    ("scales", "names"),
    [
        ((1, 1.2, 0.9, 1.1), ["y"]),
        ((320, 310, 1, 0.9), ["y[0:2]", "y[2:4]"]),
        ((1, 320, 0.9, 310), ["y[1,3]", "y[0,2]"]),
        ((60, 20, 6, 5), ["y[0]", "y[1]", "y[2:4]"]),
    ],
)
def test_features_of_another_scale_are_parts(scales, names) -> None:
    one = RANDOM.standard_normal((400, 1)) * np.array(scales)
    parts = parts_of(one)
    assert [part.name for part in parts] == names
    assert [part.axis for part in parts] == [1] * len(names)


def test_a_rare_class_beside_background_is_a_part() -> None:
    maps = np.stack([RANDOM.random((4, 30, 30)), RANDOM.random((4, 30, 30)) > 0.998], axis=1).astype(
        np.float32
    )
    axes = {"y": [ChannelAxis(1, (Piece((0, 1)),))]}
    background, rare = parts_of(maps, axes=axes)
    assert (background.name, rare.name) == ("y[0]", "y[1]")
    lost = maps.copy()
    lost[:, 1] = 0
    assert errors_of((background, rare), maps, lost)["y[1]"] == pytest.approx(1, rel=0.01)
    (whole,) = parts_of(maps, axes={"y": []})
    assert errors_of([whole], maps, lost)["y"] < 0.15


def test_a_rare_class_inside_of_a_piece_is_a_part_and_a_dead_one_is_none() -> None:
    y = HEAD.astype(np.float64)
    y[:, :4] /= 10
    y[:, 6] = SCORES[:, 2] / 12  # rare
    y[:, 8] = 1e-3 + 1e-10 * RANDOM.random((8, 50))  # never seen: its spread is rounding
    y[:, 9] = 1e-12 * RANDOM.random((8, 50))
    boxes, scores, rare, *dead = parts_of(y, axes=PIECES)
    assert [part.name for part in (boxes, scores, rare)] == ["y[0:4]", "y[4:6,7]", "y[6]"]
    assert [part.node for part in (scores, rare)] == ["scores", "scores"]
    assert rare.scale == pytest.approx(SCORES[:, 2].std() / 12)
    (never,) = dead
    assert (never.name, never.basis) == ("y[8:10]", SHARE)
    assert never.scale == pytest.approx(0.03 * scores.spread)
    lost = y.copy()
    lost[:, 6] = y[:, 6].mean()
    assert errors_of((boxes, scores, rare, never), y, lost) == {
        "y[0:4]": 0, "y[4:6,7]": 0, "y[6]": pytest.approx(1), "y[8:10]": 0
    }  # fmt: skip
    noisy = y.copy()
    noisy[:, 8] += 1e-9
    assert errors_of((never,), y, noisy)["y[8:10]"] < 1e-6


def test_what_a_piece_hardly_shows_is_measured_against_a_share_of_the_piece() -> None:
    y = HEAD.copy()
    y[:, :4] /= 10
    y[:, 6] /= 1000
    _, scores, rare = parts_of(y, axes=PIECES)
    assert (rare.name, rare.basis, rare.scale) == ("y[6]", SHARE, pytest.approx(0.03 * scores.spread))


def test_of_two_axes_the_one_whose_spreads_differ_most() -> None:
    table = np.moveaxis(HEAD, 1, 2)
    levels = ChannelAxis(1, (Piece(tuple(range(30))), Piece(tuple(range(30, 50)))))
    columns = ChannelAxis(2, PIECES["y"][0].pieces)
    assert [p.name for p in parts_of(table, axes={"y": [levels, columns]})] == ["y[0:4]", "y[4:10]"]


def test_class_scores_are_one_part_and_so_is_what_has_no_channels() -> None:
    y = RANDOM.standard_normal((40, 3)) * np.array([1, 10, 100])
    (scores,) = parts_of(y, whole={"y": 1})
    assert (scores.name, scores.axis) == ("y", 1)
    assert scores.spread == pytest.approx(np.sqrt(np.mean((y - y.mean(0)) ** 2)))
    assert (scores.basis, scores.scale) == ("level", pytest.approx(np.sqrt(np.mean(y**2))))
    track = RANDOM.standard_normal((1, 70))
    (whole,) = parts_of(track, track[:, :50], axes={"y": []})
    assert whole.axis is None
    (whole,) = parts_of(track, track[:, :50])  # the second axis is of another size each time: no features
    assert whole.axis is None
    assert whole.spread == pytest.approx(np.r_[track[0], track[0, :50]].std())


def test_what_does_not_vary_neither_blows_up_nor_hides() -> None:
    y = RANDOM.standard_normal((40, 4)).astype(np.float32)
    y[:, 2], y[:, 3] = 5, 0
    moving, still, zero = parts_of(y)[0], *parts_of(y)[1:][:1], None
    assert (moving.name, still.name, zero) == ("y[0:2]", "y[2:4]", None)
    assert (moving.still, still.still) == (False, True)
    assert still.scale == pytest.approx(5 / math.sqrt(2))
    assert errors_of([still], y, y + 0.5)["y[2:4]"] == pytest.approx(0.1 * math.sqrt(2))
    y[:, 2] = 0
    nothing = parts_of(y)[1]
    assert nothing.scale == pytest.approx(moving.spread, rel=1e-3)
    (zeros,) = parts_of(np.zeros((4, 2)))
    assert errors_of([zeros], np.zeros((4, 2)), np.ones((4, 2)))["y"] == math.inf
    assert errors_of([zeros], np.zeros((4, 2)), np.zeros((4, 2)))["y"] == 0


def test_one_sample_is_measured_against_its_level() -> None:
    y = RANDOM.standard_normal((1, 9))
    (part,) = parts_of(y)
    sums = ErrorSums([part])
    sums.add({"y": y}, {"y": 1.1 * y})
    assert sums.errors()[0].error == pytest.approx(0.1)


def test_numbers_that_are_not_finite() -> None:
    y = RANDOM.standard_normal((40, 3))
    y[:, 0] = -np.inf
    parts = parts_of(y)
    assert sum(part.spread > 0 for part in parts) == 1
    assert max(errors_of(parts, y, y).values()) == 0
    broken = y.copy()
    broken[0, 1] = np.nan
    assert max(errors_of(parts, y, broken).values()) == math.inf


def test_an_output_of_another_size_is_all_wrong() -> None:
    (part,) = parts_of(HEAD, axes={"y": []})
    assert errors_of([part], HEAD, HEAD[:, :, :20])["y"] == pytest.approx(1)


def test_weights() -> None:
    parts = parts_of(HEAD, axes=PIECES)
    for given, expected in (
        ({}, [1, 1]),
        ({"y": 3}, [3, 3]),
        ({"y[4:10]": 2}, [1, 2]),  # brackets are no pattern where the name is exact
        ({"score*": 2}, [1, 2]),
        ({"y": 3, "scores": 0}, [3, 0]),
    ):
        assert [part.weight for part in weighted(parts, given)] == expected
    doubled = weighted(parts, {"scores": 2, "boxes": 0})
    sums = ErrorSums(doubled)
    sums.add({"y": HEAD}, {"y": HEAD + 0.1})
    (scores,) = sums.errors()  # what has no weight is not measured
    assert scores.weighted == 2 * scores.error
    with pytest.raises(OptionError, match=r"'z' fits no part.*y\[0:4\] from boxes, y\[4:10\] from scores"):
        weighted(parts, {"z": 1})
    with pytest.raises(OptionError, match="nothing to measure"):
        weighted(parts, {"y": 0})


@pytest.mark.parametrize(("classes", "share"), [(("y",), 0.03), ((), 1e-4)])
def test_what_hardly_varies_is_measured_against_a_share_of_its_output(classes, share: float) -> None:
    y = RANDOM.random((16, 3, 40)) * np.array([1, 0.2, 1e-7])[:, None]
    axes = {"y": [ChannelAxis(1, tuple(Piece((k,), f"p{k}") for k in range(3)))]}
    spreads = Spreads(axes, {}, classes)
    spreads.add({"y": y})
    most, some, none = spreads.parts()
    assert [part.basis for part in (most, some, none)] == [SPREAD, SPREAD, SHARE]
    assert some.scale == some.spread
    assert none.scale == pytest.approx(share * most.spread)
    assert none.spread < none.scale
