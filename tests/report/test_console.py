from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from console_text import text_of
from rich.console import Console

from obs_onnx.passes.layers.layer import Frozen
from obs_onnx.report import (
    print_bench,
    print_evaluation,
    print_inspection,
    print_report,
    terminal_progress,
)
from obs_onnx.report.page.html import render_html
from obs_onnx.results.pruning import LayerResult, Report


def squeezed(text: str) -> str:
    return "".join(text.split())


def test_inspection_takes_dicts_and_dataclasses() -> None:
    layers = [
        LayerResult("fc1.weight", "Gemm", (10, 9), 90, 1.0),
        {"name": "fc2.weight", "op_type": "MatMul", "shape": [9, 2], "weights": 18, "macs": 1234},
    ]
    frozen = [Frozen("rnn", "LSTM", "recurrent"), {"node": "gru", "op_type": "GRU", "reason": "recurrent"}]
    totals = {"parameters": 1234567, "file_bytes": 2_500_000, "macs": None}
    text = text_of(lambda console: print_inspection("a.onnx", layers, frozen, totals, console), 120)
    rows = [line.split() for line in text.splitlines()]
    assert ["fc2.weight", "MatMul", "9x2", "18", "1,234", "-"] in rows
    assert ["fc1.weight", "Gemm", "10x9", "90", "-", "100.0", "%"] in rows
    assert ["parameters", "1,234,567"] in rows
    assert ["file", "2.5", "MB"] in rows
    assert "rnn (LSTM), gru (GRU): recurrent" in text
    with pytest.raises(TypeError, match="int"):
        print_inspection("a.onnx", [3])


def test_bench_compares_with_the_first_model() -> None:
    results = [
        {"model": "a.onnx", "median": 2.0, "p10": 1.5, "p90": 3.0, "runs": 100, "threads": 1, "batch": 4},
        {"model": "b.onnx", "median": 0.5, "p10": 0.4, "p90": 0.6, "runs": 100},
    ]
    text = text_of(lambda console: print_bench(results, console))
    assert "threads 1, batch 4" in text
    assert text.splitlines()[-1].split() == [
        "b.onnx",
        "0.500",
        "ms",
        "0.400",
        "ms",
        "0.600",
        "ms",
        "100",
        "4.00",
    ]
    measured = [results[0] | {"ratio": 1.0}, results[1] | {"ratio": 0.2}]
    assert text_of(lambda console: print_bench(measured, console)).split()[-1] == "5.00"
    assert text_of(lambda console: print_bench([], console)) == ""


def test_evaluation_prints_shares_as_percent() -> None:
    result = {
        "model": "a.onnx",
        "samples": 497,
        "accuracy": 0.98189,
        "output_error": 0.0123456,
        "agreement": None,
    }
    text = squeezed(text_of(lambda console: print_evaluation(result, console)))
    assert text == "a.onnxsamples497accuracy98.19%outputerror0.0123"
    several = {"samples": 3, "output_errors": {"boxes": 0.5, "scores": 0.25}}
    text = squeezed(text_of(lambda console: print_evaluation(several, console)))
    assert text == "samples3outputerrorsboxes0.5outputerrorsscores0.25"


ESCAPES = "w\x1b]0;pwned\x07\x1b[2J\nall targets met\u202e"

SHOWN = r"w\x1b]0;pwned\x07\x1b[2J\nall targets met\u202e"


def test_what_does_not_show_is_escaped(make_report: Callable[..., Report]) -> None:
    layer = LayerResult(ESCAPES, "Conv", (64, 64, 3, 3), 36864, 0.5, 0.01, 0.02)
    report = make_report(layers=(layer,), frozen=(Frozen(ESCAPES, "Conv", ESCAPES),), notes=(ESCAPES,))
    text = text_of(lambda console: print_report(report, console), 200)
    assert text.replace("\n", "").isprintable()
    assert text.count(SHOWN) == 4
    page = render_html(report)
    assert page.replace("\n", "").isprintable()
    assert SHOWN in page


def test_progress_escapes_names() -> None:
    for terminal in (False, True):
        console = Console(file=io.StringIO(), force_terminal=terminal, width=120)
        progress = terminal_progress(console=console)
        with progress.stage(ESCAPES, 1):
            progress.say(f"[red]{ESCAPES}[/red]")
        shown = console.file.getvalue()
        assert "pwned\x07" not in shown
        assert rf"[red]{SHOWN}[/red]" in shown
