from __future__ import annotations

import pytest

from obs_onnx.cluster.address import Address, Local, parse_address
from obs_onnx.passes.errors import OptionError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("local:4", Local(4)),
        ("tcp://scheduler:8786", Address("tcp://scheduler:8786", "scheduler", 8786)),
        ("tls://10.0.0.1:80/", Address("tls://10.0.0.1:80", "10.0.0.1", 80)),
        ("tcp://[::1]:8786", Address("tcp://[::1]:8786", "::1", 8786)),
    ],
)
def test_what_is_written_of_a_cluster(text: str, expected: object) -> None:
    assert parse_address(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", "local", "local:", "local:0", "local:-1", "local:two", "local:2.5", "localhost:8786"),
        *("scheduler:8786", "tcp://scheduler", "tcp://:8786", "tcp://scheduler:0", "tcp://scheduler:65536"),
        *("http://scheduler:8786", "tcp://scheduler:8786/more", "tcp://a b:8786", "inproc://x:1"),
    ],
)
def test_what_names_no_cluster_is_refused_with_all_that_does(text: str) -> None:
    with pytest.raises(OptionError, match=r"use tcp://HOST:PORT or tls://HOST:PORT .* or local:N"):
        parse_address(text)
