"""The protocol by itself: frames, arrays, and a worker that is sent nonsense."""

from __future__ import annotations

import ast
import io
import json
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from obs_onnx.runtimes.command import worker
from obs_onnx.runtimes.command.worker import arrays, frames, server

FILES = sorted(Path(worker.__file__).parent.glob("*.py"))

LOAD = {"threads": 1, "provider": "CPUExecutionProvider"}


def files(name: str, size: int) -> list[dict]:
    return [{"name": name, "bytes": size}]


def frame(header, payload: bytes = b"") -> bytes:
    return frames.encode(header, len(payload)) + payload


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


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_its_files_are_for_old_pythons_and_need_nothing_of_this_project(path):
    tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 8))
    imported = {
        ("." * node.level + (node.module or "") if isinstance(node, ast.ImportFrom) else node.names[0].name)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
    }
    own = {f".{file.stem}" for file in FILES}
    others = {name.split(".")[0] for name in imported - own}
    assert others - set(sys.stdlib_module_names) <= {"numpy", "onnxruntime"}


@pytest.mark.parametrize("name", [*arrays.TYPES, "string"])
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3)])
def test_arrays_survive(name, shape):
    count = int(np.prod(shape))
    if name == "string":
        array = np.array(["", "ä\0b", "x" * 300][:3] * 2, object)[:count].reshape(shape)
    else:
        array = np.arange(count).reshape(shape).astype(arrays.TYPES[name])
    other = np.ones(3, np.uint8)  # what follows is not aligned
    entries, parts = arrays.pack([("o", "uint8", other), ("a", name, array)])
    found = arrays.unpack(json.loads(json.dumps(entries)), bytearray(b"".join(parts)))
    assert [(one[0], one[1]) for one in found] == [("o", "uint8"), ("a", name)]
    assert found[1][2].shape == shape
    assert found[1][2].dtype == array.dtype
    assert found[1][2].flags.aligned
    np.testing.assert_array_equal(found[1][2], array)


def test_strings_of_other_arrays_survive():
    for array in (np.array(["a", "bc"]), np.array([b"a", b"bc"])):
        entries, parts = arrays.pack([("a", "string", array)])
        assert arrays.unpack(entries, b"".join(parts))[0][2].tolist() == ["a", "bc"]


@pytest.mark.parametrize(
    ("entries", "payload"),
    [
        (None, b""),
        ([None], b""),
        ([{"name": "a", "type": "float32", "shape": [2], "bytes": 8}], b"1234"),
        ([{"name": "a", "type": "float32", "shape": [1], "bytes": 4}], b"12345"),
        ([{"name": "a", "type": "float32", "shape": [3], "bytes": 4}], b"1234"),
        ([{"name": "a", "type": "float32", "shape": [-1], "bytes": 4}], b"1234"),
        ([{"name": "a", "type": "float32", "shape": [True], "bytes": 4}], b"1234"),
        ([{"name": "a", "type": "float32", "shape": [10**30, 0], "bytes": 0}], b""),
        ([{"name": "a", "type": "object", "shape": [1], "bytes": 8}], b"12345678"),
        ([{"name": "a", "type": [], "shape": [1], "bytes": 8}], b"12345678"),
        ([{"name": 1, "type": "bool", "shape": [1], "bytes": 1}], b"1"),
        ([{"name": "a", "type": "string", "shape": [10**9], "bytes": 4}], b"\0\0\0\0"),
        ([{"name": "a", "type": "string", "shape": [1], "bytes": 5}], b"\2\0\0\0a"),
        ([{"name": "a", "type": "string", "shape": [1], "bytes": 5}], b"\1\0\0\0\xff"),
        ([{"name": "a", "type": "string", "shape": [2], "bytes": 9}], b"\xff\xff\xff\xff\2\0\0\0a"),
    ],
)
def test_arrays_that_contradict_themselves(entries, payload):
    with pytest.raises(frames.ProtocolError):
        arrays.unpack(entries, payload)


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


@settings(max_examples=100, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["a", "float32"]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["name", "type", "shape", "bytes"]), inner, max_size=4)
        ),
        max_leaves=12,
    )
)
def test_any_json_is_no_list_of_arrays_or_one(entries):
    try:
        found = arrays.unpack(entries, b"")
    except frames.ProtocolError:
        return
    assert len(found) == len(entries)


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
