"""The options of :func:`obs_onnx.entrypoints.artifacts.artifacts`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from obs_onnx.data.options import Seeded
from obs_onnx.option import Options, about, option
from obs_onnx.runtimes.options import CustomDomains

__all__ = ["ArtifactsOptions"]


@dataclass(frozen=True)
class Folder(Options, title="Output"):
    """Where the result goes."""

    output: str | os.PathLike[str] = field(
        metadata=about(
            "Folder to make.",
            more="It holds all files in the end, or is not there.",
            metavar="DIR",
            form="new folder",
            flags="-o --output",
        )
    )


@dataclass(frozen=True, kw_only=True)
class ArtifactsOptions(Folder, CustomDomains, Seeded, title="Training"):
    """Everything that the artifacts of a model can be told."""

    loss: str = option(
        "cross_entropy",
        help="cross_entropy, mse, kl, logits, relative_error, sum_of_squares, or a scalar of MODEL.",
        more="Of the first output: of the class scores before a softmax at its end.",
        metavar="NAME",
    )
    optimizer: str = option(
        "adamw",
        help="Rule of an update.",
        more="adamw is without weight decay, sgd without momentum.",
        choices=("adamw", "sgd"),
    )
    requires_grad: Sequence[str] = option(
        (),
        help="Train matching weights only.",
        otherwise="weights and biases of layers, and scales and shifts of normalizations",
        metavar="PATTERN",
    )
    keep_zeros: bool = option(
        False,
        help="Zeros of a pruned model stay zeros on the device.",
        more="The graph multiplies them by a mask; without it the first step fills them.",
    )
