"""Threads of the linear algebra inside and outside of the block."""

from __future__ import annotations

import numpy as np
from threadpoolctl import threadpool_info

from obs_onnx.solvers.blas_threads import threads_for


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
