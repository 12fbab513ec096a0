"""Values that click does not know."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from obs_onnx.cli.values import KeyValue, Size, WrittenFile


def test_key_and_number() -> None:
    assert KeyValue("K=V").convert("a=b=0.5", None, None) == ("a=b", 0.5)
    for text in ("a", "a=", "a=b", "0.5"):
        with pytest.raises(click.BadParameter, match=f"'{text}' is not K=V"):
            KeyValue("K=V").convert(text, None, None)


def test_size() -> None:
    assert Size().convert("1.5KiB", None, None) == 1536
    assert Size().convert(7, None, None) == 7
    with pytest.raises(click.BadParameter, match="'big' is not a size"):
        Size().convert("big", None, None)


def test_written_file(tmp_path: Path) -> None:
    target = str(tmp_path / "x.json")
    assert WrittenFile().convert(target, None, None) == target
    assert not Path(target).exists()
    for wrong in (tmp_path, tmp_path / "no" / "x.json"):
        with pytest.raises(click.BadParameter, match="cannot write"):
            WrittenFile().convert(str(wrong), None, None)
