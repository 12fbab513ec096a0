"""A worker that is sent nonsense."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worker_answers import answers

from obs_onnx.runtimes.command.worker import frames, server

LOAD = {"threads": 1, "provider": "CPUExecutionProvider"}


def files(name: str, size: int) -> list[dict]:
    return [{"name": name, "bytes": size}]


def frame(header, payload: bytes = b"") -> bytes:
    return frames.encode(header, len(payload)) + payload


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80), st.integers(0, 30))
def test_noise_ends_in_an_error_or_an_answer(noise, cut):
    good = frame({"id": 1, "op": "time", "handle": 3, "runs": 2, "arrays": []}, b"abc")
    for data in (noise, good[:cut] + noise, good + noise):
        try:
            answers(data)
        except (frames.ProtocolError, EOFError):
            continue
        assert data in (b"", good)


@pytest.mark.parametrize(
    ("header", "payload", "kind", "message"),
    [
        ({"op": "format"}, b"abc", "request", "unknown request 'format'"),
        ({"op": ["run"]}, b"", "request", "unknown request"),
        ({"op": "serve"}, b"", "request", "unknown request"),
        ({"op": "run", "handle": 5}, b"abc", "request", "no model 5"),
        ({"op": "run", "handle": []}, b"", "internal", "unhashable"),
        ({"op": "time", "handle": 1, "runs": 3}, b"", "request", "no model 1"),
        ({"op": "load", "threads": 0}, b"", "request", "threads=0"),
        ({"op": "load", "threads": True}, b"", "request", "threads=True"),
        ({"op": "load", **LOAD}, b"model", "request", "do not fill the payload"),
        ({"op": "load", **LOAD, "files": files("m", 9)}, b"model", "request", "do not fill"),
        ({"op": "load", **LOAD, "files": files("../m", 5)}, b"model", "request", "no file"),
        ({"op": "load", **LOAD, "files": files("/m", 5)}, b"model", "request", "no file"),
        ({"op": "load", **LOAD, "files": files("c:m", 5)}, b"model", "request", "no file"),
        ({"op": "load", **LOAD, "files": files("m", -5)}, b"model", "request", "no file"),
        ({"op": "load", **LOAD, "files": 5}, b"model", "internal", "int"),
        ({"op": "load", **LOAD, "files": files("m", 1) + files("m", 4)}, b"model", "internal", "exists"),
        ({"op": "load", **LOAD, "files": files("m", 5)}, b"model", "model", ""),
        ({"op": "load", **LOAD, "options": {"optimize": "no"}}, b"", "request", "no such options"),
    ],
)
def test_bad_requests_are_answered_and_the_next_one_too(header, payload, kind, message):
    requests = frame({"id": 7, **header}, payload) + frame({"id": 8, "op": "unload", "handle": 1})
    first, second = answers(requests)
    assert (first["id"], first["ok"], first["kind"]) == (7, False, kind)
    assert message in first["error"]
    assert second == {"id": 8, "ok": True}
    if kind != "internal":
        assert "\n" not in first["error"]


def test_the_machine_is_described():
    (hello,) = answers(frame({"id": 1, "op": "hello"}))
    assert hello["ok"]
    assert hello["protocol"] == frames.PROTOCOL
    assert "CPUExecutionProvider" in hello["providers"]
    assert 1 <= hello["usable_cores"] <= hello["logical_cores"]
    assert hello["cpu"]


@pytest.mark.parametrize("name", ["w.bin", "sub/w.bin", ".hidden"])
def test_names_inside(name):
    assert server.is_inside(name)


@pytest.mark.parametrize("name", ["", "/etc/x", "..", "a/../b", "a\\..\\b", "\\x", "c:x", "a//b", "./"])
def test_names_outside(name):
    assert not server.is_inside(name)
