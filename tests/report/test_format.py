"""Numbers for people."""

from __future__ import annotations

import pytest

from obs_onnx.report import format as fmt


@pytest.mark.parametrize(
    ("value", "text"),
    [(999, "999 B"), (1000, "1.0 kB"), (99_940, "99.9 kB"), (999_600, "1.0 MB"), (123_456_789, "123 MB")],
)
def test_sizes(value: int, text: str) -> None:
    assert fmt.size(value) == text
