"""Options about where models run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from obs_onnx.option import Options, option
from obs_onnx.runtimes.registry import DEFAULT, forms

__all__ = ["CustomDomains", "OperatorOptions", "RuntimeOptions"]


@dataclass(frozen=True, kw_only=True)
class CustomDomains(Options, title="Runtime"):
    """What a model may hold."""

    custom_domains: Sequence[str] = option(
        (),
        help="Domain of custom operators.",
        metavar="DOMAIN",
        flags="--custom-domain",
    )


@dataclass(frozen=True, kw_only=True)
class OperatorOptions(CustomDomains, title="Runtime"):
    """How operators run."""

    threads: int | None = option(
        None,
        help="Threads of one operator.",
        otherwise="the physical cores this process may use",
        least=1,
        most=4096,
        metavar="N",
    )
    custom_ops: Sequence[str] = option(
        (), help="Library with custom operators.", metavar="LIBRARY", form="libraries"
    )


@dataclass(frozen=True, kw_only=True)
class RuntimeOptions(OperatorOptions, title="Runtime"):
    """Where models run."""

    runtime: str = option(
        DEFAULT,
        help=f"{forms()}, with options; docs/runtimes.md.",
        metavar="SPEC",
        form="runtime",
        common=11,
    )
