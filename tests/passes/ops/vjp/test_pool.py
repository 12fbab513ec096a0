"""Derivatives of pooling and resampling against finite differences."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from derivatives import check, operator
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from nets import run_proto

from obs_onnx.passes.autodiff.gradient import Gradient
from obs_onnx.passes.canonical.canonicalize import canonicalize
from obs_onnx.passes.errors import GradientError

rng = np.random.default_rng(7)


def normal(*shape):
    return rng.standard_normal(shape)


def spread(*shape):
    """No two elements closer than a finite difference reaches."""
    return rng.permutation(np.prod(shape)).reshape(shape) / 10.0


@st.composite
def windows(draw, dilated):
    """Shape and attributes of a pooling in which every window holds an element."""
    n = draw(st.integers(1, 3))
    lengths = [draw(st.integers(3, 6 if n < 3 else 4)) for _ in range(n)]
    kernel = [draw(st.integers(1, 3)) for _ in range(n)]
    dilations = [draw(st.integers(1, 2)) if dilated else 1 for _ in range(n)]
    strides = [draw(st.integers(1, 3)) for _ in range(n)]
    pads = [draw(st.integers(0, (k - 1) // 2)) for k in kernel * 2]
    ceil = draw(st.booleans())
    for i in range(n):
        room = lengths[i] + pads[i] + pads[n + i] - (kernel[i] - 1) * dilations[i] - 1
        assume(room - pads[i] - pads[n + i] >= 0)
        assume(not ceil or -(-room // strides[i]) * strides[i] < lengths[i] + pads[i])
    attributes = {"kernel_shape": kernel, "strides": strides, "pads": pads, "ceil_mode": int(ceil)}
    if dilated:
        attributes["dilations"] = dilations
    return (1, 2, *lengths), attributes


@settings(max_examples=25, deadline=None, derandomize=True)
@given(windows(dilated=True), st.sampled_from([13, 18]), st.booleans())
def test_max(case, opset, symbolic):
    shape, attributes = case
    check("MaxPool", [spread(*shape)], opset=opset, symbolic=symbolic, **attributes)


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_pads_by_name(auto_pad):
    attributes = {"kernel_shape": [3, 2], "strides": [2, 1], "auto_pad": auto_pad}
    check("MaxPool", [spread(1, 2, 6, 5)], **attributes)
    check("AveragePool", [normal(1, 2, 6, 5)], **attributes)


def test_first_of_equal_maxima_gets_the_gradient():
    import onnx_ir as ir
    from derivatives import operator
    from float64 import evaluator

    from obs_onnx.passes.autodiff.gradient import Gradient
    from obs_onnx.passes.canonical.canonicalize import canonicalize

    proto = operator(
        "MaxPool",
        [np.zeros((1, 1, 4))],
        (0,),
        weights={"y0": np.ones((1, 1, 2))},
        kernel_shape=[2],
        strides=[2],
    )
    model = canonicalize(ir.from_proto(proto))
    Gradient("loss", ["x0"]).call(model)
    x = np.array([[[3.0, 3.0, 1.0, 2.0]]])
    (_, grad) = evaluator(ir.to_proto(model)).run(None, {"x0": x})
    np.testing.assert_array_equal(grad, [[[6.0, 0.0, 0.0, 4.0]]])


@settings(max_examples=20, deadline=None, derandomize=True)
@given(windows(dilated=False), st.booleans(), st.booleans())
def test_average(case, padded, symbolic):
    shape, attributes = case
    check("AveragePool", [normal(*shape)], count_include_pad=int(padded), symbolic=symbolic, **attributes)


def test_average_of_dilated_windows():
    check("AveragePool", [normal(1, 2, 7)], opset=19, kernel_shape=[2], dilations=[3], strides=[2])


@pytest.mark.parametrize("p", [1, 2, 3])
def test_lp(p):
    check("LpPool", [normal(1, 2, 5, 4)], p=p, kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 1])


@pytest.mark.parametrize("symbolic", [False, True])
@pytest.mark.parametrize("op_type", ["GlobalMaxPool", "GlobalAveragePool", "GlobalLpPool"])
def test_global(op_type, symbolic):
    check(op_type, [spread(2, 3, 4, 2) + 0.05], symbolic=symbolic)


MODES = ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"]


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    st.sampled_from(["nearest", "linear", "cubic"]),
    st.sampled_from(MODES),
    st.lists(st.sampled_from([0.5, 1.0, 1.5, 2.0]), min_size=2, max_size=2),
    st.booleans(),
)
def test_resize_by_scales(mode, places, scales, symbolic):
    scales = np.array([1, 1, *scales], np.float32)
    attributes = {"mode": mode, "coordinate_transformation_mode": places}
    check("Resize", [normal(1, 2, 4, 3), None, scales], symbolic=symbolic, **attributes)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(st.sampled_from(["nearest", "linear"]), st.sampled_from(MODES), st.integers(2, 7), st.integers(2, 7))
def test_resize_by_sizes(mode, places, height, width):
    sizes = np.array([height, width])
    attributes = {"mode": mode, "coordinate_transformation_mode": places, "axes": [2, 3]}
    check("Resize", [normal(1, 2, 4, 3), None, None, sizes], **attributes)


def test_columns():
    operands = [normal(1, 12, 8), np.array([5, 5]), np.array([3, 2])]
    check("Col2Im", operands, strides=[2, 1], pads=[1, 0, 0, 0])


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_resize_that_keeps_the_length_and_not_the_places(mode):
    scales = np.array([1, 1, 1.2, 1.1], np.float32)
    check("Resize", [normal(1, 2, 4, 5), None, scales], mode=mode)


rng = np.random.default_rng(5)
IMAGE = rng.standard_normal((2, 3, 4, 5))
GRID = rng.uniform(-1.6, 1.6, (2, 3, 2, 2))


@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("align", [0, 1])
def test_gradient_on_onnxruntime(padding, align):
    """Central differences of onnxruntime's own kernel, in single precision."""
    for mode, wrt in (("bilinear", (0, 1)), ("nearest", (0,))):
        proto = operator(
            "GridSample", [IMAGE, GRID], wrt, opset=16, kind=np.float32, mode=mode, padding_mode=padding,
            align_corners=align, weights={"y0": rng.uniform(0.5, 1.5, (2, 3, 3, 2))},
        )  # fmt: skip
        model = canonicalize(ir.from_proto(proto))
        Gradient("loss", [f"x{i}" for i in wrt]).call(model)
        feeds = {f"x{i}": (IMAGE, GRID)[i].astype(np.float32) for i in wrt}
        found = run_proto(ir.to_proto(model), feeds)
        for i in wrt:
            v = rng.standard_normal(feeds[f"x{i}"].shape).astype(np.float32)
            moved = [
                run_proto(proto, {**feeds, f"x{i}": feeds[f"x{i}"] + s * v})["loss"] for s in (1e-3, -1e-3)
            ]
            difference = (float(moved[0]) - float(moved[1])) / 2e-3
            assert float(np.vdot(found[f"x{i}.grad"], v)) == pytest.approx(difference, rel=1e-2, abs=5e-2)


@pytest.mark.parametrize("symbolic", [False, True])
def test_second_derivative(symbolic):
    check("GridSample", [IMAGE, GRID], (0, 1), opset=20, mode="linear", symbolic=symbolic)


def test_volumes():
    image, grid = rng.standard_normal((1, 2, 3, 4, 2)), rng.uniform(-0.9, 0.9, (1, 2, 1, 2, 3))
    check("GridSample", [image, grid], (0, 1), opset=20, mode="linear", align_corners=1)


def test_cubic_is_an_error():
    proto = operator(
        "GridSample", [IMAGE, GRID], (0,), opset=16, mode="bicubic", weights={"y0": np.ones((2, 3, 3, 2))}
    )
    with pytest.raises(GradientError, match="bicubic"):
        Gradient("loss", ["x0"]).call(canonicalize(ir.from_proto(proto)))
