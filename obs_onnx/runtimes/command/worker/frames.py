"""Frames of the protocol: a header in JSON and a payload."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

PROTOCOL = 1
GREETING = b"\0obs-onnx worker %d\n" % PROTOCOL
HEADER_LIMIT = 2**24
PAYLOAD_LIMIT = 2**36
CHUNK = 2**20
_MAGIC = b"OBSF"
_PREFIX = struct.Struct(">4sIQ")

if TYPE_CHECKING:
    Read = Callable[[int], bytes]


class ProtocolError(Exception):
    """What came is no frame, or contradicts itself."""


def encode(header: Mapping[str, Any], size: int) -> bytes:
    """A frame up to its payload of ``size`` bytes."""
    text = json.dumps(header).encode()
    if len(text) > HEADER_LIMIT or size > PAYLOAD_LIMIT:
        raise ProtocolError(f"a header of {len(text)} and a payload of {size} bytes are too large to send")
    return _PREFIX.pack(_MAGIC, len(text), size) + text


def decode(read: Read) -> tuple[dict[str, Any], int]:
    """Header of the next frame and the size of its payload, which stays to be read.

    Raises:
        ProtocolError: it is no frame, or larger than the limits.
        EOFError: the stream ended inside.
    """
    magic, length, size = _PREFIX.unpack(exactly(read, _PREFIX.size))
    if magic != _MAGIC:
        raise ProtocolError(f"no frame but {magic!r}")
    if length > HEADER_LIMIT or size > PAYLOAD_LIMIT:
        raise ProtocolError(f"a frame claims a header of {length} and a payload of {size} bytes")
    try:
        header = json.loads(exactly(read, length).decode())
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"a header is no JSON: {error}") from error
    if not isinstance(header, dict):
        raise ProtocolError("a header is no JSON object")
    return header, size


def exactly(read: Read, size: int) -> bytearray:
    """``size`` bytes; memory grows with what arrives, not with what was claimed."""
    data = bytearray()
    while len(data) < size:
        chunk = read(min(size - len(data), CHUNK))
        if not chunk:
            raise EOFError
        data += chunk
    return data
