"""Layers rounded one after another, judged by what the model gives."""

from __future__ import annotations

from collections.abc import Callable

import nets
import numpy as np
import onnx_ir as ir
import pytest

from obs_onnx.data.open_source import open_source
from obs_onnx.passes.canonical.canonicalize import canonicalize
from obs_onnx.passes.graph.set_weights import SetWeights
from obs_onnx.passes.layers.find_layers import find_layers
from obs_onnx.quantization.rounded_layers import (
    LayerForm,
    along,
    nearest_layers,
    output_axis,
    round_layers,
)
from obs_onnx.runtimes import open_runtime
from obs_onnx.solvers import GridKind

RUNTIME = open_runtime("onnxruntime", 1)
INT4 = GridKind(-7, 7)


def outputs(model: ir.Model, feed: dict[str, np.ndarray]) -> np.ndarray:
    return RUNTIME.session(ir.to_proto(model).SerializeToString()).run(feed)["y"]


@pytest.mark.parametrize(
    ("make", "shape"), [(nets.mlp, (12,)), (nets.residual, (3, 8, 8)), (nets.transformer, (6, 10))]
)
def test_feedback_through_the_layers_beats_nearest_rounding(
    make: Callable[[], object], shape: tuple[int, ...]
) -> None:
    model = canonicalize(ir.from_proto(make()))
    feed = {"x": nets.data(0, 96, *shape)}
    source = open_source(feed, RUNTIME.session(ir.to_proto(model).SerializeToString()).inputs)
    forms = [LayerForm(layer, INT4) for layer in find_layers(model)[0]]
    found = round_layers(RUNTIME, model, forms, source, budget=1 << 28, damping=1e-2)
    nearest = nearest_layers(model, forms)
    fresh = {"x": nets.data(1, 64, *shape)}
    reference = outputs(model, fresh)
    errors = [np.linalg.norm(outputs(one.model, fresh) - reference) for one in (found, nearest)]
    assert errors[0] < 0.7 * errors[1]
    for name, one in found.layers.items():
        stored = found.model.graph.initializers[name].const_value.numpy()
        np.testing.assert_array_equal(stored, one.q.astype(np.float32) * one.scale)
        assert np.abs(one.q).max() <= 7


def test_zeros_stay() -> None:
    model = canonicalize(ir.from_proto(nets.mlp()))
    weight = model.graph.initializers["fc2.weight"].const_value.numpy().copy()
    weight[np.random.default_rng(0).random(weight.shape) < 0.7] = 0
    SetWeights({"fc2.weight": weight})(model)
    source = open_source(
        {"x": nets.data(0, 64, 12)}, RUNTIME.session(ir.to_proto(model).SerializeToString()).inputs
    )
    forms = [LayerForm(layer, GridKind(0, 15, None, 8)) for layer in find_layers(model)[0]]
    for found in (
        round_layers(RUNTIME, model, forms, source, budget=1 << 28, damping=1e-2),
        nearest_layers(model, forms),
    ):
        assert (found.model.graph.initializers["fc2.weight"].const_value.numpy()[weight == 0] == 0).all()


def test_the_axis_of_outputs(make_model: Callable[..., ir.Model]) -> None:
    model = make_model(
        "g (float[N,4,8,8] x) => (float[N,2,8,8] y) {"
        " a = Conv <group = 2, kernel_shape = [1, 1]> (x, c)"
        " b = ConvTranspose <group = 2, kernel_shape = [1, 1]> (a, t) y = MatMul(b, m) }",
        {
            "c": np.ones((6, 2, 1, 1), np.float32),
            "t": np.ones((6, 1, 1, 1), np.float32),
            "m": np.ones((8, 8), np.float32),
        },
    )
    axes = {layer.name: output_axis(layer) for layer in find_layers(model)[0]}
    assert axes == {"c": 0, "t": None, "m": 1}


def test_numbers_along_an_axis() -> None:
    array = np.broadcast_to(np.arange(3, dtype=np.float32)[:, None], (2, 3, 4))
    np.testing.assert_array_equal(along(array, 1), [0, 1, 2])
    assert along(array[:, :1], None).shape == ()
