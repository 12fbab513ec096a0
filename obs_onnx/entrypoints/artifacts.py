"""artifacts(): the files from which onnxruntime trains a model on a device.

They are onnxruntime-training's own: a model that computes the loss and its gradients, one that computes the
loss alone, one that updates the weights, and the weights. What was written is loaded again and tried on
random data before it appears under its name: the loss has to be that of the model, and the gradients have to
be those of :class:`obs_onnx.passes.autodiff.gradient.Gradient` where that knows all operators.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.data.feeds import Feed
from obs_onnx.data.rows import random_feed
from obs_onnx.entrypoints.files import check_files
from obs_onnx.entrypoints.options.artifacts import ArtifactsOptions
from obs_onnx.entrypoints.options.keywords import takes
from obs_onnx.io.atomic_files import together
from obs_onnx.io.json_file import jsonable
from obs_onnx.io.onnx_file import ModelLike, open_model, serialize
from obs_onnx.passes.autodiff.gradient import Gradient, weights
from obs_onnx.passes.autodiff.optimizers import SGD, AdamW, Optimizer
from obs_onnx.passes.autodiff.training_step import Term, loss_graph, trained_weights
from obs_onnx.passes.canonical.canonicalize import canonicalize
from obs_onnx.passes.canonical.modernize import modernize
from obs_onnx.passes.errors import GradientError, OptionError, VerificationError, boundary, named
from obs_onnx.passes.graph.logits import logits_of
from obs_onnx.passes.graph.names import chosen
from obs_onnx.runtimes import Session
from obs_onnx.runtimes.onnxruntime import OrtRuntime
from obs_onnx.training.engines.ort_artifacts import FILES, Training, fitted, readable, write_artifacts
from obs_onnx.training.weights import zero_masks
from obs_onnx.verification.front import undecided

__all__ = ["OPTIMIZERS", "Artifacts", "artifacts"]

OPTIMIZERS: Mapping[str, Optimizer] = {"adamw": AdamW(decay=0.0), "sgd": SGD(momentum=0.0)}
_TAUGHT = ("kl", "logits")
_SAMPLES, _RATE = 4, 1e-3
_LOSS_TOLERANCE, _GRADIENT_TOLERANCE = 1e-4, 1e-2
_NOISE = 1e-3  # of the largest gradient: others as small as that are rounding, which is not compared


@dataclass(frozen=True)
class Artifacts:
    """What was written; ready for JSON.

    Attributes:
        model, output: file and folder.
        files: in the folder.
        bytes: of all of them.
        inputs: of the training model, in order: data, then labels or targets.
        trained: initializers that are updated.
        masked: number of weights that are zero and stay so on the device.
        loss: of random data before a step.
        gradient_error: largest difference of a weight's gradient from the project's own, relative to its
            norm; None where the project does not know an operator.
    """

    model: str
    output: str
    files: tuple[str, ...]
    bytes: int
    inputs: tuple[str, ...]
    trained: tuple[str, ...]
    masked: int
    loss: float
    gradient_error: float | None
    schema: int = 1

    def to_json(self) -> object:
        """All fields, ready for JSON."""
        return jsonable(self)


@takes(ArtifactsOptions)
def artifacts(model: ModelLike, options: ArtifactsOptions) -> Artifacts:
    """Write the artifacts of a model.

    BatchNormalization is folded into the weights. Where the first output is decided (an ArgMax, rows that a
    NonMaxSuppression chooses), the loss is of what it is decided from.

    Args:
        model: a file, or a model in memory (which is not changed); its weights are float32.
        options: see :class:`obs_onnx.entrypoints.options.artifacts.ArtifactsOptions`.

    Raises:
        ModelError, OptionError, MissingRuntimeError: bad input; nothing is written.
        VerificationError: the artifacts do not compute what the model does; nothing is written.
    """
    check_files(model, options)
    original, name, _ = open_model(model, options.custom_domains)
    with boundary(f"{name} cannot be opened for training"):
        runtime = OrtRuntime()
        form = readable(modernize(canonicalize(undecided(runtime, original))))
        terms = [_term(form, options.loss)]
        trained = _trained(form, terms, options.requires_grad)
        masks = zero_masks(form, trained) if options.keep_zeros else {}
        graph, scalar = loss_graph(form, terms, masks=masks)
        fit = fitted(graph)
    with together() as files:
        folder = files.new(options.output)
        folder.mkdir()
        write_artifacts(folder, fit, scalar, trained, OPTIMIZERS[options.optimizer])
        session = runtime.session(serialize(fit))
        feed = _example(runtime, form, terms[0], session, options.seed)
        training = Training(runtime, folder)
        found = _loss(training, session, scalar, feed)
        error = _compare(runtime, graph, scalar, trained, feed, training)
        _step(training, trained, masks)
        size = sum(path.stat().st_size for path in folder.iterdir())
    return Artifacts(
        model=name,
        output=str(options.output),
        files=FILES,
        bytes=size,
        inputs=training.inputs,
        trained=tuple(trained),
        masked=sum(int((~mask).sum()) for mask in masks.values()),
        loss=found,
        gradient_error=error,
    )


def _term(model: ir.Model, loss: str) -> Term:
    first = model.graph.outputs[0]
    output = logits_of(first) if loss in ("cross_entropy", *_TAUGHT) else first
    return Term(loss, str(output.name), "teacher" if loss in _TAUGHT else "labels")


def _trained(model: ir.Model, terms: Sequence[Term], patterns: Sequence[str]) -> list[str]:
    graph, scalar = loss_graph(model, terms)
    names = [name for name in weights(graph, scalar) if name in model.graph.initializers]
    for pattern in patterns:
        if not chosen(pattern, names):
            raise OptionError(
                f"{named('requires_grad')} {pattern!r} matches no weight that influences the loss: "
                "run inspect to see their names"
            )
    if patterns:
        wanted = set().union(*(chosen(pattern, names) for pattern in patterns))
        names = [name for name in names if name in wanted]
    else:
        names = trained_weights(model, terms)
    if not names:
        raise OptionError("the model has no weights to train")
    for name in names:
        tensor = model.graph.initializers[name].const_value
        if tensor is not None and tensor.dtype != ir.DataType.FLOAT:
            raise OptionError(
                f"weight {name!r} is of type {tensor.dtype.name}: onnxruntime-training trains float32 only, "
                "convert the model first"
            )
    return names


def _example(runtime: OrtRuntime, model: ir.Model, term: Term, session: Session, seed: int) -> Feed:
    """Random data, and labels or targets that fit it."""
    names = {str(value.name) for value in model.graph.inputs}
    feed = random_feed([spec for spec in session.inputs if spec.name in names], _SAMPLES, seed=seed)
    target = next((spec for spec in session.inputs if spec.name not in names), None)
    if target is None:
        return feed
    plain = model.clone()
    shown = next(y for node in plain.graph for y in node.outputs if y.name == term.output)
    plain.graph.outputs.clear()
    plain.graph.outputs.append(shown)
    answer = runtime.session(serialize(plain)).run(feed)[term.output]
    random = np.random.default_rng(seed)
    if term.loss == "cross_entropy":
        shape = (answer.shape[0], *answer.shape[2:])
        return {**feed, target.name: random.integers(0, answer.shape[1], shape)}
    return {**feed, target.name: random.standard_normal(answer.shape).astype(target.dtype)}


def _loss(training: Training, session: Session, scalar: str, feed: Feed) -> float:
    """The loss by the inference model, which the others have to give, too; gradients are computed."""
    wanted = float(session.run(feed, [scalar])[scalar])
    for found in (training.evaluate(feed)[scalar], training.gradients(feed)[scalar]):
        if not np.isclose(found, wanted, rtol=_LOSS_TOLERANCE, atol=1e-6):
            raise VerificationError(
                f"on random data the artifacts compute a loss of {float(found):.6g}, the model {wanted:.6g}"
            )
    return wanted


def _compare(
    runtime: OrtRuntime, graph: ir.Model, scalar: str, names: Sequence[str], feed: Feed, training: Training
) -> float | None:
    own = graph.clone()
    try:
        Gradient(scalar, names).call(own)
    except GradientError:
        return None
    found = runtime.session(serialize(own)).run(feed)
    wanted = {name: found[f"{name}.grad"].astype(np.float64) for name in names}
    norms = {name: float(np.linalg.norm(gradient)) for name, gradient in wanted.items()}
    noise, worst = _NOISE * max(norms.values()) + np.finfo(np.float32).tiny, 0.0
    for name, gradient in wanted.items():
        error = np.linalg.norm(training.gradient(name) - gradient) / (norms[name] + noise)
        if not error <= _GRADIENT_TOLERANCE:
            raise VerificationError(
                f"the gradient of {name!r} in the artifacts is wrong by {100 * error:.2g}%"
            )
        worst = max(worst, float(error))
    return worst


def _step(training: Training, names: Sequence[str], masks: Mapping[str, NDArray[np.bool_]]) -> None:
    training.update(_RATE)
    for name in names:
        weight = training.weight(name)
        if not np.isfinite(weight).all():
            raise VerificationError(f"after a step on random data {name!r} is not finite")
        if name in masks and np.any(weight[~masks[name]]):
            raise VerificationError(f"after a step on random data zeros of {name!r} came back")
