"""All weights corrected together towards the dense model's outputs, after the refit layer by layer.

Least squares on one layer after the other sees no further than that layer's outputs. A few damped
Gauss-Newton steps (Levenberg 1944, Marquardt 1963; for networks Martens, Deep learning via Hessian-free
optimization, ICML 2010) see the outputs of the model. With loss L, gradient g and Gauss-Newton matrix
``G = J^T (d2L/dy2) J`` of the weights on their support,

    (G + lambda D) d = -g,    D = s_l H_l in layer l

where ``H_l`` are the second moments of the layer's inputs, so that ``d D d`` is how far d moves the outputs
of every layer, and ``s_l`` is what such a move costs on the average: ``v G v / v H v`` for random signs v
(Hutchinson 1990). ``D^-1`` is the input half of a Kronecker-factored curvature (Martens and Grosse 2015).

The step is looked for in the span Q of ``D^-1 g, D^-1 G D^-1 g, ...``, in which conjugate gradients would go,
too. There ``(Q^T G Q + lambda Q^T D Q) c = -Q^T g`` is small, so that every lambda costs no product (Vinyals
and Povey, Krylov subspace descent for deep learning, AISTATS 2012). Held-out data chooses lambda, and
whether a step is taken at all. Nothing is random but the signs, and nothing needs labels.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.data.sources import Source
from obs_onnx.evaluation.measures.yardstick import Yardstick
from obs_onnx.passes.autodiff.optimizers import Metric
from obs_onnx.passes.autodiff.training_step import trained_weights
from obs_onnx.passes.errors import ModelError, OptionError
from obs_onnx.passes.layers.find_layers import find_layers
from obs_onnx.progress import Advance
from obs_onnx.reconstruction.curvature import Curvature, Support
from obs_onnx.runtimes.base import Session
from obs_onnx.runtimes.onnxruntime import OrtRuntime
from obs_onnx.training.input_metrics import measure_metrics
from obs_onnx.training.loop import trainable_arrays, zero_masks
from obs_onnx.training.objective import choose_objective
from obs_onnx.training.retraining import modern

__all__ = ["Corrected", "Steps", "correct_outputs"]

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]

_DAMPINGS = (0.01, 0.1, 1.0, 10.0, 100.0)  # of the mean curvature
_VECTORS = 12  # of all weights that a step holds beside the span
_LEAST = 1e-3  # by which the held-out loss has to fall, relative
_PROBES = 2
_FLOOR = 1e-4  # of the largest scale, that every layer's has at least
_METRIC_SAMPLES = 512
_NEW = 1e-4  # of a direction, that has to lie outside of the span so far


@dataclass(frozen=True)
class Steps:
    """How much is computed.

    Attributes:
        steps: at most.
        gradient, curvature: samples of the gradient and of the products.
        products: with the Gauss-Newton matrix in a step.
    """

    steps: int
    gradient: int
    curvature: int
    products: int

    @property
    def bytes_per_weight(self) -> int:
        """Memory that a step takes for each weight."""
        return 8 * (self.products + _VECTORS)

    def macs(self, macs: int, fit: int, held_out: int) -> float:
        """Multiply-accumulates that it takes.

        Args:
            macs: of the model per sample.
            fit, held_out: samples that there are.
        """
        curvature = 5 * min(self.curvature, fit) * (self.products * self.steps + _PROBES)
        tried = self.steps * len(_DAMPINGS) * held_out
        return macs * (3.0 * self.steps * min(self.gradient, fit) + curvature + tried)


@dataclass(frozen=True)
class Corrected:
    """What came of it.

    Attributes:
        weights: initializers that changed; none where nothing was better.
        before, after: loss on held-out data.
        steps: that were taken.
    """

    weights: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    before: float = 0.0
    after: float = 0.0
    steps: int = 0


def correct_outputs(
    runtime: OrtRuntime,
    model: ir.Model,
    teacher: Session,
    fit: Source,
    held_out: Source,
    yardstick: Yardstick,
    steps: Steps,
    *,
    frozen: Collection[str] = (),
    most: int | None = None,
    seed: int = 0,
    advance: Advance = lambda n: None,
) -> Corrected:
    """Gauss-Newton steps of all weights of a model; those that are zero stay zero.

    Args:
        runtime: where everything runs.
        model: pruned and refitted; not changed.
        teacher: session of the dense model.
        fit: data that the steps come from.
        held_out: data that decides how long they are and whether they are taken.
        yardstick: how outputs are measured.
        steps: how much is computed.
        frozen: initializers that stay.
        most: weights that may change at most.
        seed: of random signs.
        advance: called with 1 after each step.

    Raises:
        GradientError: the model cannot be differentiated.
        OptionError: there are no weights of a type that can change, or more than ``most``.
        ModelError: a graph cannot be run.
    """
    recent = modern(model)
    feed, labels = next(iter(held_out.batches()))
    objective = choose_objective(
        recent,
        teacher.run(feed),
        labels=False,
        teacher=True,
        task=yardstick.task,
        given=labels,
        parts=yardstick.parts,
    )
    names = [name for name in trained_weights(recent, objective.terms) if name not in frozen]
    start = trainable_arrays(recent, names)
    for name, array in start.items():
        held = model.graph.initializers.get(name)
        if held is None or held.const_value is None or tuple(held.const_value.shape.numpy()) != array.shape:
            raise ModelError(f"weight {name!r} is another one in an opset that can be differentiated")
    support = Support.of(model, start, zero_masks(recent, names))
    if most is not None and support.size > most:
        raise OptionError(f"it has {support.size} weights, and the memory is enough for {most}")
    curvature = Curvature(runtime, recent, objective, teacher, support, feed)
    metrics = measure_metrics(runtime, recent, fit.limit(_METRIC_SAMPLES), start)
    search = _Search(curvature, support, metrics, _owners(recent), fit, held_out, steps)
    return search.run(np.random.default_rng(seed), advance)


def _owners(model: ir.Model) -> dict[str, str]:
    """The layer of each bias."""
    layers = find_layers(model)[0]
    return {use.bias: layer.name for layer in layers for use in layer.uses if use.bias is not None}


@dataclass(frozen=True)
class _Damping:
    """The matrix D, and roughly its inverse.

    Attributes:
        support: of the vectors.
        metrics: of the weights.
        moments: of their inputs, the inverses of what the metrics hold.
        scales: s of each weight.
    """

    support: Support
    metrics: Mapping[str, Metric]
    moments: Mapping[str, Sequence[NDArray[Any]]]
    scales: Mapping[str, float]

    @classmethod
    def of(cls, support: Support, metrics: Mapping[str, Metric]) -> _Damping:
        """With scales of 1."""
        moments = {
            name: [np.linalg.inv(a.astype(float)) for a in one.inverses] for name, one in metrics.items()
        }
        return cls(support, metrics, moments, dict.fromkeys(support.start, 1.0))

    def product(self, vector: Vector) -> Vector:
        """``D v``."""
        found = {
            name: self.scales[name] * _multiplied(self.metrics[name], array, self.moments[name])
            for name, array in self.support.arrays(vector).items()
        }
        return self.support.vector(found)

    def solve(self, vector: Vector) -> Vector:
        """Roughly ``D^-1 v``."""
        found = {
            name: _multiplied(self.metrics[name], array, self.metrics[name].inverses) / self.scales[name]
            for name, array in self.support.arrays(vector).items()
        }
        return self.support.vector(found)


def _multiplied(metric: Metric, array: NDArray[Any], by: Sequence[NDArray[Any]]) -> NDArray[np.float64]:
    """A weight times a matrix for each run of its inputs; where there are none, as it is."""
    if metric.layout is None:
        return array.astype(np.float64)
    w_GOI = metric.layout.to_matrix(array)
    ends = np.cumsum([one.shape[1] for one in by])[:-1]
    parts = [part @ one for part, one in zip(np.split(w_GOI, ends, axis=2), by, strict=True)]
    return np.asarray(metric.layout.to_tensor(np.concatenate(parts, axis=2)))


def _damped(rows: Sequence[Vector], bent: Matrix, moved: Matrix, slope: Vector) -> Iterator[Vector]:
    """Steps in the span of rows, for every damping."""
    if not rows:
        return
    b = np.array([-np.vdot(row, slope) for row in rows])
    for damping in _DAMPINGS:
        step = np.zeros_like(slope)
        for part, row in zip(np.linalg.lstsq(bent + damping * moved, b)[0], rows, strict=True):
            step += part * row
        yield step


@dataclass(frozen=True)
class _Search:
    """Steps, and the data that they come from and are judged by."""

    curvature: Curvature
    support: Support
    metrics: Mapping[str, Metric]
    owners: Mapping[str, str]
    fit: Source
    held_out: Source
    amount: Steps

    def run(self, random: np.random.Generator, advance: Advance) -> Corrected:
        """All steps."""
        w = self.support.vector(self.support.start)
        before = best = self.curvature.loss(w, self.held_out)
        damping, taken = self._scaled(w, random), 0
        for _ in range(self.amount.steps):
            found, loss = self._step(w, damping)
            advance(1)
            if not loss < best * (1 - _LEAST):
                break
            w, best, taken = found, loss, taken + 1
        weights = self.support.weights(w) if taken else {}
        return Corrected(weights, before, best, taken)

    def _step(self, w: Vector, damping: _Damping) -> tuple[Vector, float]:
        """The best of the weights behind steps with more or less damping, and their loss."""
        slope = self.curvature.gradient(w, self.fit.limit(self.amount.gradient))
        best, least = w, np.inf
        for step in _damped(*self._span(w, slope, damping), slope):
            loss = self.curvature.loss(w + step, self.held_out)
            if loss < least:
                best, least = w + step, loss
        return best, least

    def _span(self, w: Vector, slope: Vector, damping: _Damping) -> tuple[list[Vector], Matrix, Matrix]:
        """k rows Q of unit length, and (k, k) ``Q G Q^T`` and ``Q D Q^T``."""
        data = self.fit.limit(self.amount.curvature)
        rows, towards = list[Vector](), slope
        bent, moved = np.zeros((2, self.amount.products, self.amount.products))
        for k in range(self.amount.products):
            new = damping.solve(towards)
            size = float(np.linalg.norm(new))
            for row in [*rows, *rows]:
                new = new - np.vdot(row, new) * row
            left = float(np.linalg.norm(new))
            if left <= _NEW * size:
                break
            rows.append(new / left)
            towards = self.curvature.product(w, rows[-1], data)
            pushed = damping.product(rows[-1])
            for i, row in enumerate(rows):
                bent[i, k] = bent[k, i] = np.vdot(row, towards)
                moved[i, k] = moved[k, i] = np.vdot(row, pushed)
        return rows, bent[: len(rows), : len(rows)], moved[: len(rows), : len(rows)]

    def _scaled(self, w: Vector, random: np.random.Generator) -> _Damping:
        """D, from products of the Gauss-Newton matrix with random signs."""
        plain = _Damping.of(self.support, self.metrics)
        data = self.fit.limit(self.amount.curvature)
        above, below = dict.fromkeys(self.support.start, 0.0), dict.fromkeys(self.support.start, 0.0)
        for _ in range(_PROBES):
            v = random.choice([-1.0, 1.0], w.size)
            signs = self.support.arrays(v)
            bent = self.support.arrays(self.curvature.product(w, v, data))
            moved = self.support.arrays(plain.product(v))
            for name, sign in signs.items():
                above[name] += float(np.vdot(sign, bent[name]))
                below[name] += float(np.vdot(sign, moved[name]))
        found = {name: above[name] / below[name] if below[name] > 0 else 0.0 for name in above}
        found = {name: found.get(self.owners.get(name, name), one) for name, one in found.items()}
        least = _FLOOR * max(found.values(), default=0.0)
        scales = {name: max(one, least) or 1.0 for name, one in found.items()}
        return replace(plain, scales=scales)
