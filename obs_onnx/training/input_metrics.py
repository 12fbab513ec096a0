"""Second moments of layer inputs as the metric of training: a step counts by what it does to the outputs.

The Hessian of the layer-wise error (Dong et al. 2017, eq. 4) of a layer with inputs x is ``H = mean(x x^T)``;
``|W|^2 = sum_o w_o H w_o^T`` is the mean square of what the layer puts out. Training by
:class:`obs_onnx.passes.autodiff.optimizers.FOOF` divides by it. It is measured once, before the first step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.calibration.second_moments import Moments
from obs_onnx.calibration.sequential_moments import SequentialMoments
from obs_onnx.data.sources import Source
from obs_onnx.passes.autodiff.optimizers import Metric
from obs_onnx.passes.layers.find_layers import find_layers
from obs_onnx.passes.layers.layer import Layer
from obs_onnx.passes.layers.stages import plan_stages
from obs_onnx.runtimes.base import Runtime
from obs_onnx.solvers.blas_threads import threads_for

__all__ = ["measure_metrics"]

Arrays = Mapping[str, NDArray[Any]]

_SAMPLES = 1024
_BUDGET = 1 << 30  # bytes of activations
_LARGEST = 1 << 30  # bytes of a layer's moments
_DAMPING = 1e-2  # of the mean second moment
_COLUMNS = 1024  # whose correlations are kept; a wider layer is divided


def measure_metrics(runtime: Runtime, model: ir.Model, data: Source, start: Arrays) -> dict[str, Metric]:
    """The metric of every weight in ``start``.

    Weights of layers have the moments of their inputs, on at most 1,024 samples; biases of layers are
    weights of an input that is always one, and as large as their layer; all others, and layers with more
    than 11,000 inputs, stand for themselves.

    Args:
        runtime: where the model runs.
        model: canonical or plain.
        data: feeds.
        start: weight -> its value.

    Raises:
        ModelError: the model cannot be run.
    """
    layers = [layer for layer in find_layers(model)[0] if layer.name in start and _fits(layer)]
    plan = plan_stages(model, layers)
    found = {
        name: Metric(_or_ones(float(np.linalg.norm(array)), array.size)) for name, array in start.items()
    }
    prefixes = SequentialMoments(runtime, model, plan, data.limit(_SAMPLES), _BUDGET, paired=False)
    for stage in plan.stages:
        observed = prefixes.observe(stage)
        for layer in stage.layers:
            with threads_for(layer.layout.goi[2]):
                found[layer.name] = _metric(layer, observed.pop(layer.name), start[layer.name])
            for use in layer.uses:
                if use.bias in found:
                    found[use.bias] = Metric(found[layer.name].norm)
    return found


def _fits(layer: Layer) -> bool:
    groups, _, columns = layer.layout.goi
    return 8 * groups * columns**2 <= _LARGEST


def _metric(layer: Layer, moments: Moments, weight: NDArray[Any]) -> Metric:
    w_GOI, scale = layer.layout.to_matrix(weight), layer.layout.scale
    inverses, square = [], 0.0
    for columns in _runs(layer.layout.goi[2]):
        h_GCC = moments.xx[:, columns, columns] / max(moments.count, 1)
        power_G = np.einsum("gcc->g", h_GCC) / h_GCC.shape[1]
        power_G = np.where(power_G > 0, power_G, power_G.mean() or 1.0)
        h_GCC = h_GCC + _DAMPING * power_G[:, None, None] * np.eye(h_GCC.shape[1])
        w_GOC = w_GOI[:, :, columns]
        square += float(np.einsum("goc,goc->", w_GOC @ h_GCC, w_GOC))
        inverses.append((np.linalg.inv(h_GCC) / scale**2).astype(weight.dtype))
    return Metric(_or_ones(square**0.5, w_GOI.shape[0] * w_GOI.shape[1]), tuple(inverses), layer.layout)


def _runs(columns: int) -> Sequence[slice]:
    """As few equal runs of columns as there may be."""
    bounds = np.linspace(0, columns, -(-columns // _COLUMNS) + 1).astype(int)
    return [slice(int(a), int(b)) for a, b in pairwise(bounds)]


def _or_ones(norm: float, size: int) -> float:
    """The norm, or where that is zero, of so many ones: what starts at zero has to move, too."""
    return norm if norm > 0 else size**0.5
