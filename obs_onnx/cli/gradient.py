"""``obs-onnx gradient``."""

from __future__ import annotations

from typing import Any

import click

import obs_onnx
from obs_onnx.cli.options import OUT, QUIET, Command, options_from
from obs_onnx.entrypoints.options.gradient import GradientOptions

__all__ = ["gradient"]


@click.command(cls=Command)
@click.argument("model")
@OUT
@options_from(GradientOptions)
@QUIET
def gradient(model: str, silent: bool, **options: Any) -> None:
    """Write MODEL with a loss and its gradients as further outputs, made of standard operators.

    OUT is the same as --output.

    Outputs are loss and INITIALIZER.grad; with --hvp inputs INITIALIZER.v and outputs INITIALIZER.hvp come
    with them. Labels (or targets) come in as labels, the logits of kl as teacher.
    """
    if options["output"] is None:
        raise click.MissingParameter(param_hint="'-o' / '--output'", param_type="option")
    obs_onnx.gradient(model, **options)
