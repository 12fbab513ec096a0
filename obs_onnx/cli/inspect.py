"""``obs-onnx inspect``."""

from __future__ import annotations

from collections.abc import Sequence

import click

import obs_onnx
from obs_onnx import report
from obs_onnx.cli.options import JSON, Command, options_from
from obs_onnx.data.options import FixedInputs
from obs_onnx.entrypoints.files import check_files
from obs_onnx.pruning.options import ChangingCaches
from obs_onnx.runtimes.options import CustomDomains

__all__ = ["inspect"]


@click.command(cls=Command)
@click.argument("model")
@JSON
@options_from(FixedInputs)
@options_from(CustomDomains)
@options_from(ChangingCaches)
def inspect(
    model: str,
    json_path: str | None,
    custom_domains: Sequence[str],
    fix: Sequence[str],
    change_caches: bool,
) -> None:
    """Show the layers and channels of MODEL, and what is left alone and why."""
    check_files(model, CustomDomains(custom_domains=custom_domains), json_path=json_path)
    result = obs_onnx.inspect(model, custom_domains=custom_domains, fix=fix, change_caches=change_caches)
    report.print_inspection(
        model,
        result.layers,
        result.frozen,
        result.totals,
        groups=result.groups,
        frozen_channels=result.frozen_channels,
    )
    if json_path:
        report.write_json(json_path, result.to_json())
