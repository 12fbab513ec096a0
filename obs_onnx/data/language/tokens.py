"""Some of the tokens of a language model: read from a file or seen in data, and data in terms of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from obs_onnx.data.feeds import Feed
from obs_onnx.data.sources import Batch, Source, WrappedSource
from obs_onnx.passes.errors import DataError, boundary, named

__all__ = ["TokenSource", "Tokens", "listed_tokens", "seen_tokens"]


@dataclass(frozen=True, eq=False)
class Tokens:
    """Tokens that stay.

    Attributes:
        ids: the inputs of token ids.
        size: how many there were.
        kept: (kept,) their ids, rising; the new id of each is its place.
        unknown: id that stands for those that went, if there is one.
    """

    ids: tuple[str, ...]
    size: int
    kept: NDArray[np.int64]
    unknown: int | None = None

    @property
    def places(self) -> dict[int, int]:
        """New ids by old ones."""
        return {int(old): new for new, old in enumerate(self.kept)}

    def renumbered(self, feed: Feed, where: str) -> Feed:
        """A feed in terms of the new ids.

        Raises:
            DataError: it holds a token that went, and none stands for that.
        """
        table = np.full(self.size, -1, np.int64)
        table[self.kept] = np.arange(len(self.kept))
        if self.unknown is not None:
            table[table < 0] = table[self.unknown]
        changed = dict(feed)
        for name in self.ids:
            ids = feed[name]
            if ids.size and not (ids.min() >= 0 and ids.max() < self.size):
                raise DataError(f"{where}: input {name} holds ids outside of the {self.size} tokens")
            found = table[ids]
            if (found < 0).any():
                raise DataError(
                    f"{where}: token {int(ids[found < 0][0])} in input {name} is none of those that stay: "
                    f"list it, or give {named('vocabulary')} 'seen'"
                )
            changed[name] = found.astype(ids.dtype)
        return changed


@dataclass(frozen=True, eq=False)
class TokenSource(WrappedSource):
    """The feeds of another source in terms of new ids.

    Attributes:
        tokens: which stay.
    """

    tokens: Tokens

    def batches(self) -> Iterator[Batch]:
        """See :meth:`Source.batches`."""
        for feed, labels in self.inner.batches():
            yield self.tokens.renumbered(feed, self.where), labels


def listed_tokens(path: Path) -> set[int]:
    """Ids in a file, one on each line; empty lines do not count, nor does what follows a ``#``.

    Raises:
        DataError: it cannot be read, or a line holds no id.
    """
    with boundary(f"{path}: cannot be read", DataError):
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    found = set()
    for number, line in enumerate(lines, start=1):
        text = line.partition("#")[0].strip()
        if text and not text.isdecimal():
            raise DataError(f"{path}: line {number} is no token id: give one on each line")
        found |= {int(text)} if text else set()
    if not found:
        raise DataError(f"{path}: lists no token")
    return found


def seen_tokens(source: Source, inputs: Sequence[str]) -> set[int]:
    """Ids in the data of some inputs."""
    found: set[int] = set()
    for feed in source:
        for name in inputs:
            found.update(np.unique(feed[name]).tolist())
    return found
