"""Options about how models are timed."""

from __future__ import annotations

from dataclasses import dataclass

from obs_onnx.option import Options, option

__all__ = ["CostOptions", "LatencyOptions", "TimedBatch"]


@dataclass(frozen=True, kw_only=True)
class TimedBatch(Options, title="Measuring"):
    """What is timed."""

    batch: int = option(1, help="Samples per timed run.", least=1, metavar="N")


@dataclass(frozen=True, kw_only=True)
class CostOptions(Options, title="Measuring"):
    """What tells what a model costs."""

    cost: str | None = option(
        None,
        help="command:WORDS that prints the costs of the model {model} as JSON; docs/targets.md.",
        more="An object with some of latency_ms, ram_bytes and flash_bytes, which targets and reports take.",
        otherwise="measured and counted here",
        metavar="SPEC",
        form="runtime",
    )


@dataclass(frozen=True, kw_only=True)
class LatencyOptions(TimedBatch, title="Measuring"):
    """Whether and how latency is measured."""

    latency: bool = option(True, help="Measure the latency before and after.")
