"""What is counted of solutions."""

from __future__ import annotations

from dataclasses import replace

import pytest
from forecast_runs import NOTHING

from obs_onnx.pruning.forecast.layers import LayerWork
from obs_onnx.pruning.forecast.solutions import solving
from obs_onnx.solvers import UNSTRUCTURED

PRODUCTS = replace(NOTHING, products=(1.0,) * 4)


def work(rows: int, columns: int) -> LayerWork:
    return LayerWork(1, rows, columns, 1, 1.0, 1.0, 1, 0, 0.0, False, 1)


def test_steps_of_admm_are_products_of_the_weight_with_a_square_matrix() -> None:
    quick, brief = (
        solving(work(64, 128), PRODUCTS, [0.5], "admm", UNSTRUCTURED, effort) for effort in ("quick", "brief")
    )
    assert 2 * 6 * 64 * 128**2 < brief < quick


def test_levels_and_methods_add_up() -> None:
    def seconds(method: str, levels: int) -> float:
        return solving(work(64, 128), PRODUCTS, [0.5] * levels, method, UNSTRUCTURED, "brief")

    assert 2 * seconds("admm", 1) < seconds("admm", 3) < 3 * seconds("admm", 1)  # inverses serve all levels
    assert seconds("auto", 1) == pytest.approx(seconds("admm", 1) + seconds("obs", 1))
    assert seconds("obs", 1) < seconds("obs", 3) < 3 * seconds("obs", 1)
    assert seconds("magnitude", 1) < seconds("obs", 1)
    assert seconds("taylor", 1) == seconds("magnitude", 1)
