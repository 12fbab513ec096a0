"""The options of :func:`obs_onnx.entrypoints.gradient.gradient`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from obs_onnx.option import Options, option
from obs_onnx.runtimes.options import CustomDomains

__all__ = ["GradientOptions"]


@dataclass(frozen=True)
class Written(Options, title="Output"):
    """Where the result goes."""

    output: str | os.PathLike[str] | None = option(
        None, help="File to write.", otherwise="none", metavar="OUT", form="new model", flags="-o --output"
    )


@dataclass(frozen=True, kw_only=True)
class GradientOptions(Written, CustomDomains, title="Loss"):
    """Everything that a gradient can be told."""

    loss: str = option(
        "cross_entropy",
        help="cross_entropy, mse, sum_of_squares, kl, relative_error, or a scalar output of MODEL.",
        more="sum_of_squares is half the squared norm of the first output.",
        metavar="NAME",
    )
    hvp: bool = option(False, help="Products with the Hessian, too.")
    wrt: Sequence[str] | None = option(
        None,
        help="Names of initializers.",
        otherwise="all of floating-point type that influence the loss, scalars left out",
        flags="",
    )
