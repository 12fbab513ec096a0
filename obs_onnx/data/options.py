"""Options about data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from obs_onnx.option import Options, option
from obs_onnx.passes.errors import OptionError, named

__all__ = ["DataOptions", "FixedInputs", "FreeSizes", "LabelName", "Labelled", "Seeded", "TextReading"]

WINDOW = 128  # tokens of a text, where neither the user nor the model says


@dataclass(frozen=True)
class TextReading:
    """How text becomes token ids.

    Attributes:
        tokenizer: a ``tokenizer.json``; None for the one beside the text.
        window: tokens of a sample; None for what the model fixes, or :data:`WINDOW`.
    """

    tokenizer: str | Path | None = None
    window: int | None = None


@dataclass(frozen=True, kw_only=True)
class Seeded(Options, title="Data"):
    """Where something is random."""

    seed: int = option(0, help="Of everything random.", least=0)


@dataclass(frozen=True, kw_only=True)
class FixedInputs(Options, title="Data"):
    """What is set for good."""

    fix: Mapping[str, object] | Sequence[str] = option(
        (),
        help="Set an input for good: a number, a list in brackets, or a .npy file.",
        more="The input is gone, and what follows from it alone is computed: which branch of an If is taken.",
        metavar="NAME=VALUE",
    )


@dataclass(frozen=True, kw_only=True)
class FreeSizes(Options, title="Data"):
    """How large what is free is taken to be.

    Raises:
        OptionError: a size that is none.
    """

    sizes: Mapping[str, int] | None = option(
        None,
        help="Length of a free axis of the inputs, by its name.",
        otherwise="one where something is counted, 16 (of images 32) where it is run",
        metavar="NAME=N",
        flags="--size",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, size in (self.sizes or {}).items():
            if size < 1 or size != int(size):
                raise OptionError(f"{named('sizes')} {name}={size:g}: give a whole number of at least 1")

    @property
    def lengths(self) -> dict[str, int]:
        """The sizes that are given."""
        return {name: int(size) for name, size in (self.sizes or {}).items()}


@dataclass(frozen=True, kw_only=True)
class LabelName(Options, title="Data"):
    """What is known of data."""

    labels: str | None = option(
        None,
        help="Name of the labels in the data.",
        otherwise="labels, if there are any",
        metavar="KEY",
        common=3,
    )
    preprocess: object = option(
        None,
        help="How pixels of images become numbers: imagenet, 0..1, -1..1, 0..255 or a JSON file.",
        more="In Python a dict, too. See docs/data.md.",
        otherwise="preprocess.json in their folder",
        metavar="NAME|FILE",
        form="data",
    )
    tokenizer: str | None = option(
        None,
        help="tokenizer.json that makes token ids of data that is text.",
        more="Needs the package tokenizers: pip install 'obs-onnx[text]'.",
        otherwise="tokenizer.json beside the text",
        metavar="FILE",
        form="data",
    )
    window: int | None = option(
        None,
        help="Tokens of a sample of text.",
        otherwise=f"what the model fixes, else {WINDOW}",
        least=1,
        metavar="N",
    )

    @property
    def text(self) -> TextReading:
        """How text becomes token ids."""
        return TextReading(self.tokenizer, self.window)


@dataclass(frozen=True, kw_only=True)
class Labelled(Seeded, LabelName, title="Data"):
    """Data with labels, of which a part may be drawn."""


@dataclass(frozen=True, kw_only=True)
class DataOptions(Labelled, FixedInputs, title="Data"):
    """What is measured on."""

    calib: object = option(
        None,
        help="Calibration data.",
        more="See docs/data.md for the kinds; one sample of eight is held out to measure errors.",
        otherwise="<stem>.calib.npz beside the model",
        metavar="SRC",
        form="data",
        common=2,
    )
