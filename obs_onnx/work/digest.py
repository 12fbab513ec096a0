"""Digests of what a result depends on: options, arrays, data as fed, models with their weights."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Set
from enum import Enum
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

__all__ = ["digest_of"]

_BYTES = 16


class _Digest(Protocol):
    def update(self, data: bytes | memoryview, /) -> None: ...


def digest_of(*parts: object) -> str:
    """32 hexadecimal digits that differ where anything in ``parts`` does.

    Args:
        parts: numbers, text, None, arrays, types of elements, members of enumerations, models, and sequences
            (of any length, read once), sets, mappings and dataclasses of these. Mappings and sets have no
            order. Of a model all that is computed counts, weights included, wherever they lie.

    Raises:
        TypeError: something else is among them.
    """
    digest = hashlib.blake2b(digest_size=_BYTES)
    for part in parts:
        _add(digest, part)
    return digest.hexdigest()


def _add(digest: _Digest, part: object) -> None:
    if part is None or isinstance(part, bool | int | float | str | bytes):
        _say(digest, type(part).__name__, repr(part))
    elif isinstance(part, np.dtype | Enum):
        _say(digest, type(part).__name__, part)
    elif isinstance(part, np.generic):
        _array(digest, np.asarray(part))
    elif isinstance(part, np.ndarray):
        _array(digest, part)
    elif isinstance(part, ir.Model):
        _model(digest, part)
    elif dataclasses.is_dataclass(part) and not isinstance(part, type):
        _say(digest, "record", type(part).__name__)
        _items(digest, [getattr(part, field.name) for field in dataclasses.fields(part)])
    elif isinstance(part, Mapping):
        _items(digest, sorted(digest_of(*item) for item in part.items()))
    elif isinstance(part, Set):
        _items(digest, sorted(map(digest_of, part)))
    elif isinstance(part, Iterable):
        _items(digest, part)
    else:
        raise TypeError(f"no digest of {type(part).__name__}")


def _items(digest: _Digest, items: Iterable[object]) -> None:
    count = 0
    for item in items:
        _add(digest, item)
        count += 1
    _say(digest, "items", count)


def _say(digest: _Digest, *words: object) -> None:
    """Add words so that others do not give the same bytes."""
    for word in words:
        text = str(word).encode()
        digest.update(f"{len(text)}:".encode() + text)


def _array(digest: _Digest, array: NDArray[Any]) -> None:
    _say(digest, "array", array.dtype, array.shape)
    if array.dtype == object:
        _items(digest, array.reshape(-1).tolist())
    elif array.size:
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def _model(digest: _Digest, model: ir.Model) -> None:
    graph = model.graph
    _say(digest, "model", sorted(model.opset_imports.items()))
    for value in (*graph.inputs, *graph.outputs):
        _say(digest, value.name, value.type, value.shape)
    for node in graph:
        _say(digest, "node")
        digest.update(ir.to_proto(node).SerializeToString(deterministic=True))
    for function in model.functions.values():
        _say(digest, "function")
        digest.update(ir.to_proto(function).SerializeToString(deterministic=True))
    for name in sorted(graph.initializers):
        _say(digest, "initializer", name)
        tensor = graph.initializers[name].const_value
        if tensor is not None:
            _array(digest, tensor.numpy())
