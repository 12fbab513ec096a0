"""Inputs of language models that follow from the token ids: masks, positions, empty caches, lengths.

Exporters call them by a few names (the onnxruntime-genai builder, optimum, the exporters of torch,
transformers.js), and give them shapes that tell what they count. With ``B`` sequences of ``S`` new tokens and
``P`` tokens in the cache (0 where the cache is filled in):

===================  ===================================================================================
kind                 filled with
===================  ===================================================================================
attention mask       ones (B, P + S); with four axes, and a cache, what each token may look at
positions            P to P + S - 1, or counted by an attention mask that the data holds
token types          zeros
caches               nothing: the axis of their length has size 0; zeros where the model fixes it
total length         P + S
lengths              tokens of each sequence: all, all but one (``seqlens_k``), or those in the cache
switches             ``use_cache_branch`` off, ``num_logits_to_keep`` 0 (all)
===================  ===================================================================================

An input that none of this explains has to be in the data.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

from obs_onnx.data.feeds import Array, Feed, TensorSpec, conform, is_float
from obs_onnx.passes.printable import first_of

__all__ = ["Filling", "find_filling", "is_token_ids"]


class Kind(Enum):
    """What an input is; its value is for people."""

    MASK = "attention mask of ones"
    CAUSAL = "causal attention mask"
    POSITIONS = "positions"
    TYPES = "token types 0"
    CACHE = "empty cache"
    TOTAL = "total length"
    COUNT = "lengths"
    LAST = "lengths less one"
    PAST = "lengths of the cache"
    SWITCH = "switched off"
    KEEP = "0, for all tokens"


_NAMES: Sequence[tuple[Kind, str]] = (
    (Kind.MASK, r"(\w+_)?attention_mask|(input_|padding_|pad_)?mask"),
    (Kind.POSITIONS, r"(\w+_)?(position_ids?|positions?|pos_ids|cache_positions?|input_pos)"),
    (Kind.TYPES, r"token_type_ids|token_types|segment_ids|input_type_ids"),
    (Kind.TOTAL, r"total_seq(uence)?_len(gth)?s?"),
    (Kind.COUNT, r"nonpad_kv_seqlens?|context_len(gth)?s?"),
    (Kind.LAST, r"seq_?lens_k"),
    (Kind.PAST, r"past_(seq(uence)?_)?len(gth)?s?|cache_len(gth)?s?|write_indices|start_pos"),
    (Kind.SWITCH, r"use_cache(_branch)?"),
    (Kind.KEEP, r"(num_)?logits_to_keep"),
    (Kind.CACHE, r"past([_.]\w+)*|(?!.*hidden_state)(\w+[_.])*(cache|state)s?([_.]\w+)*"),
)
_IDS = r"(\w+_)?(input_)?(ids|tokens)|inputs_embeds"
_NO_IDS = r"(position|pos|type|segment)_ids?|.*token_type_ids"
_LENGTHS = ("past", "seq", "len", "total", "cache", "time", "context")  # parts of names of an axis of tokens
_WRITTEN = r"cache_positions?|input_pos|seq_?lens_k|write_indices|past_(seq(uence)?_)?len(gth)?s?|start_pos"


def _decoded(specs: Sequence[TensorSpec]) -> TensorSpec | None:
    """The input of token ids (or of their embeddings) of a model; of several the one that is decoded."""
    found = [spec for spec in specs if is_token_ids(spec)]
    return min(found, key=lambda spec: not _plain(spec.name).startswith("decoder"), default=None)


def is_token_ids(spec: TensorSpec) -> bool:
    """Whether an input takes token ids (batch, tokens), or their embeddings."""
    name = _plain(spec.name)
    rank = None if spec.shape is None else len(spec.shape)
    if not re.fullmatch(_IDS, name) or re.fullmatch(_NO_IDS, name):
        return False
    return (is_float(spec.dtype) and rank == 3) if "embeds" in name else spec.dtype.kind in "iu" and rank == 2


def _plain(name: str) -> str:
    """A name in lower case, without what a serving signature puts around it."""
    return name.removeprefix("serving_default_").split(":")[0].split("/")[-1].lower()


@dataclass(frozen=True)
class Filling:
    """How feeds are completed; see the module.

    Attributes:
        specs: all inputs of the model.
        kinds: of those that are filled in.
        ids: the token ids.
        sizes: values of named free sizes that the model implies, for the widths of caches.
    """

    specs: tuple[TensorSpec, ...]
    kinds: Mapping[str, Kind]
    ids: TensorSpec
    sizes: Mapping[str, int]

    def __call__(self, feed: Feed) -> Feed:
        """A complete feed.

        Args:
            feed: without the inputs that are filled in.

        Raises:
            DataError: what is filled in has another size than the model fixes.
        """
        if not self.kinds:
            return feed
        lengths = self._lengths(feed)
        made = {
            spec.name: conform(self._made(spec, feed, lengths), spec, "filled in")
            for spec in self.specs
            if spec.name in self.kinds
        }
        return {spec.name: feed[spec.name] if spec.name in feed else made[spec.name] for spec in self.specs}

    @property
    def asked(self) -> tuple[TensorSpec, ...]:
        """Inputs that the data has to hold."""
        return tuple(spec for spec in self.specs if spec.name not in self.kinds)

    @property
    def sized(self) -> bool:
        """Whether :attr:`sizes` hold the length of a cache."""
        caches = [spec for spec in self.specs if self.kinds.get(spec.name) is Kind.CACHE]
        axes = [(spec.shape or (), _length_axis(spec, self.ids)) for spec in caches]
        return any(axis is not None and shape[axis] in self.sizes for shape, axis in axes)

    def note(self, where: str) -> tuple[str, ...]:
        """What was filled in, for people."""
        if not self.kinds:
            return ()
        parts = []
        for kind in dict.fromkeys(self.kinds.values()):
            names = [name for name, own in self.kinds.items() if own is kind]
            parts.append(f"{first_of(names, 1)} ({kind.value})")
        return (f"{where}: from {self.ids.name} filled in: {', '.join(parts)}",)

    def _lengths(self, feed: Feed) -> _Lengths:
        batch, new = feed[self.ids.name].shape[:2]
        caches = [spec for spec in self.specs if _kind_of(spec, self.ids) is Kind.CACHE]
        given = [spec for spec in caches if spec.name in feed]
        past = 0
        for spec in given:
            axis = _length_axis(spec, self.ids)
            past = feed[spec.name].shape[axis] if axis is not None else past
        fixed = [_fixed_length(spec) for spec in caches if spec.name in self.kinds]
        written = any(re.fullmatch(_WRITTEN, _plain(spec.name)) for spec in self.specs)
        masks = [spec.name for spec in self.specs if _kind_of(spec, self.ids) is Kind.MASK]
        own = [feed[name] for name in masks if name in feed and not _plain(name).startswith("encoder")]
        return _Lengths(batch, new, past, max(fixed, default=0), written, own[0] if own else None)

    def _made(self, spec: TensorSpec, feed: Feed, at: _Lengths) -> Array:
        assert spec.shape is not None
        kind = self.kinds[spec.name]
        if kind is Kind.CACHE:
            shape = _cache_shape(spec, self.ids, self.sizes, at.batch)
            assert shape is not None
            return np.zeros(shape, spec.dtype)
        if kind is Kind.MASK:
            return self._mask(spec, feed, at).astype(spec.dtype)
        if kind is Kind.CAUSAL:
            return _causal(spec, at)
        if kind is Kind.POSITIONS:
            return _fitted(at.positions, spec)
        if kind is Kind.TYPES:
            return np.zeros((at.batch, at.new), spec.dtype)
        counts = {Kind.TOTAL: at.total, Kind.COUNT: at.counts, Kind.LAST: at.counts - 1, Kind.PAST: at.past}
        value = np.asarray(counts.get(kind, 0))
        if not spec.shape or (len(spec.shape) == 1 and spec.shape[0] == 1 and value.ndim == 0):
            return value.reshape(-1)[:1].reshape((1,) * len(spec.shape)).astype(spec.dtype)
        one = 1 if kind is Kind.TOTAL and len(spec.shape) == 1 else at.batch
        return np.broadcast_to(value, one).reshape(-1, *(1,) * (len(spec.shape) - 1)).astype(spec.dtype)

    def _mask(self, spec: TensorSpec, feed: Feed, at: _Lengths) -> Array:
        """(B, tokens): ones for those that are there."""
        assert spec.shape is not None
        name, size = _plain(spec.name), spec.shape[-1]
        states = [f for n, f in feed.items() if _plain(n).startswith("encoder_") and f.ndim == 3]
        others = [
            one for one in self.specs if is_token_ids(one) and one.name in feed and one.name != self.ids.name
        ]
        if name.startswith("encoder") and states:
            return np.ones(states[0].shape[:2])
        if not name.startswith("decoder") and others:  # with decoder ids, the plain mask is the encoder's
            return np.ones(feed[others[0].name].shape[:2])
        seen = np.ones((at.batch, at.total))
        if at.fixed and (size == at.fixed + at.new or (not isinstance(size, int) and not at.written)):
            return np.concatenate([np.zeros((at.batch, at.fixed)), seen], axis=1)
        if isinstance(size, int) and size > at.total:
            return np.pad(seen, ((0, 0), (0, size - at.total)))
        return seen


@dataclass(frozen=True)
class _Lengths:
    """Sizes of a feed: sequences, new tokens, tokens in a cache that was given, and of a cache of fixed
    length; whether tokens are written into it, and the mask of the data."""

    batch: int
    new: int
    past: int
    fixed: int
    written: bool
    mask: Array | None

    @property
    def total(self) -> int:
        """Tokens of a sequence."""
        return self.past + self.new

    @property
    def counts(self) -> Array:
        """(B,) tokens of each sequence."""
        if self.mask is None or self.mask.ndim != 2:
            return np.full(self.batch, self.total)
        return np.asarray(np.count_nonzero(self.mask, axis=1))

    @property
    def positions(self) -> Array:
        """(B, S) of the new tokens; tokens that a mask leaves out do not count."""
        if self.mask is None or self.mask.ndim != 2 or self.mask.shape != (self.batch, self.total):
            return np.broadcast_to(np.arange(self.past, self.total), (self.batch, self.new))
        counted = np.cumsum(self.mask != 0, axis=1) - 1
        return np.asarray(np.maximum(counted, 0)[:, self.past :])


def _fitted(positions_BS: Array, spec: TensorSpec) -> Array:
    """Positions in the shape of an input: (S,), (B, S), or once for each of several axes (3, B, S)."""
    assert spec.shape is not None
    if len(spec.shape) == 0:
        return np.asarray(positions_BS[0, 0])
    if len(spec.shape) == 1:
        return np.asarray(positions_BS[0, :1] if spec.shape[0] == 1 else positions_BS[0])
    if len(spec.shape) == 3:
        assert isinstance(spec.shape[0], int)
        return np.asarray(np.broadcast_to(positions_BS, (spec.shape[0], *positions_BS.shape)))
    return positions_BS


def _causal(spec: TensorSpec, at: _Lengths) -> Array:
    """(B, 1, S, tokens): what each new token may look at, as numbers that are added or as truth."""
    assert spec.shape is not None
    size = spec.shape[3] if isinstance(spec.shape[3], int) else at.total
    there = np.arange(size) <= at.past + np.arange(at.new)[:, None]
    if is_float(spec.dtype):
        least = np.finfo(np.float16 if spec.dtype.itemsize == 2 else np.float32).min
        values = np.where(there, 0, least).astype(spec.dtype)
    else:
        values = there.astype(spec.dtype)
    heads = spec.shape[1] if isinstance(spec.shape[1], int) else 1
    return np.broadcast_to(values, (at.batch, heads, at.new, size))


def find_filling(
    specs: Sequence[TensorSpec], given: Collection[str], sizes: Mapping[str, int] | None = None
) -> Filling | None:
    """How data with some inputs is completed; None for a model without token ids, or data without them.

    Args:
        specs: all inputs of the model.
        given: names that the data has.
        sizes: values of named free sizes that the model implies.
    """
    ids = _decoded([spec for spec in specs if spec.name in given])
    if ids is None:
        return None
    known = sizes or {}
    kinds = {spec.name: _kind_of(spec, ids) for spec in specs if spec.name not in given}
    found = {
        spec.name: kind
        for spec in specs
        if (kind := kinds.get(spec.name)) is not None and _fits(spec, kind, ids, specs, known)
    }
    return Filling(tuple(specs), found, ids, known)


def _kind_of(spec: TensorSpec, ids: TensorSpec) -> Kind | None:
    if spec.name == ids.name or spec.shape is None or spec.dtype == np.dtype(object):
        return None
    name = _plain(spec.name)
    kind = next((kind for kind, pattern in _NAMES if re.fullmatch(pattern, name)), None)
    return Kind.CAUSAL if kind is Kind.MASK and len(spec.shape) == 4 else kind


def _fits(
    spec: TensorSpec, kind: Kind, ids: TensorSpec, specs: Sequence[TensorSpec], sizes: Mapping[str, int]
) -> bool:
    """Whether type and shape of an input are those of a kind."""
    shape = spec.shape or ()
    whole = spec.dtype.kind in "iu"
    cached = any(_kind_of(one, ids) is Kind.CACHE for one in specs)
    if kind is Kind.CACHE:
        return (
            len(shape) >= 3 and _cache_shape(spec, ids, sizes, 1) is not None and _may_be_empty(spec, specs)
        )
    if kind is Kind.MASK:
        return len(shape) == 2
    if kind is Kind.CAUSAL:
        return cached
    if kind is Kind.POSITIONS:
        return whole and (len(shape) < 3 or (len(shape) == 3 and isinstance(shape[0], int)))
    if kind is Kind.TYPES:
        return whole and len(shape) == 2
    if kind is Kind.SWITCH:
        return spec.dtype == np.dtype(bool) and len(shape) < 2
    return whole and len(shape) <= 2


def _may_be_empty(spec: TensorSpec, specs: Sequence[TensorSpec]) -> bool:
    """Whether a model reads nothing out of an empty cache: not what an encoder gave, unless that is switched
    off; of a fixed length only with a mask or a length beside it."""
    names = [_plain(one.name) for one in specs]
    if re.search(r"encoder|cross", _plain(spec.name).replace("decoder", "")):
        return any(re.fullmatch(r"use_cache(_branch)?", name) for name in names)
    masked = any(re.fullmatch(rf"{_WRITTEN}|(decoder_)?attention_mask", name) for name in names)
    return not _fixed_length(spec) or masked


def _fixed_length(spec: TensorSpec) -> int:
    """Tokens in a cache of keys or values of a fixed length; 0 for any other."""
    shape = spec.shape or ()
    free = [size for size in shape[1:] if not isinstance(size, int)]
    name = _plain(spec.name)
    own = re.sub(r"^past_key_values?", "", name)  # of all caches, those of states too
    held = re.search(r"key|value|(^|[_.])[kv]([_.]|$)", own if re.search("[a-z]", own) else name) is not None
    length = shape[-2] if len(shape) == 4 and not free else 0
    return length if held and isinstance(length, int) else 0


def _batch_axis(spec: TensorSpec, ids: TensorSpec) -> int | None:
    """The axis of a cache that counts sequences."""
    shape, symbol = spec.shape or (), (ids.shape or (None,))[0]
    named = [k for k, n in enumerate(shape) if isinstance(n, str) and (n == symbol or "batch" in n.lower())]
    if named:
        return named[0]
    return 0 if not isinstance(shape[0], int) or shape[0] == symbol else None


def _length_axis(spec: TensorSpec, ids: TensorSpec) -> int | None:
    """The axis of a cache that counts tokens; None where all but the batch is fixed."""
    batch = _batch_axis(spec, ids)
    free = {k: n for k, n in enumerate(spec.shape or ()) if k != batch and not isinstance(n, int)}
    named = [k for k, n in free.items() if n is not None and any(part in n.lower() for part in _LENGTHS)]
    exact = [k for k in named if "dim" not in str(free[k]).lower() and "head" not in str(free[k]).lower()]
    return exact[0] if exact else next(iter(free)) if len(free) == 1 else None


def _cache_shape(
    spec: TensorSpec, ids: TensorSpec, sizes: Mapping[str, int], batch: int
) -> tuple[int, ...] | None:
    """Of an empty cache; None where a size cannot be told."""
    known = replace(
        spec,
        shape=tuple(
            sizes.get(n, n) if isinstance(n, str) and "batch" not in n else n for n in spec.shape or ()
        ),
    )
    batch_axis, length_axis = _batch_axis(known, ids), _length_axis(known, ids)
    found: list[int] = []
    for axis, size in enumerate(known.shape or ()):
        if isinstance(size, int):
            found.append(size)
        elif axis == batch_axis and "*" not in str(size):
            found.append(batch)
        elif axis == length_axis:
            found.append(0)
        else:
            return None
    return tuple(found)
