"""gradient(): a model that also computes the gradients of a loss, from standard operators only."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path

import onnx
import onnx_ir as ir

from obs_onnx.io.atomic_files import check_writable
from obs_onnx.io.onnx_file import open_model, save_model, serialize
from obs_onnx.passes.autodiff.gradient import Gradient, HessianVectorProduct, weights
from obs_onnx.passes.autodiff.losses import append_loss
from obs_onnx.passes.canonical.canonicalize import plain
from obs_onnx.passes.canonical.modernize import modernize
from obs_onnx.passes.errors import GradientError, OptionError
from obs_onnx.passes.shapes.infer_shapes import InferShapes

__all__ = ["gradient"]


def gradient(
    model: str | os.PathLike[str] | ir.Model | onnx.ModelProto,
    output: str | os.PathLike[str] | None = None,
    *,
    loss: str = "cross_entropy",
    hvp: bool = False,
    wrt: Sequence[str] | None = None,
    custom_domains: Collection[str] = (),
) -> ir.Model:
    """Add a loss and its gradients to a model.

    The result has the extra outputs ``loss`` and ``<initializer>.grad``, with ``hvp`` also an extra input
    ``<initializer>.v`` for each of them and outputs ``<initializer>.hvp``: the product of the loss's Hessian
    with all v together. Labels (or targets) come in as ``labels``, for ``kl`` logits as ``teacher``.

    Functions are inlined and constants become initializers; nothing is folded, so that the initializers are
    those of ``model``, with their names and shapes.

    Args:
        model: a file, or a model in memory (which is not changed). output: file to write. loss: one of
        :data:`obs_onnx.passes.autodiff.losses.LOSSES` (``sum_of_squares`` is half the squared norm of the
            first output), or the name of a scalar of the model.
        hvp: Hessian-vector products, too.
        wrt: names of initializers; by default all of floating-point type that influence the loss, scalars
            left out.
        custom_domains: domains of operators that only the runtime knows.

    Raises:
        ModelError: the model cannot be read, or cannot be differentiated.
        OptionError: ``output`` cannot be written, or is the model itself.
    """
    original, name, path = open_model(model, tuple(custom_domains))
    if output is not None:
        check_writable(output)
        if path is not None and Path(output).resolve() == path.resolve():
            raise OptionError(f"{output} is the model itself: choose another output")
    result = modernize(plain(original), plain)
    InferShapes().call(result)
    scalar = append_loss(result, loss)
    wanted = list(wrt) if wrt is not None else _own(original, weights(result, scalar))
    if not wanted:
        raise GradientError(f"no initializer of {name} influences {scalar!r} by any differentiable way")
    (HessianVectorProduct if hvp else Gradient)(scalar, wanted).call(result)
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
