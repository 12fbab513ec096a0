"""A language model with a part of its vocabulary: what prune() starts from where that is asked for."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from obs_onnx.data.feeds import TensorSpec
from obs_onnx.data.language.filled_inputs import is_token_ids
from obs_onnx.data.language.tokenizer_file import fewer_tokens, needed_tokens, unknown_token
from obs_onnx.data.language.tokens import Tokens, listed_tokens, seen_tokens
from obs_onnx.data.sources import Source
from obs_onnx.io.paths import config_destination, vocabulary_path
from obs_onnx.passes.canonical.own_constants import prepare
from obs_onnx.passes.channels.vocabulary import Vocabulary, cut_vocabulary, find_vocabulary
from obs_onnx.passes.errors import DataError, VerificationError, boundary, named
from obs_onnx.passes.graph.parameters import float_tensors
from obs_onnx.runtimes.base import Runtime
from obs_onnx.runtimes.bfloat16 import runnable
from obs_onnx.runtimes.sessions.partial_run import Values, open_whole, run_feed
from obs_onnx.verification.distance import norm, relative, tolerance_of

__all__ = [
    "SEEN",
    "TOKEN_ID",
    "FewerTokens",
    "Reduced",
    "named_tokens",
    "read_config",
    "reduced",
]

TOKEN_ID = "token_id"  # how names in configurations end that hold the id of a token, or several
SEEN = "seen"  # the tokens of the calibration data
_SAMPLES = 4  # that scores are compared on

Read = Callable[[Sequence[TensorSpec]], Source]


@dataclass(frozen=True)
class FewerTokens:
    """The tokens that stay, and where they stood.

    Attributes:
        tokens: that stay.
        outputs: with a score for each token.
        tokenizer: the file that was read, and its new contents; None where there is none or it cannot be.
        notes: for the report.
    """

    tokens: Tokens
    outputs: tuple[str, ...]
    tokenizer: tuple[Path, Mapping[str, Any]] | None = None
    notes: tuple[str, ...] = ()

    @property
    def record(self) -> dict[str, object]:
        """For ``keep.json``."""
        return {
            "inputs": list(self.tokens.ids),
            "outputs": list(self.outputs),
            "size": self.tokens.size,
            "kept": self.tokens.kept.tolist(),
        }

    def files(self, destination: Path) -> dict[Path, object]:
        """What is written beside a result: new ids by the old ones, and a new tokenizer."""
        ids = {str(old): new for old, new in self.tokens.places.items()}
        about = {"schema": 1, **{name: self.record[name] for name in ("inputs", "outputs", "size")}}
        found: dict[Path, object] = {vocabulary_path(destination): {**about, "ids": ids}}
        if self.tokenizer is not None:
            path, contents = self.tokenizer
            found[config_destination(path, destination)] = contents
        return found


@dataclass(frozen=True)
class Reduced:
    """A model with fewer tokens.

    Attributes:
        model: that counts the tokens that stay.
        fewer: these.
    """

    model: ir.Model
    fewer: FewerTokens


def read_config(path: Path) -> object:
    """The contents of a configuration.

    Raises:
        DataError: it is no JSON.
    """
    with boundary(f"{path} cannot be read", DataError):
        found: object = json.loads(path.read_text(encoding="utf-8"))
        return found


def named_tokens(config: object) -> set[int]:
    """Ids that a configuration names: of the end, of padding."""
    found: set[int] = set()
    for name, value in config.items() if isinstance(config, dict) else ():
        ids = value if isinstance(value, list) else [value]
        found |= {one for one in ids if isinstance(one, int)} if name.endswith(TOKEN_ID) else set()
        found |= named_tokens(value)
    return found


def reduced(
    model: ir.Model,
    runtime: Runtime,
    asked: str,
    read: Iterable[Read],
    tokenizer: Path | None,
    named_ones: Iterable[int] = (),
) -> Reduced:
    """Cut the vocabulary of a model, and compare the scores of the tokens that stay with what they were.

    Args:
        model: as it came in; it is not changed.
        runtime: where both run.
        asked: a file of ids, or :data:`SEEN`.
        read: the data for the inputs of ``model``, the calibration data first.
        tokenizer: a tokenizer.json.
        named_ones: ids that stay in any case, if the model has them.

    Raises:
        ModelError: the vocabulary cannot be cut. DataError: a file or the data does not fit.
        VerificationError: scores differ.
    """
    session = open_whole(runtime, runnable(runtime, model)[0])
    ids = [spec.name for spec in session.inputs if is_token_ids(spec) and spec.dtype.kind in "iu"]
    there = find_vocabulary(prepare(model, canonical=False), ids)
    sources = [one(session.inputs) for one in read]
    if asked == SEEN:
        wanted = {one for source in sources for one in seen_tokens(source, there.ids)}
    else:
        wanted = listed_tokens(Path(asked))
    if beyond := [one for one in sorted(wanted) if not 0 <= one < there.size]:
        raise DataError(f"{named('vocabulary')}: the model has {there.size} tokens, none is {beyond[0]}")
    file = None if tokenizer is None else _read(tokenizer)
    every = {*wanted, *named_ones}
    every = every if file is None else needed_tokens(file, every)
    kept = np.array(sorted(one for one in every if 0 <= one < there.size), np.int64)
    unknown = None if file is None else unknown_token(file)
    tokens = Tokens(there.ids, there.size, kept, unknown if unknown in set(kept.tolist()) else None)
    small = cut_vocabulary(model, ids, kept)
    feed = tokens.renumbered(next(iter(sources[0].rebatch(_SAMPLES))), sources[0].where)
    old = {name: kept[feed[name]].astype(feed[name].dtype) for name in there.ids}
    expected = session.run({**feed, **old})
    found = run_feed(open_whole(runtime, runnable(runtime, small)[0]), feed)
    off = _compared(found, expected, there, tokens)
    made = None if file is None else fewer_tokens(file, tokens.places)
    notes = _notes(model, small, there, tokens, len(kept) - len(wanted), off)
    if isinstance(made, str):
        notes.append(
            f"{tokenizer} was not written anew: {made}; the new ids stand in <output stem>.vocabulary.json"
        )
    new = None if tokenizer is None or made is None or isinstance(made, str) else (tokenizer, made)
    return Reduced(small, FewerTokens(tokens, tuple(there.scores), new, tuple(notes)))


def _read(path: Path) -> Mapping[str, Any]:
    found = read_config(path)
    if not isinstance(found, Mapping) or not isinstance(found.get("model"), Mapping):
        raise DataError(f"{path}: is no tokenizer.json")
    return found


def _compared(found: Values, expected: Values, there: Vocabulary, tokens: Tokens) -> float:
    """The largest relative difference of an output; of scores, those of tokens that stay.

    Raises:
        VerificationError: it is more than rounding makes.
    """
    worst = 0.0
    for name, y in expected.items():
        part = y[..., tokens.kept[tokens.kept < y.shape[-1]]] if name in there.scores else y
        off = relative(found[name], part, norm(part))
        if not off <= tolerance_of(part):
            by = f" by {off:.1e}" if np.isfinite(off) else ""
            raise VerificationError(
                f"with fewer tokens output {name} differs{by} from that of the model as it came in"
            )
        worst = max(worst, off)
    return worst


def _notes(
    model: ir.Model, small: ir.Model, there: Vocabulary, tokens: Tokens, more: int, off: float
) -> list[str]:
    before, after = (sum(one.size for one in float_tensors(each)) for each in (model, small))
    needed = f" ({more} of them because the tokenizer or a configuration needs them)" if more > 0 else ""
    outputs = f" and the scores of {', '.join(there.scores)}" if there.scores else ""
    return [
        f"vocabulary: {len(tokens.kept)} of {there.size} tokens stay{needed}, {before:,} parameters become "
        f"{after:,}; what follows is about the model with these",
        f"the interface changes: ids of {', '.join(there.ids)}{outputs} count the tokens that stay "
        "(<output stem>.vocabulary.json)",
        "before anything else went, outputs for these tokens equal those of the model as it came in: "
        f"relative difference {off:.1e}",
    ]
