import itertools
import math

import ml_dtypes
import numpy as np
import onnxruntime
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from obs_onnx.calibration.second_moments import Moments
from obs_onnx.calibration.unfold import axes_of, outputs, unfold
from obs_onnx.passes.errors import DataError
from obs_onnx.passes.traits.linear import ConvGeometry, MatmulGeometry

PROPERTY = settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


def conv_output_shape(geometry: ConvGeometry, spatial: tuple[int, ...]) -> tuple[int, ...]:
    """Spatial shape of the output for an input of spatial shape ``spatial``."""
    return tuple(axis.out for axis in axes_of(geometry, spatial))


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[ConvGeometry, tuple[int, ...], int, int]:
    """Geometry, spatial shape, input and output channels per group."""
    rank = draw(st.sampled_from([1, 2, 2, 2, 3]))
    transposed = draw(st.booleans())

    def per_axis(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(rank))

    kernel, dilations, spatial = per_axis(1, 3), per_axis(1, 2), per_axis(2, 6)
    strides = per_axis(1, 3) if draw(st.booleans()) else (1,) * rank
    auto_pad = draw(st.sampled_from(["NOTSET", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]))
    pads = per_axis(0, 2) + per_axis(0, 2) if auto_pad == "NOTSET" else (0,) * (2 * rank)
    extra, wanted = (), None
    if transposed:
        extra = tuple(draw(st.integers(0, max(s, d) - 1)) for s, d in zip(strides, dilations, strict=True))
        if draw(st.booleans()):
            full = [
                (n - 1) * s + e + (k - 1) * d + 1
                for n, s, e, k, d in zip(spatial, strides, extra, kernel, dilations, strict=True)
            ]
            wanted = tuple(max(1, size - draw(st.integers(0, 2))) for size in full)
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    geometry = ConvGeometry(kernel, strides, dilations, pads, auto_pad, groups, transposed, extra, wanted)
    return geometry, spatial, draw(st.sampled_from([1, 2, 3, 16])), draw(st.integers(1, 3))


def runtime(geometry: ConvGeometry, x: np.ndarray, w: np.ndarray) -> np.ndarray | None:
    """The convolution by onnxruntime, or None where it refuses the attributes."""
    attributes = {
        "kernel_shape": geometry.kernel,
        "strides": geometry.strides,
        "dilations": geometry.dilations,
        "group": geometry.groups,
        "auto_pad": geometry.auto_pad,
    }
    if geometry.auto_pad == "NOTSET" and geometry.output_shape is None:
        attributes["pads"] = geometry.pads
    if geometry.transposed:
        attributes["output_padding"] = geometry.output_padding
        if geometry.output_shape is not None:
            attributes["output_shape"] = geometry.output_shape
    op = "ConvTranspose" if geometry.transposed else "Conv"
    graph = helper.make_graph(
        [helper.make_node(op, ["x", "w"], ["y"], **attributes)],
        "one",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, w.shape),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        return np.asarray(session.run(None, {"x": x, "w": w})[0])
    except Exception:
        return None


def naive_unfold(geometry: ConvGeometry, x: np.ndarray, out: tuple[int, ...]) -> np.ndarray:
    """One output position, kernel offset and channel at a time; plain convolutions with explicit pads."""
    samples, groups = x.shape[0], geometry.groups
    channels = x.shape[1] // groups
    kernel = list(itertools.product(*map(range, geometry.kernel)))
    result = np.zeros((groups, samples, math.prod(out), len(kernel), channels))
    for position, o in enumerate(itertools.product(*map(range, out))):
        for k, offset in enumerate(kernel):
            at = [
                i * s + j * d - p
                for i, s, j, d, p in zip(
                    o, geometry.strides, offset, geometry.dilations, geometry.pads, strict=False
                )
            ]
            if all(0 <= a < size for a, size in zip(at, x.shape[2:], strict=True)):
                values = x[(slice(None), slice(None), *at)].reshape(samples, groups, channels)
                result[:, :, position, k] = values.swapaxes(0, 1)
    return result.reshape(groups, samples * math.prod(out), -1)


