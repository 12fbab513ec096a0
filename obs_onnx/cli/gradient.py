"""``obs-onnx gradient``."""

from __future__ import annotations

from collections.abc import Sequence

import click

from obs_onnx.cli.options import guarded

__all__ = ["gradient"]


@click.command()
@click.argument("model")
@click.option("-o", "--output", required=True, metavar="OUT", help="File to write.")
@click.option(
    "--loss",
    default="cross_entropy",
    show_default=True,
    metavar="NAME",
    help="cross_entropy, mse, sum_of_squares, kl, relative_error, or a scalar output of MODEL.",
)
@click.option("--hvp", is_flag=True, help="Products with the Hessian, too.")
@click.option("--custom-domain", multiple=True, metavar="DOMAIN", help="Domain of custom operators.")
@guarded
def gradient(model: str, output: str, loss: str, hvp: bool, custom_domain: Sequence[str]) -> None:
    """Write MODEL with a loss and its gradients as further outputs, made of standard operators.

    Outputs are loss and INITIALIZER.grad; with --hvp inputs INITIALIZER.v and outputs INITIALIZER.hvp come
    with them. Labels (or targets) come in as labels, the logits of kl as teacher.
    """
    from obs_onnx.entrypoints.gradient import gradient as run

    run(model, output, loss=loss, hvp=hvp, custom_domains=custom_domain)
