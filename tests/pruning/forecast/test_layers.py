"""What is counted of layers, against what numpy would do."""

from __future__ import annotations

from dataclasses import replace

import pytest
from forecast_runs import NOTHING

from obs_onnx.passes.layers.layer import Layer, Use
from obs_onnx.passes.traits.linear import ConvGeometry, MatmulGeometry, WeightLayout
from obs_onnx.pruning.forecast.layers import LayerWork

PRODUCTS = replace(NOTHING, products=(1.0,) * 4)
FACTORS = replace(NOTHING, factors=(1.0,) * 4)


def conv(
    rows: int, channels: int, kernel: int, size: int, stride: int = 1, groups: int = 1
) -> tuple[Layer, tuple[int, ...]]:
    geometry = ConvGeometry((kernel,) * 2, (stride,) * 2, (1, 1), (kernel // 2,) * 4, groups=groups)
    goi = (groups, rows // groups, channels // groups * kernel**2)
    return layer(geometry, goi), (1, channels, size, size)


def layer(geometry: ConvGeometry | MatmulGeometry, goi: tuple[int, int, int]) -> Layer:
    layout = WeightLayout(goi, goi, (0, 1, 2), goi)
    return Layer("w", "Conv", layout, (Use("n", "x", "y", geometry),))


def test_products_of_a_strided_convolution_are_those_of_its_unfolded_input() -> None:
    work = LayerWork.of(*conv(32, 24, 3, 16, stride=2))
    assert (work.positions, work.columns, work.cells) == (64, 216, 0)
    assert work.moments(PRODUCTS, 10, 1, False) == pytest.approx(10 * 64 * 216**2 / 2)


def test_products_of_a_convolution_by_lags_are_half_of_all_lags() -> None:
    work = LayerWork.of(*conv(32, 24, 3, 16))
    assert work.lags == 13
    assert work.moments(PRODUCTS, 10, 1, False) == pytest.approx(10 * 256 * 24**2 * 13)
    targets = work.moments(PRODUCTS, 10, 1, True) - work.moments(PRODUCTS, 10, 1, False)
    assert targets == pytest.approx(10 * 256 * 216 * 32)


def test_pointwise_and_depthwise_convolutions() -> None:
    assert LayerWork.of(*conv(32, 24, 1, 16)).lags == 1
    deep = LayerWork.of(*conv(24, 24, 3, 16, groups=24))
    assert deep.moments(PRODUCTS, 10, 1, False) == 0
    half = deep.smaller(0.25)
    assert (half.groups, half.columns) == (12, 9)


def test_a_matrix_product_counts_its_positions() -> None:
    geometry = MatmulGeometry(-1, -1, 1)
    work = LayerWork.of(layer(geometry, (1, 8, 32)), (1, 10, 32))
    assert work.positions == 10
    assert work.moments(PRODUCTS, 6, 1, False) == pytest.approx(6 * 10 * 32**2 / 2)
    assert work.posed(FACTORS, True) > work.posed(FACTORS, False) >= 32**3 // 6
    small = work.smaller(0.25)
    assert (small.rows, small.columns) == (4, 16)


def test_images_larger_than_needed_count_as_the_samples_that_are_taken() -> None:
    work = LayerWork.of(*conv(32, 3, 3, 64))
    some, more = (work.moments(PRODUCTS, samples, 1, False) for samples in (256, 1024))
    assert more < 4 * some


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_refit_costs_the_smaller_side(share: float) -> None:
    work = LayerWork.of(*conv(32, 24, 3, 16))
    assert 0 < work.without(FACTORS, share) < work.posed(FACTORS, True)
