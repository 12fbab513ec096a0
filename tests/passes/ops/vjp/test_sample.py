"""Derivatives of GridSample, and what it is written out as against onnxruntime's kernel."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from derivatives import check, operator
from nets import run_proto

from obs_onnx.passes.autodiff.gradient import Gradient
from obs_onnx.passes.canonical.canonicalize import canonicalize
from obs_onnx.passes.errors import GradientError

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
