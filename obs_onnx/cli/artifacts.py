"""``obs-onnx artifacts``."""

from __future__ import annotations

from collections.abc import Sequence

import click

from obs_onnx.cli.options import JSON, distinct, guarded

__all__ = ["artifacts"]


@click.command()
@click.argument("model")
@click.option("-o", "--output", required=True, metavar="DIR", help="Folder to make.")
@click.option(
    "--loss",
    default="cross_entropy",
    show_default=True,
    metavar="NAME",
    help="cross_entropy, mse, kl, logits, relative_error, sum_of_squares, or a scalar of MODEL.",
)
@click.option("--optimizer", type=click.Choice(["adamw", "sgd"]), default="adamw", show_default=True)
@click.option(
    "--requires-grad",
    multiple=True,
    metavar="PATTERN",
    help="Train matching weights only; repeatable.",
)
@click.option("--keep-zeros", is_flag=True, help="Zeros of a pruned model stay zeros on the device.")
@click.option("--custom-domain", multiple=True, metavar="DOMAIN", help="Domain of custom operators.")
@JSON
@guarded
def artifacts(
    model: str,
    output: str,
    loss: str,
    optimizer: str,
    requires_grad: Sequence[str],
    keep_zeros: bool,
    custom_domain: Sequence[str],
    json_path: str | None,
) -> None:
    """Write what onnxruntime needs to train MODEL on a device.

    DIR gets training_model.onnx, eval_model.onnx, optimizer_model.onnx and checkpoint. Needs
    obs-onnx[training].
    """
    from obs_onnx.entrypoints.artifacts import artifacts as run
    from obs_onnx.report import print_evaluation, write_json

    distinct(model, output, json_path)
    result = run(
        model,
        output,
        loss=loss,
        optimizer=optimizer,
        requires_grad=requires_grad,
        keep_zeros=keep_zeros,
        custom_domains=custom_domain,
    )
    print_evaluation(
        {
            "model": output,
            "files": ", ".join(result.files),
            "bytes": result.bytes,
            "inputs": ", ".join(result.inputs),
            "trained": len(result.trained),
            "zeros": result.masked,
            "gradient_error": result.gradient_error,
        }
    )
    if json_path:
        write_json(json_path, result.to_json())
