"""The options of :func:`obs_onnx.entrypoints.prune.prune`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from obs_onnx.io.paths import (
    config_destination,
    configs_beside,
    keep_path,
    quantized_path,
    side_path,
    tokenizer_beside,
    vocabulary_path,
)
from obs_onnx.io.streams import is_stream
from obs_onnx.option import Options, option, options_of, output_file
from obs_onnx.passes.errors import OptionError, named
from obs_onnx.pruning.options import RunOptions
from obs_onnx.quantization.options import QuantizationOptions

__all__ = ["PruneOptions", "Written"]

_ABOUT = {"channels": "channels", "weights": "single weights"}


@dataclass(frozen=True)
class Written(Options, title="Output"):
    """Where the result goes."""

    output: str | os.PathLike[str] | None = output_file("<stem>.pruned.onnx")


@dataclass(frozen=True, kw_only=True)
class PruneOptions(Written, RunOptions, QuantizationOptions, title="Choice"):
    """Everything that pruning can be told.

    Raises:
        OptionError: a value that its option does not allow, or an option of another mode.
    """

    mode: str = option(
        "channels",
        help="Whole channels, heads and hidden units are removed, or single weights become zero.",
        choices=tuple(_ABOUT),
        common=5,
    )
    targets: Mapping[str, float | str] | Sequence[str] | None = option(
        None,
        help="latency, macs, params, size, ram, error, drop or sparsity; all must hold; docs/targets.md.",
        otherwise="an output error of 5%, where no pattern fixes the sparsity",
        metavar="KEY=VALUE",
        flags="--target",
        common=6,
    )
    vocabulary: str | None = option(
        None,
        help="Tokens of a language model that stay: a file of ids, one a line, or seen, those of the data.",
        more="Ids of inputs and outputs change; new ids stand in <output stem>.vocabulary.json. See "
        "docs/transformers.md.",
        otherwise="all tokens stay",
        metavar="FILE|seen",
        form="data",
    )
    rounds: int = option(
        1, help="Iterations; each one measures again around the model pruned so far.", least=1
    )
    dry_run: bool = option(
        False, help="Check everything, print the expected cost, write nothing.", title="Output"
    )

    def results(self, model: Path | None) -> Mapping[str, Sequence[Path]]:
        """The model, which channels stayed, and the model in integers."""
        if self.output is None or is_stream(self.output):
            return {}
        destination = Path(self.output)
        found = [destination, side_path(destination)]
        if self.vocabulary is not None:
            tokenizer = tokenizer_beside(self.tokenizer, self.calib, model)
            found += [vocabulary_path(destination)]
            found += [] if tokenizer is None else [config_destination(tokenizer, destination)]
        found += [keep_path(destination)] if self.mode == "channels" else []
        if (self.change_caches or self.vocabulary is not None) and model is not None:
            found += [config_destination(config, destination) for config in configs_beside(model)]
        if self.quantize is not None:
            quantized = quantized_path(destination, self.quantize)
            found += [quantized, side_path(quantized)]
        return {"output": found}

    def __post_init__(self) -> None:
        super().__post_init__()
        for one in options_of(type(self)):
            if one.mode not in (None, self.mode) and getattr(self, one.name):
                raise OptionError(
                    f"{named(one.name)} is about {_ABOUT[str(one.mode)]}: use {named('mode', str(one.mode))}"
                )
        if self.vocabulary is not None and self.finetune_data is not None:
            raise OptionError(
                f"{named('finetune_data')} counts all tokens: leave out {named('vocabulary')}, or train on "
                f"{named('calib')}"
            )
        if self.quantize is not None and self.custom_ops:
            raise OptionError(
                f"{named('quantize', self.quantize)} knows no libraries of custom operators: "
                f"leave out {named('quantize')}"
            )
