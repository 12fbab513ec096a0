"""Integers of 8 bits for weights and activations: rounded by error feedback, ranges by what errs least.

onnxruntime's own quantization says which weights and activations become integers, and in which form. The
layers among them are rounded to such grids (:mod:`.rounded_layers`), the activations observed on what comes
of it (:mod:`.activation_ranges`), and onnxruntime writes the model again with these numbers, once for each
method of ranges. The one of least error on held-out data is kept; onnxruntime's own is one of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.passes.layers.find_layers import find_layers
from obs_onnx.passes.layers.layer import Layer
from obs_onnx.quantization.activation_ranges import METHODS, observe, ranges
from obs_onnx.quantization.calibration import Calibration, Made
from obs_onnx.quantization.int8 import (
    Override,
    activation_names,
    check_quantized_zeros,
    quantize,
    range_override,
    weight_override,
    weight_scales,
)
from obs_onnx.quantization.rounded_layers import (
    LayerForm,
    RoundedModel,
    along,
    output_axis,
    round_layers,
)
from obs_onnx.solvers import Grid, GridKind

__all__ = ["quantize_static"]

_SAMPLES = 512  # that ranges are taken from
_OWN = "onnxruntime's own"


def quantize_static(model: ir.Model, given: Calibration, exclude: Sequence[str] = ()) -> Made:
    """The model in integers of 8 bits.

    Args:
        model: of float32, which :func:`obs_onnx.quantization.int8.check_quantizable` has passed.
        given: data and runtime.
        exclude: names of nodes that stay as they are.

    Raises:
        ModelError: onnxruntime cannot quantize it.
        VerificationError: a zero of a weight did not stay one.
    """
    runtime = given.runtime
    plain, notes = quantize(model, given.fit, runtime, exclude)
    scales = weight_scales(plain)
    layers = [layer for layer in find_layers(model)[0] if layer.name in scales]
    forms = [LayerForm(layer, _grid(layer, *scales[layer.name])) for layer in layers]
    rounded = round_layers(runtime, model, forms, given.fit, budget=given.budget, damping=given.damping)
    weights = {
        layer.name: weight_override(
            along(rounded.layers[layer.name].scale, scales[layer.name][1]), scales[layer.name][1]
        )
        for layer in layers
    }
    found = {_OWN: plain, **_ranged(rounded, activation_names(plain, model), weights, given, exclude)}
    errors = given.errors(model, found)
    best = min(errors, key=lambda name: errors[name])
    zeros = check_quantized_zeros(model, found[best])
    by = "nearest" if best == _OWN else "error feedback"
    said = ", ".join(f"{name} {error:.3g}" for name, error in errors.items())
    told = [
        f"int8: weights rounded by {by}, ranges of activations {best}, the one of least output error on "
        f"held-out data: {said}",
        *([f"{zeros} zeros of weights are zeros of the integers"] if zeros else []),
    ]
    return Made(found[best], (*notes, *told))


def _ranged(
    rounded: RoundedModel,
    names: list[str],
    weights: Mapping[str, Override],
    given: Calibration,
    exclude: Sequence[str],
) -> Mapping[str, ir.Model]:
    """The model written with the ranges of each method."""
    few = given.fit.limit(_SAMPLES)
    seen = observe(rounded.model, names, few, given.runtime)
    found = {}
    for method in METHODS:
        chosen = {name: range_override(*one) for name, one in ranges(rounded.model, seen, method).items()}
        found[method] = quantize(rounded.model, few, given.runtime, exclude, {**chosen, **weights})[0]
    return found


def _grid(layer: Layer, scale: NDArray[np.float32], axis: int | None) -> GridKind | Grid:
    """The grid of a weight with such scales; these stay where they are not those of outputs."""
    if axis is None:
        return GridKind(shared=True)
    if axis == output_axis(layer):
        return GridKind()
    shape = [-1 if k == axis else 1 for k in range(len(layer.layout.shape))]
    spread = layer.layout.to_matrix(np.broadcast_to(scale.reshape(shape), layer.layout.shape))
    return Grid(spread, np.zeros(spread.shape, np.int64), -127, 127, 1)
