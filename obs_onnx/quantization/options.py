"""Options about integers."""

from __future__ import annotations

from dataclasses import dataclass

from obs_onnx.option import Options, option
from obs_onnx.passes.errors import OptionError, named

__all__ = [
    "FLOAT",
    "FORMATS",
    "INT4_WEIGHTS",
    "INT8",
    "INT8_WEIGHTS",
    "KINDS",
    "QDQ",
    "QOPERATOR",
    "QUANTIZED",
    "BlockOptions",
    "QuantizationOptions",
    "check_format",
]

INT8, INT8_WEIGHTS, INT4_WEIGHTS = "int8", "int8-weights", "int4-weights"
KINDS = (INT8, INT8_WEIGHTS, INT4_WEIGHTS)

QDQ, QOPERATOR = "qdq", "qoperator"
FORMATS = (QDQ, QOPERATOR)
FLOAT, QUANTIZED = "float", "quantized"

_LEAST_BLOCK = 16  # of MatMulNBits


@dataclass(frozen=True, kw_only=True)
class BlockOptions(Options, title="Choice"):
    """How weights share scales.

    Raises:
        OptionError: a block size that MatMulNBits does not have.
    """

    block_size: int = option(
        32, help=f"Inputs that share a scale in {INT4_WEIGHTS}: a power of two.", least=_LEAST_BLOCK
    )

    quantize_format: str = option(
        QDQ,
        help=f"How {INT8} is written: pairs of (De)QuantizeLinear, or operators on integers (QLinear*).",
        choices=FORMATS,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.block_size & (self.block_size - 1):
            raise OptionError(f"{named('block_size')} {self.block_size} is no power of two, as 16, 32 or 64")


@dataclass(frozen=True, kw_only=True)
class QuantizationOptions(BlockOptions, title="Choice"):
    """What a model is quantized to.

    Raises:
        OptionError: a format of other integers than those of 8 bits.
    """

    quantize: str | None = option(
        None,
        help="Also write <output stem>.<it>.onnx, and compare the four of dense, pruned, float and integer.",
        more="Weights and activations of 8 bits, or weights alone; docs/quantization.md.",
        choices=KINDS,
        common=9,
    )

    targets_on: str = option(
        FLOAT,
        help="Which model size, latency, error and drop hold for: the float one, or the one in integers.",
        more="All are relative to the dense float model; up to three rounds of pruning find what holds.",
        choices=(FLOAT, QUANTIZED),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_format(self.quantize_format, self.quantize)
        if self.targets_on == QUANTIZED and self.quantize is None:
            raise OptionError(
                f"{named('targets_on', QUANTIZED)} needs {named('quantize')}: say what to quantize to"
            )


def check_format(form: str, kind: str | None) -> None:
    """Refuse a format of what has no other.

    Raises:
        OptionError: see there.
    """
    if form != QDQ and kind != INT8:
        raise OptionError(
            f"{named('quantize_format', form)} says how {INT8} is written, and {kind or 'no quantization'} "
            "was asked for: leave it out"
        )
