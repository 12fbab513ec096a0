"""Derivatives of the loss with respect to weights, turned into terms of what removing weights does to it.

With gradient ``g`` and Hessian ``H`` of the mean loss of a batch, all elementwise:

    taylor      g w                          first order
    fisher      N (g w)^2 / 2                N examples in the batch
    obd         w^2 diag(H) / 2              the diagonal estimated as the mean of v (H v), random signs v
    oba         -g w + w (H w) / 2           all weights removed at once, the change shared among them
    oba-second  w (H w) / 2
    oba-paper   w (H' w)

``H w`` is exact (the gradient graph differentiated again). ``H'`` is the Hessian of ``<dL/dy, y(w)>`` with
the gradient ``dL/dy`` at the outputs kept fixed: ``H = H' + J^T (d2L/dy2) J``, without the Gauss-Newton part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.calibration.layer_problem import stored
from obs_onnx.criteria.reference_loss import LABELS, Aim, LabelledBatches, Lesson
from obs_onnx.passes.autodiff.gradient import Gradient, HessianVectorProduct, find, weights
from obs_onnx.passes.errors import OptionError
from obs_onnx.passes.graph.emitter import Emitter
from obs_onnx.passes.graph.extract import extract
from obs_onnx.passes.graph.inputs import input_names
from obs_onnx.passes.graph.names import Names
from obs_onnx.passes.layers.layer import Layer
from obs_onnx.runtimes.partial_run import open_part, run_feed

__all__ = ["KINDS", "WeightDerivatives", "WeightScores"]

Float = NDArray[np.float64]
Terms = Mapping[str, Float]

KINDS = ("taylor", "fisher", "obd", "oba", "oba-second", "oba-paper")

_AIMS: Mapping[str, Aim] = {"taylor": "noisy", "fisher": "drawn"}  # the others are of second order
_BATCH = 32
_COTANGENT = "cotangent"


class WeightDerivatives:
    """Terms of all weights of a model, batch by batch.

    Args:
        lessons: the model, its data and its loss.
        names: initializers that count; those that do not influence the loss, or are not of a float type, drop
            out.
        seed: of the signs for ``obd``.
    """

    def __init__(self, lessons: LabelledBatches, names: Sequence[str], seed: int = 0) -> None:
        self._lessons, self._wanted, self._seed = lessons, frozenset(names), seed

    def terms(self, kind: str) -> Iterator[tuple[int, Terms]]:
        """Number of examples and signed terms, by initializer, of every batch.

        Raises:
            GradientError: the model cannot be differentiated.
        """
        if kind not in KINDS:
            raise OptionError(f"criterion {kind!r} is none of {', '.join(KINDS)}")
        model = self._lessons.model.clone()
        if kind == "oba-paper":
            loss = _fixed_gradient(model, self._lessons)
        else:
            loss = self._lessons.teacher.append(model)
        found = set(weights(model, loss))
        names = [name for name in model.graph.initializers if name in self._wanted & found]
        w = {name: stored(model, name) for name in names}
        first = kind in ("taylor", "fisher")
        step = (Gradient if first else HessianVectorProduct)(loss, names)
        step.call(model)
        wanted = [f"{name}.grad" for name in names] + ([] if first else [f"{name}.hvp" for name in names])
        inputs = input_names(model)
        random, session = np.random.default_rng(self._seed), None
        for lesson in self._lessons.batches(_BATCH, _AIMS.get(kind, "exact")):
            fed = {**lesson.feed, **self._compared(lesson, kind)}
            if kind == "obd":
                fed.update({f"{n}.v": _signs(random, w[n]) for n in names})
            elif not first:
                fed.update({f"{n}.v": w[n] for n in names})
            session = session or open_part(self._lessons.runtime, extract(model, inputs, wanted), lesson.feed)
            got = run_feed(session, fed, wanted)
            yield (
                lesson.samples,
                {
                    n: _term(
                        kind,
                        w[n].astype(np.float64),
                        got[f"{n}.grad"].astype(np.float64),
                        None if first else got[f"{n}.hvp"].astype(np.float64),
                        fed.get(f"{n}.v"),
                        lesson.samples,
                    )
                    for n in names
                },
            )

    def _compared(self, lesson: Lesson, kind: str) -> dict[str, NDArray[np.generic]]:
        if kind == "oba-paper":
            return {_COTANGENT: self._lessons.teacher.cotangent(lesson.dense, lesson.targets)}
        return {LABELS: lesson.targets}

    def mean_absolute(
        self, kind: str, reduce: Callable[[Terms], Terms] = lambda terms: terms
    ) -> dict[str, Float]:
        """Mean over the data of the absolute values of (sums of) terms; of ``obd`` that of the mean.

        Args:
            kind: of the terms.
            reduce: from the terms of a batch to the signed sums whose absolute values count.
        """
        sums: dict[str, Float] = {}
        total = 0
        for samples, terms in self.terms(kind):
            total += samples
            for name, term in reduce(terms).items():
                part = samples * (term if kind == "obd" else np.abs(term))
                sums[name] = sums[name] + part if name in sums else part
        return {name: np.abs(array) / max(total, 1) for name, array in sums.items()}


class WeightScores:
    """Scores of the weights of layers in canonical form, computed when the first one is asked for.

    Args:
        sensitivities: of the layers' weights.
        kind: see the module.
    """

    def __init__(self, sensitivities: WeightDerivatives, kind: str) -> None:
        self._sensitivities, self._kind = sensitivities, kind
        self._found: dict[str, Float] | None = None

    def __call__(self, layer: Layer) -> Float:
        """(G, O, I), not negative; zero for a layer that does not influence the loss."""
        if self._found is None:
            self._found = self._sensitivities.mean_absolute(self._kind)
        if layer.name not in self._found:
            return np.zeros(layer.layout.goi)
        return np.abs(layer.layout.to_matrix(self._found[layer.name]))


def _term(
    kind: str, w: Float, g: Float, product: Float | None, v: NDArray[np.generic] | None, samples: int
) -> Float:
    if product is None:
        return g * w if kind == "taylor" else samples * np.square(g * w) / 2
    if kind == "obd":
        assert v is not None
        return np.asarray(v.astype(np.float64) * product * np.square(w) / 2)
    if kind == "oba-paper":
        return w * product
    return w * product / 2 - (g * w if kind == "oba" else 0.0)


def _signs(random: np.random.Generator, like: NDArray[np.generic]) -> NDArray[np.generic]:
    return random.choice(np.array([-1, 1], like.dtype), like.shape)


def _fixed_gradient(model: ir.Model, lessons: LabelledBatches) -> str:
    """Append the product of what is judged with an input, the gradient that is kept fixed; its name."""
    name = lessons.teacher.judged(model)
    (y,) = find(model, [name])
    emitter = Emitter(model, Names(model), "fixed")
    cotangent = ir.Value(name=_COTANGENT, shape=y.shape, type=y.type)
    model.graph.inputs.append(cotangent)
    loss = emitter.sum(emitter.mul(y, cotangent))
    model.graph.outputs.append(loss)
    return str(loss.name)
