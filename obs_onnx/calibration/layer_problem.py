"""One layer as arrays: what the solvers need of it, and how their answer is stored."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from obs_onnx.calibration.layer_weights import LayerWeights, Scattered, Tensors, bias_of
from obs_onnx.calibration.second_moments import Moments
from obs_onnx.passes.errors import DataError, boundary
from obs_onnx.solvers import Problem, prepare
from obs_onnx.solvers.blas_threads import threads_for
from obs_onnx.solvers.rounding import round_weights

__all__ = ["LayerProblem"]


class LayerProblem:
    """The least-squares problem of a layer and its moments.

    Attributes:
        layer: which one.
        w_GOI: its weight.
        problem: damped, about the mean where the layer has a bias of its own.
    """

    def __init__(self, held: LayerWeights, moments: Moments, damping: float) -> None:
        self.layer = layer = held.layer
        self._held, self._bias = held, bias_of(layer)
        self.w_GOI = held.w_GOI
        found = moments.centred() if self._bias else moments.raw()
        with (
            threads_for(layer.layout.goi[2]),
            boundary(f"layer {layer.name!r} cannot be refitted", DataError),
        ):
            self.problem: Problem = prepare(found.h, self.w_GOI, found.c, found.energy, damping)
        self._means = found.means

    def tensors(self, w_GOI: NDArray[np.floating]) -> Tensors:
        """Initializers (weight, and bias where there is one) that realise a compensated weight.

        A weight that is stored as integers is rounded by error feedback, with the inputs' second moments;
        its zeros stay.
        """
        if self.layer.integers is None:
            return self._held.tensors(w_GOI, self._moved_bias(w_GOI))
        kind, mask = self._held.kind, None if w_GOI.all() else w_GOI != 0
        if isinstance(kind, Scattered):
            q, grid = None, self._held.best_grid(np.asarray(w_GOI, np.float64))
        else:
            found = round_weights(self.problem, kind, mask)
            q, grid = found.q, self._held.on_type(found.grid)
            q = q if np.allclose(grid.scale, found.grid.scale, rtol=1e-6, atol=0.0) else None
        if q is None:
            q = round_weights(self.problem, grid, mask, rescale=False).q
        return self._held.integers(q, grid, self._moved_bias(grid.values(q)))

    def _moved_bias(self, w_GOI: NDArray[np.floating]) -> NDArray[np.float64] | None:
        """The bias, in its own shape, that keeps the mean of the outputs with another weight."""
        bias = self._held.bias
        if not self._bias or bias is None:
            return None
        scale = self.layer.uses[0].bias_scale
        dense_GO = bias.astype(np.float64).reshape(self.w_GOI.shape[:2]) * scale
        b_GO = self._means.bias(w_GOI, self.w_GOI, dense_GO)
        return np.asarray((b_GO / scale).reshape(bias.shape))
