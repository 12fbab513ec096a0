"""Lines, tables and figures as text."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from obs_onnx.passes.layers.layer import Frozen
from obs_onnx.report.text_writer import Writer, fields_of, figure_text, label_of, shape_text, spread_text
from obs_onnx.results.pruning import Latency


def written(encoding: str, width: int = 60) -> tuple[Writer, io.BytesIO]:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, write_through=True)
    return Writer(Console(file=stream, width=width)), raw


def test_markup_and_colours_are_text() -> None:
    out, raw = written("utf-8")
    out.line("[bold]x[/] $_1$ 12", indent=2)
    assert raw.getvalue().decode().rstrip() == "  [bold]x[/] $_1$ 12"


@pytest.mark.parametrize(("encoding", "bars"), [("utf-8", "██████░░"), ("ascii", "######..")])
def test_bars_and_arrows_are_what_the_encoding_has(encoding: str, bars: str) -> None:
    out, raw = written(encoding)
    assert out.bar(0.75) == bars
    assert (out.bar(-1), out.bar(2)) == (out.empty * 8, out.full * 8)
    out.table(("name", "kept"), [("größe", out.bar(0.75))])
    name, bar = raw.getvalue().decode(encoding).splitlines()[1].split()
    assert (name, bar) == ("größe" if encoding == "utf-8" else "gr??e", bars)


def test_long_names_fold_and_numbers_stay_whole() -> None:
    out, raw = written("utf-8", width=20)
    out.table(("name", "number"), [("a" * 30, "123,456")])
    text = raw.getvalue().decode()
    assert max(map(len, text.splitlines())) <= 20
    assert "123,456" in text
    assert text.count("a") - 1 == 30


def test_fields_of_dataclasses_and_mappings() -> None:
    assert fields_of({"a": 1}) == {"a": 1}
    assert fields_of(Frozen("n", "LSTM", "why")) == {"node": "n", "op_type": "LSTM", "reason": "why"}
    with pytest.raises(TypeError, match="neither a mapping nor a dataclass: int"):
        fields_of(3)


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("file_bytes", 2_500_000, "2.5 MB"),
        ("accuracy_top5", 0.5, "50.00 %"),
        ("agreement", 0.98765, "98.77 %"),
        ("macs", 1234567, "1,234,567"),
        ("output_error", 0.0123456, "0.0123"),
        ("met", True, "True"),
        ("runtime", "onnxruntime", "onnxruntime"),
        ("file_bytes", None, "-"),
    ],
)
def test_figures_are_shown_as_their_names_ask(key: str, value: object, text: str) -> None:
    assert figure_text(key, value) == text


def test_labels_shapes_and_spreads() -> None:
    assert [label_of(key) for key in ("nonzero", "file_bytes", "some_thing")] == [
        "non-zero",
        "file",
        "some thing",
    ]
    assert shape_text((64, 3, 7, 7)) == "64x3x7x7"
    assert spread_text(Latency(2.0, 1.2345, 3.0, 10)) == "1.23..3 ms"
    assert spread_text(None) == "-"