def assert_moments(moments: Moments, x_GNI: np.ndarray, t_GNO: np.ndarray | None, tolerance: float) -> None:
    pairs = [
        (moments.sum_x, x_GNI.sum(1)),
        (moments.xx, np.einsum("gni,gnj->gij", x_GNI, x_GNI)),
    ]
    if t_GNO is not None:
        pairs += [
            (moments.sum_t, t_GNO.sum(1)),
            (moments.xt, np.einsum("gni,gno->gio", x_GNI, t_GNO)),
            (moments.tt, (t_GNO**2).sum(1)),
        ]
    assert moments.count == x_GNI.shape[1]
    for found, expected in pairs:
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * max(1.0, np.abs(expected).max()))


@PROPERTY
@given(convolutions(), st.sampled_from([0.0, 30.0]), st.integers(0, 2**16))
def test_convolution(case: tuple[ConvGeometry, tuple[int, ...], int, int], offset: float, seed: int) -> None:
    geometry, spatial, channels, rows = case
    groups, kernel = geometry.groups, geometry.kernel
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((2, groups * channels, *spatial)) + offset).astype(np.float32)
    if geometry.transposed:
        w = rng.standard_normal((groups * channels, rows, *kernel)).astype(np.float32)
        w_GOI = np.moveaxis(w.reshape(groups, channels, rows, -1), 1, -1)
    else:
        w = rng.standard_normal((groups * rows, channels, *kernel)).astype(np.float32)
        w_GOI = w.reshape(groups, rows, channels, -1).swapaxes(2, 3)
    w_GOI = w_GOI.reshape(groups, rows, -1).astype(np.float64)
    y = runtime(geometry, x, w)
    assume(y is not None)
    assert y is not None
    assert conv_output_shape(geometry, spatial) == y.shape[2:]

    goi = (groups, rows, channels * math.prod(kernel))
    x_GNI = unfold(x.astype(np.float64), geometry)
    y_GNO = outputs(y, geometry, goi)
    expected = x_GNI @ w_GOI.swapaxes(1, 2)
    assert expected.shape == y_GNO.shape
    np.testing.assert_allclose(y_GNO, expected, rtol=0, atol=1e-5 * max(1.0, np.abs(expected).max()))
    if not geometry.transposed and geometry.auto_pad == "NOTSET":
        np.testing.assert_array_equal(x_GNI, naive_unfold(geometry, x, y.shape[2:]))

    moments = Moments(goi, targeted=True)
    for sample in range(2):
        part = slice(sample, sample + 1)
        moments.update(x[part].astype(np.float64), geometry, y[part].astype(np.float64))
    assert_moments(moments, x_GNI, y_GNO.astype(np.float64), 1e-11)
    single = Moments(goi)
    single.update(x, geometry)
    assert_moments(single, x_GNI, None, 1e-6 * max(1.0, offset**2 * x_GNI.shape[1]))


