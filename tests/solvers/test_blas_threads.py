"""Threads of the linear algebra inside and outside of the block."""

from __future__ import annotations

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from obs_onnx.solvers.blas_threads import row_threads, threads_for


def threads() -> set[int]:
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


def test_small_products_get_one_thread_and_large_ones_what_there_is() -> None:
    np.ones((4, 4)) @ np.ones((4, 4))
    before = threads()
    assert before
    with threads_for(64):
        assert threads() == {1}
        with threads_for(4096):
            assert threads() == {1}  # no limit of its own, but that of the block around
    assert threads() == before
    with threads_for(4096):
        assert threads() == before


@pytest.mark.parametrize("rows", [1, 7, 100, 257])
def test_rows_are_shared_out_and_each_has_one_thread_of_linear_algebra(rows: int) -> None:
    rng = np.random.default_rng(rows)
    x, a = rng.standard_normal((rows, 5)), rng.standard_normal((5, 3))
    with row_threads(4096) as shared:
        assert threads() == {1}
        np.testing.assert_allclose(shared.product(x, a), x @ a)
        seen: list[int] = []
        shared.each(rows, lambda part: seen.extend(range(rows)[part]))
        assert sorted(seen) == list(range(rows))
        assert shared.map(abs, [-1, 2]) == [1, 2]
    with row_threads(64) as alone:
        assert alone.size == 1
