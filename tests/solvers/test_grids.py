import numpy as np
import pytest

from obs_onnx.passes.errors import OptionError
from obs_onnx.solvers.grids import Grid, GridKind, choose_grid

INT8 = GridKind()
BLOCKS = GridKind(0, 15, None, 4)


@pytest.fixture
def w() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((2, 3, 10)) * np.exp(np.arange(3))[:, None]


def test_values_and_integers_of_blocks_by_hand() -> None:
    grid = Grid(np.array([[[0.5, 2.0]]]), np.array([[[3, 0]]]), 0, 7, 2)
    np.testing.assert_array_equal(grid.values(np.array([[[3, 5, 1]]])), [[[0.0, 1.0, 2.0]]])
    np.testing.assert_array_equal(grid.nearest(np.array([[[-9.0, 0.3, 3.2]]])), [[[0, 4, 2]]])


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        (INT8, (2, 3, 1)),
        (GridKind(shared=True), (1, 1, 1)),
        (BLOCKS, (2, 3, 3)),
        (GridKind(0, 255, 0), (2, 3, 1)),
        (GridKind(0, 15, 8, 32), (2, 3, 1)),
    ],
)
def test_shapes_of_scales_and_integers_in_their_range(
    w: np.ndarray, kind: GridKind, shape: tuple[int, ...]
) -> None:
    grid = choose_grid(w, kind)
    q = grid.nearest(w)
    assert grid.scale.shape == grid.zero.shape == shape
    assert q.min() >= kind.lowest
    assert q.max() <= kind.highest
    assert (grid.scale > 0).all()
    assert ((grid.zero >= kind.lowest) & (grid.zero <= kind.highest)).all()
    if kind.zero is not None:
        assert (grid.zero == kind.zero).all()


@pytest.mark.parametrize("kind", [INT8, GridKind(-8, 7), BLOCKS, GridKind(shared=True)])
def test_no_worse_than_the_range_that_holds_all_weights(w: np.ndarray, kind: GridKind) -> None:
    def error(grid: Grid) -> float:
        return float(((grid.values(grid.nearest(w)) - w) ** 2).sum())

    found = choose_grid(w, kind)
    low, high = w.min(axis=2, keepdims=True).min(initial=0), w.max(axis=2, keepdims=True).max(initial=0)
    if kind.zero is None:
        scale = np.full(found.scale.shape, (high - low) / (kind.highest - kind.lowest))
        zero = np.rint(kind.lowest - low / scale).astype(np.int64)
    else:
        scale = np.full(found.scale.shape, max(high / kind.highest, low / kind.lowest))
        zero = np.zeros(scale.shape, np.int64)
    assert error(found) <= error(Grid(scale, zero, kind.lowest, kind.highest, found.block))


def test_a_weight_that_counts_more_is_met_better(w: np.ndarray) -> None:
    weight = np.ones((2, 10))
    weight[:, 3] = 1e4
    plain, weighted = (choose_grid(w, GridKind(-8, 7), one) for one in (None, weight))
    wrong = [np.abs(grid.values(grid.nearest(w)) - w)[:, :, 3] for grid in (plain, weighted)]
    assert wrong[1].sum() < wrong[0].sum()


@pytest.mark.parametrize("kind", [INT8, BLOCKS, GridKind(shared=True)])
def test_nothing_but_zeros(kind: GridKind) -> None:
    w = np.zeros((1, 2, 5))
    grid = choose_grid(w, kind)
    assert np.isfinite(grid.scale).all()
    np.testing.assert_array_equal(grid.values(grid.nearest(w)), w)


def test_bits() -> None:
    assert (INT8.bits, BLOCKS.bits) == (8, 4)


@pytest.mark.parametrize("wrong", [(3, 3, 3, None), (0, 15, 16, None), (0, 15, 8, 0)])
def test_bad_kinds(wrong: tuple[int, int, int, int | None]) -> None:
    with pytest.raises(OptionError):
        GridKind(*wrong)
