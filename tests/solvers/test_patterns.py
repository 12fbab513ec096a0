import numpy as np
import pytest

from obs_onnx.passes.errors import OptionError
from obs_onnx.solvers import UNSTRUCTURED, Pattern, follows, parse_pattern
from obs_onnx.solvers.baselines import magnitude_mask, random_mask
from obs_onnx.solvers.patterns import project


def test_parse() -> None:
    assert parse_pattern("2:4") == Pattern("nm", 2, 4)
    assert parse_pattern("1x4") == Pattern("block", 1, 4)
    assert parse_pattern("4x2") == Pattern("block", 4, 2)
    assert parse_pattern(None) == parse_pattern("unstructured") == parse_pattern("1x1") == UNSTRUCTURED
    assert [str(parse_pattern(text)) for text in ("2:4", "1x4", "")] == ["2:4", "1x4", "unstructured"]


@pytest.mark.parametrize("text", ["4:4", "0:4", "5:4", "0x2", "2", "a:b", "2:4:8", "-1:4"])
def test_parse_rejects(text: str) -> None:
    with pytest.raises(OptionError, match="pattern"):
        parse_pattern(text)


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.93, 1.0])
def test_unstructured_counts_and_keeps_the_largest(sparsity: float) -> None:
    scores = np.random.default_rng(0).random((2, 5, 7))
    mask = project(scores, sparsity, UNSTRUCTURED)
    assert (~mask).sum() == round(sparsity * 70)
    if mask.any() and not mask.all():
        assert scores[mask].min() > scores[~mask].max()


@pytest.mark.parametrize("columns", [8, 11, 9, 3])
def test_nm_keeps_the_best_of_every_run(columns: int) -> None:
    scores = np.random.default_rng(1).random((2, 3, columns))
    pattern = parse_pattern("2:4")
    mask = project(scores, 0.5, pattern)
    assert follows(mask, pattern)
    for g, o in np.ndindex(2, 3):
        for first in range(0, columns, 4):
            run = scores[g, o, first : first + 4]
            assert set(np.flatnonzero(mask[g, o, first : first + 4])) == set(np.argsort(run)[-2:])
    assert project(scores, 0.0, pattern).all()


@pytest.mark.parametrize("text", ["1x4", "2x3", "4x1"])
def test_blocks(text: str) -> None:
    pattern = parse_pattern(text)
    scores = np.random.default_rng(2).random((2, 6, 11))
    mask = project(scores, 0.6, pattern)
    assert follows(mask, pattern)
    assert abs((~mask).mean() - 0.6) <= pattern.rows * pattern.columns / mask.size
    assert project(scores, 0.0, pattern).all()
    assert not project(scores, 1.0, pattern).any()
    kept, gone = [], []
    for g in range(2):
        for r in range(0, 6, pattern.rows):
            for c in range(0, 11, pattern.columns):
                at = np.s_[g, r : r + pattern.rows, c : c + pattern.columns]
                (kept if mask[at].all() else gone).append(scores[at].mean())
    assert min(kept) > max(gone)


def test_follows_sees_violations() -> None:
    mask = np.zeros((1, 2, 8), bool)
    mask[0, 0, :3] = True
    assert follows(mask, UNSTRUCTURED)
    assert not follows(mask, parse_pattern("2:4"))
    assert not follows(mask, parse_pattern("1x4"))
    assert follows(mask, parse_pattern("3:4"))


def test_sparsity_out_of_range() -> None:
    with pytest.raises(OptionError, match="between 0 and 1"):
        project(np.ones((1, 1, 4)), 1.1, UNSTRUCTURED)


def test_baselines() -> None:
    w = np.random.default_rng(3).standard_normal((1, 4, 10))
    mask = magnitude_mask(w, 0.7)
    assert np.abs(w[mask]).min() > np.abs(w[~mask]).max()
    few, many = (random_mask((1, 4, 10), s, seed=5) for s in (0.9, 0.5))
    assert (few <= many).all()
    assert few.sum() == 4
    assert not np.array_equal(many, random_mask((1, 4, 10), 0.5, seed=6))


@pytest.mark.parametrize("kind", ["spread", "equal", "sorted", "two values", "one outlier"])
@pytest.mark.parametrize("sparsity", [0.001, 0.3, 0.9, 0.9999])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_of_many_weights_the_largest_stay(kind: str, sparsity: float, dtype: type) -> None:
    rng = np.random.default_rng(0)
    scores = {
        "spread": np.exp(rng.standard_normal(50_000)),
        "equal": np.ones(50_000),
        "sorted": np.arange(50_000.0),
        "two values": (rng.random(50_000) < 0.5).astype(float),
        "one outlier": np.where(np.arange(50_000) == 777, 1e6, rng.random(50_000)),
    }[kind].astype(dtype)
    mask = project(scores.reshape(1, 50, 1000), sparsity, UNSTRUCTURED).ravel()
    keep = 50_000 - round(sparsity * 50_000)
    assert mask.sum() == keep
    np.testing.assert_array_equal(np.sort(scores[mask]), np.sort(scores)[50_000 - keep :])
