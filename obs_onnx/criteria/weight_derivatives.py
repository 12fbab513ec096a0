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
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.calibration.layer_weights import stored
from obs_onnx.criteria.reference_loss import LABELS, Aim, LabelledBatches, Lesson, ReferenceLoss
from obs_onnx.passes.autodiff.gradient import Gradient, HessianVectorProduct, find, weights
from obs_onnx.passes.errors import OptionError
from obs_onnx.passes.graph.emitter import Emitter
from obs_onnx.passes.graph.extract import extract
from obs_onnx.passes.graph.inputs import input_names
from obs_onnx.passes.graph.names import Names
from obs_onnx.passes.layers.layer import Layer
from obs_onnx.runtimes.sessions.partial_run import open_part, run_feed

__all__ = ["KINDS", "Derivatives", "Kind", "WeightDerivatives", "WeightScores"]

Float = NDArray[np.float64]
Terms = Mapping[str, Float]

_BATCH = 32
_COTANGENT = "cotangent"


@dataclass(frozen=True)
class Derivatives:
    """Of the mean loss of a batch with respect to one weight tensor, all float64 and of its shape.

    Attributes:
        w: the weights.
        g: gradient.
        v: vector that the Hessian is multiplied with.
        hv: the product; zero where a kind is of first order.
        samples: examples of the batch.
    """

    w: Float
    g: Float
    v: Float
    hv: Float
    samples: int


@dataclass(frozen=True)
class Kind:
    """A kind of terms.

    Attributes:
        term: what removing each weight does to the loss, signed.
        aim: what the loss of each example compares with.
        second: needs a product with the Hessian.
        signs: it is one with random signs, not with the weights; the mean over batches is an estimate of
            which the absolute value is taken at last.
        fixed: of the Hessian without the Gauss-Newton part.
    """

    term: Callable[[Derivatives], Float]
    aim: Aim = "exact"
    second: bool = True
    signs: bool = False
    fixed: bool = False


KINDS: Mapping[str, Kind] = {
    "taylor": Kind(lambda d: d.g * d.w, aim="noisy", second=False),
    "fisher": Kind(lambda d: d.samples * np.square(d.g * d.w) / 2, aim="drawn", second=False),
    "obd": Kind(lambda d: d.v * d.hv * np.square(d.w) / 2, signs=True),
    "oba": Kind(lambda d: d.w * d.hv / 2 - d.g * d.w),
    "oba-second": Kind(lambda d: d.w * d.hv / 2),
    "oba-paper": Kind(lambda d: d.w * d.hv, fixed=True),
}
"""Name of a criterion -> its terms, see the module."""


class WeightDerivatives:
    """Terms of all weights of a model, batch by batch.

    Args:
        lessons: the model, its data and its loss.
        names: initializers that count; those that do not influence the loss, or are not of a float type, drop
            out.
        seed: of random signs.
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
        chosen, model = KINDS[kind], self._lessons.model.clone()
        teacher = self._lessons.teacher
        loss = _fixed_gradient(model, teacher) if chosen.fixed else teacher.append(model)
        found = set(weights(model, loss))
        names = [name for name in model.graph.initializers if name in self._wanted & found]
        w = {name: stored(model, name) for name in names}
        (HessianVectorProduct if chosen.second else Gradient)(loss, names).call(model)
        wanted = [f"{name}.{what}" for what in ("grad", "hvp")[: 1 + chosen.second] for name in names]
        inputs = input_names(model)
        random, session = np.random.default_rng(self._seed), None
        for lesson in self._lessons.batches(_BATCH, chosen.aim):
            v = {name: _signs(random, array) for name, array in w.items()} if chosen.signs else w
            fed = {**lesson.feed, **self._compared(lesson, chosen)}
            if chosen.second:
                fed.update({f"{name}.v": array for name, array in v.items()})
            session = session or open_part(self._lessons.runtime, extract(model, inputs, wanted), lesson.feed)
            got = run_feed(session, fed, wanted)
            yield (
                lesson.samples,
                {
                    name: chosen.term(
                        Derivatives(
                            w[name].astype(np.float64),
                            got[f"{name}.grad"].astype(np.float64),
                            v[name].astype(np.float64),
                            got[f"{name}.hvp"].astype(np.float64) if chosen.second else np.zeros(()),
                            lesson.samples,
                        )
                    )
                    for name in names
                },
            )

    def _compared(self, lesson: Lesson, kind: Kind) -> dict[str, NDArray[np.generic]]:
        if kind.fixed:
            return {_COTANGENT: self._lessons.teacher.cotangent(lesson.dense, lesson.targets)}
        return {LABELS: lesson.targets}

    def mean_absolute(
        self, kind: str, reduce: Callable[[Terms], Terms] = lambda terms: terms
    ) -> dict[str, Float]:
        """Mean over the data of the absolute values of (sums of) terms, or absolute value of the mean.

        Args:
            kind: of the terms.
            reduce: from the terms of a batch to the signed sums whose absolute values count.
        """
        sums: dict[str, Float] = {}
        total = 0
        for samples, terms in self.terms(kind):
            total += samples
            for name, term in reduce(terms).items():
                part = samples * (term if KINDS[kind].signs else np.abs(term))
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


def _signs(random: np.random.Generator, like: NDArray[np.generic]) -> NDArray[np.generic]:
    return random.choice(np.array([-1, 1], like.dtype), like.shape)


def _fixed_gradient(model: ir.Model, teacher: ReferenceLoss) -> str:
    """Append the product of what is judged with an input, the gradient that is kept fixed; its name."""
    name = teacher.judged(model)
    (y,) = find(model, [name])
    emitter = Emitter(model, Names(model), "fixed")
    cotangent = ir.Value(name=_COTANGENT, shape=y.shape, type=y.type)
    model.graph.inputs.append(cotangent)
    loss = emitter.sum(emitter.mul(y, cotangent))
    model.graph.outputs.append(loss)
    return str(loss.name)
