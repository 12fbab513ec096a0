"""Statistics correction: give every output channel of a pruned layer the dense model's mean and spread.

With mean ``m`` and standard deviation ``s`` of a channel over calibration data (dense) and ``m'``, ``s'`` of
the pruned model, ``y' -> a (y' - m') + m`` with ``a = 1 + n / (n + n0) (s / s' - 1)``: the scale is shrunk
towards one for small samples. Scale and shift are folded into the layer's weight and bias. What is left of
BatchNormalization (where it could not be folded) gets its mean and variance estimated anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.calibration.layer_weights import LayerWeights, Tensors
from obs_onnx.calibration.staged_run import StagedRun
from obs_onnx.calibration.unfold import outputs
from obs_onnx.passes.graph.extract import extract
from obs_onnx.passes.graph.inputs import input_names
from obs_onnx.passes.graph.set_weights import SetWeights
from obs_onnx.passes.layers.layer import Layer
from obs_onnx.passes.layers.stages import Plan
from obs_onnx.runtimes.base import Runtime
from obs_onnx.runtimes.sessions.partial_run import Values, open_part, run_feed

__all__ = ["correct_statistics", "reestimate_batch_normalization"]

_PRIOR_SAMPLES = 64
_MOST = 2.0


@dataclass
class _Statistics:
    """Sums over positions and samples of (G, O) channels."""

    count: int = 0
    samples: int = 0
    total: NDArray[np.float64] = field(default_factory=lambda: np.zeros(()))
    square: NDArray[np.float64] = field(default_factory=lambda: np.zeros(()))

    def update(self, y_GNO: NDArray[np.generic], samples: int) -> None:
        """Add one batch."""
        y = y_GNO.astype(np.float64, copy=False)
        self.total = self.total + y.sum(axis=1)
        self.square = self.square + np.einsum("gno,gno->go", y, y)
        self.count += y.shape[1]
        self.samples += samples

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean of each channel."""
        return np.asarray(self.total / self.count)

    @property
    def variance(self) -> NDArray[np.float64]:
        """Variance of each channel, never negative."""
        return np.asarray(np.maximum(self.square / self.count - self.mean**2, 0.0))


def correct_statistics(
    runtime: Runtime,
    dense: ir.Model,
    pruned: ir.Model,
    plan: Plan,
    fit: Iterable[Values],
    *,
    budget: int,
    advance: Callable[[int], None],
) -> ir.Model:
    """A copy of ``pruned`` whose layers have the dense model's output statistics; zeros stay zero.

    Layers without a bias of their own, and layers with a shared weight, stay as they are.

    Args:
        runtime: where both models run.
        dense, pruned: same structure, different weights; neither is changed.
        plan: their stages.
        fit: calibration feeds.
        budget: bytes of activations in memory.
        advance: called with 1 after each layer.
    """
    corrected = pruned.clone()
    theirs = StagedRun(runtime, plan, fit, budget // 2)
    theirs.step(dense)
    ours = StagedRun(runtime, plan, theirs, budget // 2, theirs.index)
    for stage in plan.stages:
        layers = [layer for layer in stage.layers if _has_bias(layer)]
        ys = [layer.uses[0].y for layer in layers]
        wanted = {layer.name: _Statistics() for layer in layers}
        found = {layer.name: _Statistics() for layer in layers}
        run = ours.part(corrected, ys)

        def visit(
            number: int,
            before: Values,
            tapped: Values,
            layers: list[Layer] = layers,
            wanted: dict[str, _Statistics] = wanted,
            found: dict[str, _Statistics] = found,
            run: Callable[[Values], Values] = run,
        ) -> None:
            mine = run(ours[number])
            for layer in layers:
                use = layer.uses[0]
                for statistics, values in ((wanted, tapped), (found, mine)):
                    y = values[use.y]
                    statistics[layer.name].update(outputs(y, use.geometry, layer.layout.goi), y.shape[0])

        theirs.step(dense, ys, visit)
        SetWeights(
            {
                name: array
                for layer in layers
                for name, array in _matched(corrected, layer, wanted[layer.name], found[layer.name]).items()
            }
        )(corrected)
        ours.step(corrected)
        advance(len(stage.layers))
    return corrected


def _has_bias(layer: Layer) -> bool:
    return len(layer.uses) == 1 and layer.uses[0].bias is not None and layer.uses[0].bias_scale != 0


def _matched(model: ir.Model, layer: Layer, wanted: _Statistics, found: _Statistics) -> Tensors:
    """Weight and bias that turn the found statistics into the wanted ones."""
    use = layer.uses[0]
    assert use.bias is not None
    tiny = 1e-12 * float(np.max(wanted.variance, initial=0.0))
    ratio = np.sqrt((wanted.variance + tiny) / (found.variance + tiny)) if tiny else np.ones_like(found.mean)
    trust = wanted.samples / (wanted.samples + _PRIOR_SAMPLES)
    scale_GO = 1 + trust * (np.clip(ratio, 1 / _MOST, _MOST) - 1)
    held = LayerWeights.of(model, layer)
    assert held.bias is not None
    b_GO = held.bias.astype(np.float64).reshape(scale_GO.shape) * use.bias_scale
    b_GO = scale_GO * (b_GO - found.mean) + wanted.mean
    return held.tensors(held.w_GOI * scale_GO[:, :, None], (b_GO / use.bias_scale).reshape(held.bias.shape))


def reestimate_batch_normalization(
    runtime: Runtime, pruned: ir.Model, fit: Iterable[Values], advance: Callable[[int], None] = lambda n: None
) -> ir.Model:
    """A copy of ``pruned`` whose BatchNormalization nodes have the mean and variance of their inputs now.

    In topological order, since each one changes what the next one sees. Nodes in training mode, or whose
    statistics are not constants of their own, stay as they are.

    Args:
        runtime: where the model runs.
        pruned: not changed.
        fit: calibration feeds that can be read again; they are, once for every node.
        advance: called with 1 after each node.
    """
    model = pruned.clone()
    for node in model.graph:
        statistics = [value for value in node.inputs[3:5] if value is not None and value.is_initializer()]
        own = all(len(value.uses()) == 1 for value in statistics)
        if node.op_type != "BatchNormalization" or len(statistics) < 2 or not own:
            continue
        if node.attributes.get_int("training_mode", 0) or node.inputs[0] is None:
            continue
        name = str(node.inputs[0].name)
        session = open_part(runtime, extract(model, input_names(model), [name]), next(iter(fit)))
        found = _Statistics()
        for feed in fit:
            x = run_feed(session, feed)[name]
            found.update(np.moveaxis(x, 1, -1).reshape(1, -1, x.shape[1]), x.shape[0])
        SetWeights(
            {
                str(value.name): array[0]
                for value, array in zip(statistics, (found.mean, found.variance), strict=True)
            }
        )(model)
        advance(1)
    return model
