"""Arrays as bytes, there and back, and lists of arrays that contradict themselves."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from obs_onnx.runtimes.command.worker import arrays, frames


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
