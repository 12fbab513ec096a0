"""gradient(): a model that also computes the gradients of a loss, from standard operators only."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import onnx_ir as ir

from obs_onnx.entrypoints.files import check_files
from obs_onnx.entrypoints.options.gradient import GradientOptions
from obs_onnx.entrypoints.options.keywords import takes
from obs_onnx.io.onnx_file import ModelLike, open_model, save_model, serialize
from obs_onnx.passes.autodiff.gradient import Gradient, HessianVectorProduct, weights
from obs_onnx.passes.autodiff.losses import LOSSES, append_loss
from obs_onnx.passes.canonical.canonicalize import plain
from obs_onnx.passes.canonical.modernize import modernize
from obs_onnx.passes.errors import GradientError, boundary
from obs_onnx.passes.shapes.infer_shapes import InferShapes
from obs_onnx.runtimes.onnxruntime import OrtRuntime
from obs_onnx.verification.front import undecided

__all__ = ["gradient"]


@takes(GradientOptions)
def gradient(model: ModelLike, options: GradientOptions) -> ir.Model:
    """Add a loss and its gradients to a model.

    The result has the extra outputs ``loss`` and ``<initializer>.grad``, with ``hvp`` also an extra input
    ``<initializer>.v`` for each of them and outputs ``<initializer>.hvp``: the product of the loss's Hessian
    with all v together. Labels (or targets) come in as ``labels``, for ``kl`` logits as ``teacher``.

    Functions are inlined and constants become initializers; nothing is folded, so that the initializers are
    those of ``model``, with their names and shapes. Where the first output is decided (an ArgMax, rows that a
    NonMaxSuppression chooses), the loss is of what it is decided from, and the decision is not in the result.

    Args:
        model: a file, or a model in memory (which is not changed).
        options: see :class:`obs_onnx.entrypoints.options.gradient.GradientOptions`.

    Raises:
        ModelError: the model cannot be read, or cannot be differentiated.
        OptionError: ``output`` cannot be written, or is the model itself.
    """
    output, wrt = options.output, options.wrt
    check_files(model, options)
    original, name, _ = open_model(model, options.custom_domains)
    with boundary(f"{name} cannot be differentiated", GradientError):
        learnt = undecided(OrtRuntime(), original) if options.loss in LOSSES else original
        result = modernize(plain(learnt), plain)
        InferShapes().call(result)
        scalar = append_loss(result, options.loss)
        wanted = list(wrt) if wrt is not None else _own(original, weights(result, scalar))
        if not wanted:
            raise GradientError(f"no initializer of {name} influences {scalar!r} by any differentiable way")
        (HessianVectorProduct if options.hvp else Gradient)(scalar, wanted).call(result)
        _name_loss(result, scalar)
        _check(result)
    if output is not None:
        save_model(result, output)
    return result


def _own(original: ir.Model, names: Sequence[str]) -> list[str]:
    """The initializers of the input model among ``names``; all of them where it has none at all."""
    own = [name for name in names if name in original.graph.initializers]
    return own or list(names)


def _name_loss(model: ir.Model, scalar: str) -> None:
    """An output ``loss`` where the loss is a value of the model with another name."""
    if scalar == "loss":
        return
    values = [*model.graph.inputs, *model.graph.initializers.values()]
    values += [y for node in model.graph for y in node.outputs]
    if any(value.name == "loss" for value in values):
        raise GradientError("the name 'loss' is taken in the model")
    source = next(y for y in model.graph.outputs if y.name == scalar)
    node = ir.Node("", "Identity", [source], name="loss.Identity")
    (output,) = node.outputs
    output.name, output.type, output.shape = "loss", source.type, source.shape
    model.graph.append(node)
    model.graph.outputs.append(output)


def _check(model: ir.Model) -> None:
    try:
        onnx.checker.check_model(serialize(model))
    except onnx.checker.ValidationError as error:
        raise GradientError(
            f"the model with gradients is not valid: {str(error).strip().splitlines()[0]}"
        ) from error