@pytest.mark.parametrize("channels", [1, 4, 20])
@pytest.mark.parametrize("stride", [1, 2])
def test_slices_of_a_batch_add_up(channels: int, stride: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("obs_onnx.calibration.second_moments._SLICE_BYTES", 4096)
    geometry = ConvGeometry((3, 3), (stride, stride), (1, 1), (1, 1, 1, 1))
    rng = np.random.default_rng(0)
    x = rng.standard_normal((7, channels, 9, 8))
    t = rng.standard_normal((7, 5, *conv_output_shape(geometry, (9, 8))))
    moments = Moments((1, 5, 9 * channels), targeted=True)
    moments.update(x, geometry, t)
    assert_moments(moments, unfold(x, geometry), outputs(t, geometry, moments.goi), 1e-12)


def test_changing_image_sizes() -> None:
    geometry = ConvGeometry((3,), (1,), (2,), (2, 1))
    rng = np.random.default_rng(1)
    images = [rng.standard_normal((3, 16, size)) for size in (9, 12, 9)]
    moments = Moments((1, 2, 48))
    for image in images:
        moments.update(image, geometry)
    assert_moments(
        moments, np.concatenate([unfold(image, geometry) for image in images], axis=1), None, 1e-12
    )


MATMULS = [
    ((5, 4), (5, 3), MatmulGeometry(), 4, 3),
    ((4, 5), (5, 3), MatmulGeometry(-2, -1), 4, 3),
    ((2, 6, 5, 4), (2, 6, 5, 3), MatmulGeometry(), 4, 3),
    ((2, 6, 4, 5), (2, 6, 3, 5), MatmulGeometry(-2, -2), 4, 3),
    ((2, 6, 5, 4), (2, 6, 5, 3), MatmulGeometry(-1, -1, 6), 4, 3),
    ((2, 6, 4, 5), (2, 6, 3, 5), MatmulGeometry(-2, -2, 6), 4, 3),
    ((2, 6, 5, 4), (2, 6, 5, 3), MatmulGeometry(-1, -1, 12), 4, 3),
    ((4,), (3,), MatmulGeometry(), 4, 3),
    ((2, 5, 4), (2, 5), MatmulGeometry(), 4, 1),
    ((2, 5, 4), (2, 5, 1), MatmulGeometry(), 4, 1),
]


@pytest.mark.parametrize(("x_shape", "y_shape", "geometry", "columns", "rows"), MATMULS)
@pytest.mark.parametrize("offset", [0.0, 50.0])
def test_matmul(
    x_shape: tuple[int, ...],
    y_shape: tuple[int, ...],
    geometry: MatmulGeometry,
    columns: int,
    rows: int,
    offset: float,
) -> None:
    rng = np.random.default_rng(2)
    x = rng.standard_normal(x_shape) + offset
    groups = geometry.groups
    w_GOI = rng.standard_normal((groups, rows, columns))
    left = x[None] if x.ndim == 1 else x
    left = left.swapaxes(-1, -2) if geometry.input_axis == -2 else left
    stacked = left.reshape(-1, groups, *left.shape[-2:]) @ w_GOI.swapaxes(1, 2)
    y = stacked.swapaxes(-1, -2) if geometry.output_axis == -2 else stacked
    y = y.reshape(y_shape)

    x_GNI, y_GNO = unfold(x, geometry), outputs(y, geometry, (groups, rows, columns))
    np.testing.assert_allclose(x_GNI @ w_GOI.swapaxes(1, 2), y_GNO, rtol=1e-12)
    moments = Moments((groups, rows, columns), targeted=True)
    moments.update(x, geometry, y)
    assert_moments(moments, x_GNI, y_GNO, 1e-12)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32])
def test_narrow_types(dtype: type) -> None:
    x = np.random.default_rng(3).standard_normal((4, 3, 6, 6)).astype(dtype)
    geometry = ConvGeometry((3, 3), (1, 1), (1, 1), (1, 1, 1, 1))
    moments = Moments((1, 2, 27))
    moments.update(x, geometry)
    assert unfold(x, geometry).dtype == np.float32
    assert_moments(moments, unfold(x.astype(np.float64), geometry), None, 1e-6)


@pytest.mark.parametrize("pads", [(0, 0, 0, 0), (1, 1, 1, 1)])
def test_centring_survives_large_means(pads: tuple[int, ...]) -> None:
    rng = np.random.default_rng(4)
    x = (1000 + rng.standard_normal((20, 16, 8, 8))).astype(np.float32)
    geometry = ConvGeometry((3, 3), (1, 1), (1, 1), pads)
    x_NI = unfold(x.astype(np.float64), geometry)[0]
    t = (x_NI[:, :2] + 500).reshape(20, -1, 2).swapaxes(1, 2)
    t = t.reshape(20, 2, *conv_output_shape(geometry, (8, 8))).astype(np.float32)
    moments = Moments((1, 2, 144), targeted=True)
    moments.update(x, geometry, t)
    centred, about = moments.centred(), x_NI - x_NI.mean(0)
    t_NO = outputs(t.astype(np.float64), geometry, moments.goi)[0]
    t_NO -= t_NO.mean(0)
    assert centred.c is not None
    assert centred.energy is not None
    scale = np.abs(about.T @ about).max()
    np.testing.assert_allclose(centred.h[0], about.T @ about, rtol=0, atol=1e-5 * scale)
    np.testing.assert_allclose(centred.c[0], about.T @ t_NO, rtol=0, atol=1e-5 * scale)
    np.testing.assert_allclose(centred.energy[0], (t_NO**2).sum(0), rtol=1e-5)


