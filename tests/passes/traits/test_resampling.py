"""Norms of resampled axes against the matrices that onnxruntime applies."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from obs_onnx.passes.traits.resampling import Resampling

LENGTHS = [(4, 8), (4, 5), (5, 3), (3, 7), (7, 7), (8, 2), (1, 4), (5, 1)]
COORDINATES = ["half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners"]


def matrix(
    before: int, after: int, mode: str, coordinates: str, scale: float | None = None, **attributes: object
) -> NDArray[np.float64]:
    """(after, before): what onnxruntime makes of the last axis."""
    operands = ["", "", "operand"] if scale is None else ["", "operand"]
    operand, kind = ([1, 1, before, after], TensorProto.INT64)
    if scale is not None:
        operand, kind = ([1, 1, 1, scale], TensorProto.FLOAT)
    node = helper.make_node(
        "Resize", ["x", *operands], ["y"], mode=mode, coordinate_transformation_mode=coordinates, **attributes
    )
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, before, before])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [helper.make_tensor("operand", kind, [4], operand)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": np.eye(before, dtype=np.float32)[None, None]})
    return y[0, 0].T.astype(np.float64)


@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize(("before", "after"), LENGTHS)
def test_linear_and_cubic_axes_have_the_norm_of_their_matrix(
    before: int, after: int, coordinates: str
) -> None:
    for mode in ("linear", "cubic"):
        found = Resampling(mode, coordinates, "").norm(before, after, None)
        norm = np.linalg.norm(matrix(before, after, mode, coordinates), 2)
        assert norm <= found * (1 + 1e-6)
        if after > 1:  # how runtimes read a single place is left open
            assert found == pytest.approx(norm, rel=1e-3)


@pytest.mark.parametrize("coefficient", [-0.5, -0.75])
@pytest.mark.parametrize("exclude", [False, True])
def test_attributes_of_cubic(coefficient: float, exclude: bool) -> None:
    for before, after in [(4, 8), (5, 3), (6, 9)]:
        found = Resampling("cubic", "half_pixel", "", coefficient, exclude).norm(before, after, None)
        given = matrix(
            before, after, "cubic", "half_pixel", cubic_coeff_a=coefficient, exclude_outside=int(exclude)
        )
        assert found == pytest.approx(np.linalg.norm(given, 2), rel=1e-3)


@pytest.mark.parametrize("nearest", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
@pytest.mark.parametrize("coordinates", COORDINATES)
def test_nearest_places_are_taken_as_often_as_onnxruntime_takes_them(coordinates: str, nearest: str) -> None:
    for before, after in LENGTHS:
        given = matrix(before, after, "nearest", coordinates, nearest_mode=nearest)
        assert set(np.unique(given)) <= {0, 1}
        norm = np.sqrt(given.sum(0).max())
        found = Resampling("nearest", coordinates, nearest).norm(before, after, None)
        assert found >= norm
        assert Resampling("nearest", coordinates, "any").norm(before, after, None) >= found


@pytest.mark.parametrize(
    ("before", "after", "most"),
    [(4, 8, 2), (4, 12, 3), (3, 7, 3), (8, 2, 1), (7, 7, 1), (1, 4, 4)],
)
def test_nearest_places_without_ties(before: int, after: int, most: int) -> None:
    given = matrix(before, after, "nearest", "half_pixel", nearest_mode="round_prefer_floor")
    found = Resampling("nearest", "half_pixel", "round_prefer_floor").norm(before, after, None)
    assert given.sum(0).max() == most
    assert found == pytest.approx(np.sqrt(most))


def test_a_scale_that_was_asked_for_counts_instead_of_the_ratio_of_lengths() -> None:
    scale, after = 2.6, 10  # of 4 places: 10.4
    given = matrix(4, after, "linear", "asymmetric", scale)
    assert given.shape == (after, 4)
    found = Resampling("linear", "asymmetric", "").norm(4, after, scale)
    assert found == pytest.approx(np.linalg.norm(given, 2), rel=1e-3)
    assert abs(found - Resampling("linear", "asymmetric", "").norm(4, after, None)) > 1e-2


def test_long_axes_are_bounded() -> None:
    given = matrix(300, 600, "linear", "half_pixel")
    norm = np.linalg.norm(given, 2)
    found = Resampling("linear", "half_pixel", "").norm(300, 600, None)
    assert norm <= found <= 1.2 * norm


@pytest.mark.parametrize(
    "how",
    [
        Resampling("area", "half_pixel", ""),
        Resampling("linear", "crop", ""),
        Resampling("nearest", "half_pixel", "odd"),
    ],
)
def test_what_is_not_known_has_no_norm(how: Resampling) -> None:
    assert how.norm(4, 8, None) is None
