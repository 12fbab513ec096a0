"""The options of :func:`obs_onnx.entrypoints.quantize.quantize`."""

from __future__ import annotations

import os
from dataclasses import dataclass

from obs_onnx.data.options import DataOptions
from obs_onnx.evaluation.measures.options import MeasureOptions
from obs_onnx.latency.options import LatencyOptions
from obs_onnx.option import Options, option, output_file
from obs_onnx.passes.errors import OptionError, named
from obs_onnx.pruning.options import Damped, EffortOptions, Evaluated, MeasuredAt, SearchOptions, Shown
from obs_onnx.quantization.options import INT8, KINDS, BlockOptions, QuantizationOptions, check_format
from obs_onnx.runtimes.options import RuntimeOptions

__all__ = ["QuantizeOptions"]


@dataclass(frozen=True)
class Places(Options, title="Output"):
    """Where the result goes."""

    output: str | os.PathLike[str] | None = output_file("<stem>.<kind>.onnx")


@dataclass(frozen=True, kw_only=True)
class QuantizeOptions(
    Places,
    DataOptions,
    Evaluated,
    MeasuredAt,
    BlockOptions,
    Damped,
    EffortOptions,
    MeasureOptions,
    RuntimeOptions,
    LatencyOptions,
    Shown,
    title="Choice",
):
    """Everything that quantization can be told.

    Raises:
        OptionError: a value that its option does not allow, or libraries of custom operators with int8.
    """

    to: str = option(
        INT8,
        help="Weights and activations of 8 bits, or weights alone of 8 or of 4.",
        choices=KINDS,
        common=5,
    )

    @property
    def search(self) -> SearchOptions:
        """What of this the opening of a model and its data asks for."""
        return self.part(SearchOptions)

    @property
    def quantization(self) -> QuantizationOptions:
        """What the model is quantized to."""
        return QuantizationOptions(
            quantize=self.to, block_size=self.block_size, quantize_format=self.quantize_format
        )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_format(self.quantize_format, self.to)
        if self.to == INT8 and self.custom_ops:
            raise OptionError(
                f"{named('to', INT8)} knows no libraries of custom operators: leave out {named('custom_ops')}"
            )