def test_matmul_centring_survives_large_means() -> None:
    x = (3000 + np.random.default_rng(5).standard_normal((400, 6))).astype(np.float32)
    moments = Moments((1, 1, 6))
    moments.update(x, MatmulGeometry())
    about = x.astype(np.float64) - x.astype(np.float64).mean(0)
    np.testing.assert_allclose(moments.centred().h[0], about.T @ about, rtol=0, atol=1e-3)


def test_bias_completes_the_regression() -> None:
    rng = np.random.default_rng(6)
    x, w, b = rng.standard_normal((100, 4)) + 2, rng.standard_normal((3, 4)), rng.standard_normal(3)
    t = x @ w.T + b + 0.1 * rng.standard_normal((100, 3))
    moments = Moments((1, 3, 4), targeted=True)
    moments.update(x, MatmulGeometry(), t)
    problem = moments.centred()
    assert problem.c is not None
    best = np.linalg.lstsq(np.hstack([x, np.ones((100, 1))]), t, rcond=None)[0].T
    found = np.linalg.solve(problem.h[0], problem.c[0]).T[None]
    np.testing.assert_allclose(found[0], best[:, :4], rtol=1e-9)
    np.testing.assert_allclose(problem.bias(found, w[None], b[None])[0], best[:, 4], rtol=1e-9)

    plain = Moments((1, 3, 4))
    plain.update(x, MatmulGeometry())
    kept = plain.centred().bias(0 * w[None], w[None], b[None])[0]
    np.testing.assert_allclose(kept, (x @ w.T + b).mean(0), rtol=1e-12)
    assert plain.raw().c is None
    np.testing.assert_array_equal(moments.raw().bias(found, w[None], b[None]), 0)


def test_moments_of_two_uses_add_up() -> None:
    rng = np.random.default_rng(7)
    geometry = ConvGeometry((3,), (1,), (1,), (1, 1))
    first, second = rng.standard_normal((2, 16, 5)), rng.standard_normal((3, 16, 7))
    one, two, both = (Moments((1, 2, 48)) for _ in range(3))
    one.update(first, geometry)
    two.update(second, geometry)
    both.update(first, geometry)
    both.update(second, geometry)
    one.merge(two)
    np.testing.assert_allclose(one.xx, both.xx, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(one.sum_x, both.sum_x, rtol=1e-12, atol=1e-12)
    assert one.count == both.count == 31


def test_errors() -> None:
    geometry = ConvGeometry((3, 3), (1, 1), (1, 1), (0, 0, 0, 0))
    x = np.zeros((1, 2, 5, 5))
    moments = Moments((1, 3, 18))
    with pytest.raises(DataError, match="target"):
        moments.update(x, geometry, x)
    with pytest.raises(DataError, match="does not fit"):
        moments.update(x[:, :1], geometry)
    with pytest.raises(DataError, match="smaller"):
        moments.update(x[..., :2], geometry)
    with pytest.raises(DataError, match="spatial axes"):
        unfold(x[0], geometry)
    with pytest.raises(DataError, match="channels"):
        outputs(x, geometry, (1, 3, 18))
    with pytest.raises(DataError, match="leading"):
        unfold(np.zeros((5, 2, 4)), MatmulGeometry(groups=3))
    with pytest.raises(DataError, match="add up"):
        moments.merge(Moments((1, 3, 9)))
    with pytest.raises(DataError, match="does not fit"):
        Moments((1, 3, 4), targeted=True).update(np.zeros((5, 4)), MatmulGeometry(), np.zeros((5, 2)))


def test_inputs_that_vary_by_rounding_alone_are_constant() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 200, 3))
    x[..., 1] = 0.3 + 1e-7 * rng.standard_normal(200)
    x[..., 2] = 0.3 + 1e-3 * rng.standard_normal(200)
    moments = Moments((1, 2, 3), targeted=True)
    moments.update(x, MatmulGeometry(-1), rng.standard_normal((200, 2)))
    found = moments.centred()
    assert (found.h[0, 1] == 0).all()
    assert (found.h[0, :, 1] == 0).all()
    assert (found.c[0, 1] == 0).all()
    assert (found.h[0][np.ix_([0, 2], [0, 2])] != 0).all()
    assert (found.c[0, [0, 2]] != 0).all()
    assert found.mean_x[0, 1] == pytest.approx(0.3)
