"""Requests sent to a worker by themselves, and the headers of what it answers."""

from __future__ import annotations

import io

from obs_onnx.runtimes.command.worker import frames, server


def answers(requests: bytes) -> list[dict]:
    """Headers of what a worker answers; raises what ends it."""
    sent: list[bytes] = []
    server.Worker(io.BytesIO(requests).read, sent.append).serve()
    stream, found = io.BytesIO(b"".join(sent)), []
    while stream.tell() < len(stream.getvalue()):
        header, size = frames.decode(stream.read)
        assert len(stream.read(size)) == size
        found.append(header)
    return found
