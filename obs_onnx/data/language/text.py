"""Text files as windows of token ids, by the tokenizer of the model (``tokenizer.json``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from obs_onnx.data.feeds import TensorSpec
from obs_onnx.data.options import WINDOW, TextReading
from obs_onnx.passes.errors import DataError, MissingRuntimeError, OptionError, boundary, named

__all__ = ["decoder", "is_text", "text_files", "windows"]

SUFFIXES = (".txt", ".text", ".md")
_BESIDE = "tokenizer.json"


def is_text(path: Path) -> bool:
    """Whether a file is text, by its name."""
    return path.suffix.lower() in SUFFIXES


def text_files(path: Path) -> list[Path]:
    """The files of text that a path is, or that a folder holds."""
    if path.is_dir():
        return sorted(one for one in path.iterdir() if one.is_file() and is_text(one))
    return [path] if is_text(path) else []


def windows(files: Sequence[Path], spec: TensorSpec, reading: TextReading) -> NDArray[np.int64]:
    """(windows, tokens) ids of the text, one file after the other; what fills no window is left out.

    What the tokenizer puts around every text (a first token, separators) stands around each window.

    Args:
        files: of text in UTF-8.
        spec: the model's input of token ids.
        reading: see there.

    Raises:
        DataError: a file that cannot be read, or too little text for one window.
        OptionError: no tokenizer, or a length that the model does not take.
        MissingRuntimeError: without the package tokenizers.
    """
    length = _length(spec, reading.window)
    tokenizer = _Tokenizer(_tokenizer_file(files[0], reading.tokenizer))
    before, behind = tokenizer.around
    step = length - len(before) - len(behind)
    if step < 1:
        raise OptionError(
            f"{named('window')} {length}: the tokenizer alone adds {length - step} tokens to it"
        )
    texts = [tokenizer.ids(_read(path)) for path in files]
    tokens = np.concatenate([np.zeros(0, np.int64), *texts])
    count = len(tokens) // step
    if count == 0:
        raise DataError(
            f"{files[0]}: holds {len(tokens)} tokens, less than the {step} of one window: give more text, or "
            f"a smaller {named('window')}"
        )
    rows = tokens[: count * step].reshape(count, step)
    return np.concatenate([np.tile(before, (count, 1)), rows, np.tile(behind, (count, 1))], axis=1)


def decoder(path: Path | None) -> Callable[[NDArray[np.int64]], str] | None:
    """What makes text of token ids; None without a tokenizer, or without the package for it."""
    if path is None or find_spec("tokenizers") is None:
        return None
    return _Tokenizer(path).text


def _length(spec: TensorSpec, asked: int | None) -> int:
    fixed = spec.shape[1] if spec.shape is not None and len(spec.shape) == 2 else None
    if not isinstance(fixed, int):
        return asked or WINDOW
    if asked not in (None, fixed):
        raise OptionError(f"{named('window')} {asked}: the model takes {fixed} tokens in {spec.name!r}")
    return fixed


def _tokenizer_file(text: Path, given: str | Path | None) -> Path:
    path = text.parent / _BESIDE if given is None else Path(given)
    if path.is_dir():
        path = path / _BESIDE
    if not path.is_file():
        what = "no tokenizer for the text" if given is None else f"{path}: no such tokenizer"
        raise OptionError(f"{what}: give the tokenizer.json of the model with {named('tokenizer')}")
    return path


def _read(path: Path) -> str:
    with boundary(f"{path}: cannot be read as text in UTF-8", DataError):
        return path.read_text(encoding="utf-8-sig")


class _Tokenizer:
    """The tokenizer of a file.

    Raises:
        DataError: the file is none.
        MissingRuntimeError: without the package tokenizers.
    """

    def __init__(self, path: Path) -> None:
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise MissingRuntimeError(
                "text as data needs the package tokenizers: pip install 'obs-onnx[text]'"
            ) from error
        with boundary(f"{path}: is no tokenizer.json", DataError, foreign=True):
            self._inner = Tokenizer.from_file(str(path))
        self._inner.no_truncation()
        self._inner.no_padding()

    def ids(self, text: str, special: bool = False) -> NDArray[np.int64]:
        """(tokens,) ids of a text."""
        return np.array(self._inner.encode(text, add_special_tokens=special).ids, np.int64)

    def text(self, ids: NDArray[np.int64]) -> str:
        """Text of (tokens,) ids, without what the tokenizer puts around it."""
        decoded: str = self._inner.decode(ids.tolist())
        return decoded

    @property
    def around(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Ids that are put before and behind every text."""
        plain, whole = self.ids("a"), self.ids("a", special=True)
        extra = len(whole) - len(plain)
        for first in range(extra + 1):
            behind = first + len(plain)
            if np.array_equal(whole[first:behind], plain):
                return whole[:first], whole[behind:]
        return plain[:0], plain[:0]
