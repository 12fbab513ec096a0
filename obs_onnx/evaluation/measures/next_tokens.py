"""Which input holds the token ids that class scores of a language model are about, and whether they foretell
them.

An output (batch, tokens, vocabulary) goes with an input of token ids (batch, tokens) where the ids count
entries of its vocabulary. It foretells the next token where what comes later changes nothing before it: the
last ids are changed, and the scores at all other places stay. Then text is its own label, and perplexity of
the text can be told. Scores of an encoder (masked words) do not stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.data.feeds import Array, Feed, is_float
from obs_onnx.data.language.filled_inputs import is_token_ids
from obs_onnx.passes.errors import InputError
from obs_onnx.passes.graph import node_facts
from obs_onnx.runtimes import Session

__all__ = ["NextTokens", "find_next_tokens"]

_SAME = 1e-3  # of the largest score, that one may change by rounding
_SHARE = 0.9  # of the rows of an embedding, that a vocabulary has at least


@dataclass(frozen=True)
class NextTokens:
    """Token ids of a language model.

    Attributes:
        ids: the input that holds them.
        output: the class scores (batch, tokens, vocabulary).
        foretold: the scores at a place are about the next token.
    """

    ids: str
    output: str
    foretold: bool

    def labels(self, feed: Feed) -> NDArray[np.int64] | None:
        """(batch * tokens,) the next token of each place, -1 where there is none or a mask leaves it out.

        None where the scores do not foretell it.
        """
        if not self.foretold:
            return None
        ids = feed[self.ids]
        found = np.full(ids.shape, -1, np.int64)
        found[:, :-1] = ids[:, 1:]
        for name, mask in feed.items():
            if "mask" in name.lower() and mask.shape == ids.shape and mask.dtype.kind in "iub":
                found[:, :-1][(mask[:, 1:] == 0) | (mask[:, :-1] == 0)] = -1
        return found.reshape(-1)


def find_next_tokens(
    session: Session, feed: Feed, outputs: Mapping[str, Array], model: ir.Model | None = None
) -> NextTokens | None:
    """The token ids that an output of a model is about; None for a model that is none of language.

    Args:
        session: of the model; it runs once more where an output may be about tokens.
        feed: of data.
        outputs: what it gives for the feed.
        model: to look up the size of its vocabulary in, where it can be looked at.
    """
    for spec in session.inputs:
        ids = feed.get(spec.name)
        if ids is None or not is_token_ids(spec) or ids.ndim != 2 or not ids.size:
            continue
        words = max(int(ids.max()) + 1, int(_SHARE * _embedded(model, spec.name)))
        for name, y in outputs.items():
            if is_float(y.dtype) and y.ndim == 3 and y.shape[:2] == ids.shape and y.shape[2] >= words:
                return NextTokens(spec.name, name, _foretells(session, feed, spec.name, name, y))
    return None


def _embedded(model: ir.Model | None, name: str) -> int:
    """Rows of the table that token ids are looked up in; 0 where none is seen."""
    if model is None:
        return 0
    value = next((one for one in model.graph.inputs if one.name == name), None)
    for node, slot in () if value is None else value.uses():
        table = node_facts.constant(node, 0) if node.op_type == "Gather" and slot == 1 else None
        if table is not None and len(table.shape):
            return table.shape.numpy()[0]
    return 0


def _foretells(session: Session, feed: Feed, ids: str, output: str, y: Array) -> bool:
    """Whether scores at no place but the last depend on the last token."""
    given = feed[ids]
    if given.shape[1] < 2 or not (given != given.flat[0]).any():
        return False
    other = given.copy()
    other[:, -1] = np.where(given[:, -1] == given.max(), given.min(), given.max())
    try:
        found = session.run({**feed, ids: other}, [output])[output]
    except InputError:
        return False
    if found.shape != y.shape:
        return False
    largest = float(np.abs(y[:, -1]).max())
    change = max(_distance(a[:-1], b[:-1]) for a, b in zip(y, found, strict=True))
    return change <= _SAME * largest < np.inf and _distance(y[:, -1], found[:, -1]) > change


def _distance(a: Array, b: Array) -> float:
    with np.errstate(invalid="ignore"):
        return float(np.nan_to_num(np.abs(a.astype(np.float32) - b.astype(np.float32))).max(initial=0.0))
