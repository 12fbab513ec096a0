"""``obs-onnx inspect``."""

from __future__ import annotations

from collections.abc import Sequence

import click

from obs_onnx.cli.options import JSON, distinct, guarded

__all__ = ["inspect"]


@click.command()
@click.argument("model")
@JSON
@click.option("--custom-domain", multiple=True, metavar="DOMAIN", help="Domain of custom operators.")
@guarded
def inspect(model: str, json_path: str | None, custom_domain: Sequence[str]) -> None:
    """Show the layers and channels of MODEL, and what is left alone and why."""
    from obs_onnx.entrypoints.inspect import inspect as run
    from obs_onnx.report import print_inspection, write_json

    distinct(model, json_path)
    result = run(model, custom_domains=custom_domain)
    print_inspection(
        model,
        result.layers,
        result.frozen,
        result.totals,
        groups=result.groups,
        frozen_channels=result.frozen_channels,
    )
    if json_path:
        write_json(json_path, result.to_json())
