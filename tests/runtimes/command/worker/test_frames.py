"""Frames, and what is none."""

from __future__ import annotations

import io
import struct

import pytest
from worker_answers import answers

from obs_onnx.runtimes.command.worker import frames


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"Last login: today from there", "no frame but b'Last'"),
        (struct.pack(">4sIQ", b"OBSF", 2, 10 * 10**12) + b"{}", "claims .* payload of 10000000000000 bytes"),
        (struct.pack(">4sIQ", b"OBSF", 2**32 - 1, 0), "claims a header of 4294967295"),
        (struct.pack(">4sIQ", b"OBSF", 2, 0) + b"[]", "no JSON object"),
        (struct.pack(">4sIQ", b"OBSF", 2, 0) + b"{]", "no JSON"),
        (struct.pack(">4sIQ", b"OBSF", 2, 0) + b"\xff\xfe", "no JSON"),
        (struct.pack(">4sIQ", b"OBSF", 50_000, 0) + b"[" * 50_000, "no JSON"),
    ],
)
def test_what_is_no_frame(data, message):
    with pytest.raises(frames.ProtocolError, match=message):
        frames.decode(io.BytesIO(data).read)
    with pytest.raises(frames.ProtocolError, match=message):
        answers(data)


def test_a_large_claim_takes_no_memory():
    chunks = iter([b"x" * 10])
    asked = []

    def read(size):
        asked.append(size)
        return next(chunks, b"")

    with pytest.raises(EOFError):
        frames.exactly(read, 2**35)
    assert max(asked) <= 2**20
