"""Integers of 8 bits for weights and activations, by what errs least."""

from __future__ import annotations

from collections.abc import Callable

import nets
import numpy as np
import onnx_ir as ir
import pytest

from obs_onnx.data.open_source import open_source
from obs_onnx.io.onnx_file import serialize
from obs_onnx.passes.canonical.canonicalize import canonicalize
from obs_onnx.passes.layers.find_layers import find_layers
from obs_onnx.quantization import static
from obs_onnx.quantization.calibration import Calibration
from obs_onnx.quantization.int8 import quantize, weight_scales
from obs_onnx.quantization.rounded_layers import LayerForm, round_layers
from obs_onnx.quantization.static import quantize_static
from obs_onnx.runtimes import open_runtime
from obs_onnx.solvers import Grid, GridKind

RUNTIME = open_runtime("onnxruntime", 1)


def given(model: ir.Model, samples: dict[str, np.ndarray]) -> Calibration:
    source = open_source(samples, RUNTIME.session(serialize(model)).inputs, batch_size=32)
    return Calibration(RUNTIME, *source.split(0.125, 0))


@pytest.mark.parametrize(("make", "shape"), [(nets.residual, (3, 8, 8)), (nets.transformer, (6, 10))])
def test_no_worse_than_onnxruntime_on_held_out_data(
    make: Callable[[], object], shape: tuple[int, ...]
) -> None:
    model = canonicalize(ir.from_proto(make()))
    calibration = given(model, {"x": nets.data(0, 96, *shape)})
    made = quantize_static(model, calibration)
    own, _ = quantize(model, calibration.fit, RUNTIME)
    errors = calibration.errors(model, {"own": own, "ours": made.model})
    assert errors["ours"] < errors["own"]
    assert "weights rounded by error feedback" in made.notes[-1]


def test_the_integers_that_were_found_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    model = canonicalize(ir.from_proto(nets.mlp()))
    calibration = given(model, {"x": nets.data(0, 96, 12)})
    seen = []

    def kept(*arguments: object, **options: object) -> object:
        seen.append(round_layers(*arguments, **options))
        return seen[-1]

    monkeypatch.setattr(static, "round_layers", kept)
    made = quantize_static(model, calibration)
    scales = weight_scales(made.model)
    assert set(seen[0].layers) == set(scales) == {"fc1.weight", "fc2.weight", "fc3.weight"}
    for name, one in seen[0].layers.items():
        stored = made.model.graph.initializers[f"{name}_quantized"].const_value.numpy()
        np.testing.assert_array_equal(stored, one.q)
        scale, axis = scales[name]
        np.testing.assert_array_equal(scale, np.moveaxis(one.scale, axis, 0).reshape(len(scale), -1)[:, 0])


def test_nothing_but_the_input_becomes_integers(make_model: Callable[..., ir.Model]) -> None:
    model = make_model(
        "g (float[N,12] x) => (float[N,4] y) { y = MatMul(x, w) }",
        {"w": np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)},
    )
    calibration = given(model, {"x": nets.data(0, 400, 12)})
    assert calibration.errors(model, {"made": quantize_static(model, calibration).model})["made"] < 0.05


def test_scales_along_inputs_stay(make_model: Callable[..., ir.Model]) -> None:
    """onnxruntime puts the scales of a weight of three axes along its inputs."""
    model = make_model(
        "g (float[2,5,6] x) => (float[2,5,4] y) { y = MatMul(x, w) }",
        {"w": np.random.default_rng(0).normal(size=(2, 6, 4)).astype(np.float32)},
    )
    (layer,) = find_layers(model)[0]
    scale = np.linspace(0.01, 0.02, 6, dtype=np.float32)
    grid = static._grid(layer, scale, 1)
    assert isinstance(grid, Grid)
    np.testing.assert_array_equal(grid.scale, np.broadcast_to(scale, (2, 4, 6)))
    assert static._grid(layer, scale[:1], None) == GridKind(shared=True)
    feeds = [{"x": nets.data(seed, 2, 5, 6)} for seed in range(4)]
    found = round_layers(RUNTIME, model, [LayerForm(layer, grid)], feeds, budget=1 << 28, damping=1e-2)
    np.testing.assert_allclose(found.layers["w"].scale[0, :, 0], scale, rtol=1e-6)
