"""The report of a run as text: any width, any encoding, nothing lost."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from console_text import text_of
from rich.console import Console

from obs_onnx.report import print_report
from obs_onnx.results.pruning import LayerResult, Report

TRAP = "/net/[bold]conv$_1$/<script>alert(1)</script>/weight"


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
