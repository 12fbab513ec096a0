"""Arrays as entries of a header and bytes of a payload."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .frames import PAYLOAD_LIMIT, ProtocolError

TYPES = {
    "float16": "<f2",
    "float32": "<f4",
    "float64": "<f8",
    "bfloat16": "<u2",
    "bool": "|b1",
    **{f"{sign}int{8 * size}": f"<{sign or 'i'}{size}" for sign in ("", "u") for size in (1, 2, 4, 8)},
}

if TYPE_CHECKING:
    Typed = Sequence[tuple[str, str, Any]]  # name, type, array (bfloat16 as its bits)


def pack(arrays: Typed) -> tuple[list[dict[str, Any]], list[bytes]]:
    """Entries for a header and the payload in parts."""
    entries, parts = [], []
    for name, kind, array in arrays:
        part = _string_bytes(array) if kind == "string" else array.astype(TYPES[kind], copy=False).tobytes()
        entries.append({"name": name, "type": kind, "shape": list(array.shape), "bytes": len(part)})
        parts.append(part)
    return entries, parts


def unpack(entries: Any, payload: bytes | bytearray) -> list[tuple[str, str, Any]]:
    """The inverse of :func:`pack`.

    Raises:
        ProtocolError: sizes, types or the payload do not fit together.
    """
    found, view, start = [], memoryview(payload), 0
    if not isinstance(entries, list):
        raise ProtocolError("arrays are no list")
    for entry in entries:
        name, kind, shape, size = _entry(entry)
        part = view[start : start + size]
        if len(part) != size:
            raise ProtocolError(f"array {name!r} of {size} bytes is longer than the payload")
        if kind == "string":
            array = _strings(part, shape)
        elif math.prod(shape) * np.dtype(TYPES[kind]).itemsize != size:
            raise ProtocolError(f"array {name!r} of shape {shape} does not have {size} bytes")
        else:
            array = np.array(np.frombuffer(part, TYPES[kind]).reshape(shape))  # aligned
        found.append((name, kind, array))
        start += size
    if start != len(view):
        raise ProtocolError(f"{len(view) - start} bytes follow the last array")
    return found


def _entry(entry: Any) -> tuple[str, str, tuple[int, ...], int]:
    entry = entry if isinstance(entry, dict) else {}
    name, kind, shape, size = (entry.get(key) for key in ("name", "type", "shape", "bytes"))
    numbers: list[Any] = [size, *shape] if isinstance(shape, list) else [None]
    sound = all(type(number) is int and 0 <= number <= PAYLOAD_LIMIT for number in numbers)
    if not sound or not isinstance(name, str) or kind not in ["string", *TYPES]:
        raise ProtocolError(f"{json.dumps(entry)[:200]} describes no array")
    return name, str(kind), tuple(map(int, numbers[1:])), int(numbers[0])


def _string_bytes(array: Any) -> bytes:
    texts = [text if isinstance(text, bytes) else str(text).encode() for text in array.reshape(-1).tolist()]
    return np.array([len(text) for text in texts], "<u4").tobytes() + b"".join(texts)


def _strings(part: memoryview, shape: tuple[int, ...]) -> Any:
    count = math.prod(shape)
    if 4 * count > len(part):
        raise ProtocolError("strings are longer than their bytes")
    ends = 4 * count + np.cumsum(np.frombuffer(part[: 4 * count], "<u4"), dtype=np.int64)
    if (int(ends[-1]) if count else 0) != len(part):
        raise ProtocolError("strings do not fill their bytes")
    starts = np.concatenate([[4 * count], ends[:-1]]).tolist()
    try:
        texts = [bytes(part[start:end]).decode() for start, end in zip(starts, ends.tolist())]  # noqa: B905
    except UnicodeDecodeError as error:
        raise ProtocolError("strings are no UTF-8") from error
    array = np.empty(count, object)
    array[:] = texts
    return array.reshape(shape)
