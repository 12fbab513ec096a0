"""One layer as arrays: what the solvers need of it, and how their answer is stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.calibration.second_moments import Moments
from obs_onnx.passes.errors import DataError, boundary
from obs_onnx.passes.layers.layer import Layer
from obs_onnx.solvers import Problem, prepare
from obs_onnx.solvers.blas_threads import threads_for

__all__ = ["LayerProblem", "LayerWeights", "Tensors", "bias_of", "stored"]


Tensors = dict[str, NDArray[np.floating]]


def bias_of(layer: Layer) -> str | None:
    """The initializer of the layer's bias, if it can move with the weights."""
    use = layer.uses[0]
    return use.bias if len(layer.uses) == 1 and use.bias_scale != 0 else None


def stored(model: ir.Model, name: str) -> NDArray[Any]:
    """Contents of an initializer."""
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None, name
    return tensor.numpy()


@dataclass(frozen=True)
class LayerWeights:
    """A layer and what a model holds of it.

    Attributes:
        layer: which one.
        weight: as it is stored.
        bias: likewise, if it can move with the weights.
    """

    layer: Layer
    weight: NDArray[Any]
    bias: NDArray[Any] | None

    @classmethod
    def of(cls, model: ir.Model, layer: Layer) -> LayerWeights:
        """Those of a layer of ``model``."""
        bias = bias_of(layer)
        return cls(layer, stored(model, layer.name), stored(model, bias) if bias else None)


class LayerProblem:
    """The least-squares problem of a layer and its moments.

    Attributes:
        layer: which one.
        w_GOI: its weight.
        problem: damped, about the mean where the layer has a bias of its own.
    """

    def __init__(self, held: LayerWeights, moments: Moments, damping: float) -> None:
        self.layer = layer = held.layer
        self._bias = bias_of(layer)
        self.w_GOI = layer.layout.to_matrix(held.weight)
        self._stored_bias = held.bias
        found = moments.centred() if self._bias else moments.raw()
        with (
            threads_for(layer.layout.goi[2]),
            boundary(f"layer {layer.name!r} cannot be refitted", DataError),
        ):
            self.problem: Problem = prepare(found.h, self.w_GOI, found.c, found.energy, damping)
        self._means = found.means

    def tensors(self, w_GOI: NDArray[np.floating]) -> Tensors:
        """Initializers (weight, and bias where there is one) that realise a compensated weight."""
        layer = self.layer
        tensors: Tensors = {layer.name: layer.layout.to_tensor(w_GOI)}
        if self._bias and self._stored_bias is not None:
            scale = layer.uses[0].bias_scale
            dense_GO = self._stored_bias.astype(np.float64).reshape(self.w_GOI.shape[:2]) * scale
            b_GO = self._means.bias(w_GOI, self.w_GOI, dense_GO)
            tensors[self._bias] = (b_GO / scale).reshape(self._stored_bias.shape)
        return tensors
