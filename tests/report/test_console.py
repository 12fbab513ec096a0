from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from rich.console import Console

from obs_onnx.passes.layers.layer import Frozen
from obs_onnx.progress import Progress
from obs_onnx.report import (
    LayerResult,
    Report,
    print_bench,
    print_evaluation,
    print_inspection,
    print_report,
    quiet,
    terminal_progress,
)
from obs_onnx.report import format as fmt
from obs_onnx.report.html import render_html

TRAP = "/net/[bold]conv$_1$/<script>alert(1)</script>/weight"


def text_of(show: Callable[[Console], None], width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    show(console)
    output = console.file
    assert isinstance(output, io.StringIO)
    return output.getvalue()


def squeezed(text: str) -> str:
    return "".join(text.split())


@pytest.mark.parametrize("width", [40, 80, 200])
def test_report_fits_any_width_and_loses_nothing(width: int, make_report: Callable[..., Report]) -> None:
    layer = LayerResult(TRAP, "Conv", (64, 64, 3, 3), 36864, 0.5, 0.01, 0.02)
    text = text_of(lambda console: print_report(make_report(layers=(layer,)), console), width)
    assert max(map(len, text.splitlines())) <= width
    assert "sparsity=0.75: reached" in text
    assert ("█" in text) == (width >= 72)
    if width == 200:
        for part in (TRAP, "64x64x3x3", "50.0 %", "0.01", "0.02", "x 0.4", "-1.00", "rnn (LSTM): recurrent"):
            assert part in text
        assert "error 2 (Frobenius norms: 3)" in text


def test_report_says_what_it_could_not_prove_or_reach(
    make_report: Callable[..., Report], make_bound: Callable[..., object]
) -> None:
    bound = make_bound(None, None, tuple((f"n{i}", "Exp") for i in range(5)))
    report = make_report(bound=bound, met=False, output=None, notes=("Mind the gap.",))
    text = text_of(lambda console: print_report(report, console), 200)
    assert "no Lipschitz constant for n0 (Exp), n1 (Exp), n2 (Exp) and 2 more" in text
    assert "NOT reached" in text
    assert "nothing written" in text
    assert "note: Mind the gap." in text


def test_output_without_unicode_gets_none(make_report: Callable[..., Report]) -> None:
    raw = io.BytesIO()
    console = Console(file=io.TextIOWrapper(raw, encoding="ascii", write_through=True), width=100)
    layer = LayerResult("größe", "Conv", (1, 1), 1, 0.5)
    print_report(make_report(layers=(layer,)), console)
    assert b"gr??e" in raw.getvalue()
    assert b"####...." in raw.getvalue()
    assert b"a.onnx -> b.onnx" in raw.getvalue()


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


@pytest.mark.parametrize(
    ("value", "text"),
    [(999, "999 B"), (1000, "1.0 kB"), (99_940, "99.9 kB"), (999_600, "1.0 MB"), (123_456_789, "123 MB")],
)
def test_sizes(value: int, text: str) -> None:
    assert fmt.size(value) == text


def test_html_is_self_contained_and_escapes_names(make_report: Callable[..., Report]) -> None:
    layer = LayerResult(TRAP, "Conv", (64, 64, 3, 3), 36864, 0.5, 0.01, 0.02)
    report = make_report(layers=(layer,))
    page = render_html(report)
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "http" not in page
    assert page.count("<img") == page.count('src="data:image/svg+xml;base64,') == 2
    assert page == render_html(report)
    assert "<img" not in render_html(report, plots=False)
    assert "rnn</td><td>LSTM</td>" in render_html(report, plots=False)


def test_html_needs_no_matplotlib(
    monkeypatch: pytest.MonkeyPatch, make_report: Callable[..., Report]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    page = render_html(make_report())
    assert "<img" not in page
    assert "fc1.weight" in page


def run_stages(progress: Progress) -> list[str]:
    done = []
    with progress.stage("outer", 2) as advance:
        with progress.stage("inner") as advance_inner:
            advance_inner(1)
        advance(2)
        done.append("outer")
    with progress.stage("next", 1) as advance:
        advance(1)
        done.append("next")
    return done


def test_progress_shows_bars_on_a_terminal_only() -> None:
    terminal = Console(file=io.StringIO(), width=100, force_terminal=True)
    pipe = Console(file=io.StringIO(), width=100, force_terminal=False)
    shown = terminal_progress(console=terminal)
    assert run_stages(shown) == run_stages(quiet) == ["outer", "next"]
    output = terminal.file
    assert isinstance(output, io.StringIO)
    assert "outer" in output.getvalue()
    assert "2/2" in output.getvalue()
    lines = terminal_progress(console=pipe)
    assert run_stages(lines) == ["outer", "next"]
    lines.say("a message")
    assert isinstance(pipe.file, io.StringIO)
    assert pipe.file.getvalue() == "a message\n"
    assert terminal_progress(console=terminal, silent=True) is quiet


def test_progress_recovers_when_a_stage_fails() -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    progress = terminal_progress(console=console)
    with pytest.raises(ValueError, match="boom"), progress.stage("outer", 2), progress.stage("inner", 1):
        raise ValueError("boom")
    assert run_stages(progress) == ["outer", "next"]


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
