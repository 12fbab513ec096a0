"""How amounts are written."""

from __future__ import annotations

import pytest

from obs_onnx.allocation.amounts import Amount, Unit, parse_bytes
from obs_onnx.passes.errors import OptionError


@pytest.mark.parametrize(
    ("text", "size"),
    [("4096", 4096), ("500KB", 500_000), ("1.5 GiB", 3 << 29), ("2g", 2 * 10**9), (".5M", 500_000)],
)
def test_bytes(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "much", "-5", "4 bytes", "1e3", "KB"])
def test_no_bytes(text: str) -> None:
    with pytest.raises(OptionError, match="is not a size"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("amount", "plain"),
    [
        (Amount(0.25), 0.25),
        (Amount(4096.0, Unit.BYTES), 4096.0),
        (Amount(0.8, Unit.MILLISECONDS), "0.8ms"),
        (Amount(unit=Unit.LEAST), "min"),
    ],
)
def test_plain(amount: Amount, plain: object) -> None:
    assert amount.plain == plain
