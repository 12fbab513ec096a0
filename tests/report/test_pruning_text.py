"""The report of a run as text: any width, any encoding, nothing lost."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace

import pytest
from console_text import text_of
from rich.console import Console

from obs_onnx.meter import StageCost
from obs_onnx.report import print_report
from obs_onnx.report.pruning_text import criterion_text, total_rows, widths_text
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


def test_what_was_asked_and_reached_stands_last(make_report: Callable[..., Report]) -> None:
    report = make_report(reached={"sparsity": 0.7512}, seconds={"refit": 1.5, "total": 4.0, "open": 0.01})
    lines = text_of(
        lambda console: print_report(report, console, files=["b.onnx", "r.json"]), 200
    ).splitlines()
    assert lines[-4:-1] == [
        "target sparsity=0.75: reached, 0.7512",
        "written: b.onnx, r.json",
        "next: accuracy or outputs suffer: add --finetune 300",
    ]
    assert lines[-1] == "time: 4.0 s, refit 1.5 s"
    dry = make_report(output=None, layers=(), met=False, seconds={"open": 1.0})
    lines = text_of(lambda console: print_report(dry, console), 200).splitlines()
    assert lines[-2:] == ["target sparsity=0.75: not tried, this is a dry run", "time: open 1.0 s"]


def test_the_criterion_that_was_chosen(make_report: Callable[..., Report]) -> None:
    assert criterion_text(make_report(criterion="auto")) == "auto (obs)"
    assert criterion_text(make_report(criterion="auto", layers=(), method="obs")) == "auto (obs)"
    assert criterion_text(make_report(criterion="obs")) == "obs"


def test_widths_before_and_after() -> None:
    layer = LayerResult("a", "Conv", (64, 32, 3, 3), 9, 0.5, widths=(32, 64), kept_widths=(16, 40))
    assert widths_text(layer, "->") == "32, 64 -> 16, 40"
    assert widths_text(replace(layer, kept_widths=(32, 64)), "->") == "32, 64"
    assert widths_text(replace(layer, kept_widths=(0, 0)), "->") == "32, 64 -> gone"
    assert widths_text(replace(layer, widths=None), "->") == "64x32x3x3"


def test_more_is_told_when_asked(make_report: Callable[..., Report]) -> None:
    costs = (StageCost("forward", 1.0, 2.0, 3_000_000, 7, 1),)
    report = make_report(stages=costs, options={"rounds": 2}, environment={"cpu": "fast"})
    plain = text_of(lambda console: print_report(report, console), 120)
    told = text_of(lambda console: print_report(report, console, verbose=True), 120)
    assert "3.0 MB" not in plain
    rows = [line.split() for line in told.splitlines()]
    assert ["forward", "1.00", "s", "2.00", "s", "3.0", "MB", "7", "1"] in rows
    assert ["rounds", "2"] in rows
    assert ["cpu", "fast"] in rows


def test_integers_are_shown_where_there_are_some(make_report: Callable[..., Report]) -> None:
    report = make_report()
    before = replace(report.before, weight_bits=9.5, integer_macs=0.98)
    after = replace(report.after, weight_bits=9.25, integer_macs=0.975)
    rows = {row[0]: row[1:] for row in total_rows(replace(report, before=before, after=after))}
    assert rows["bits per weight"] == ("9.5", "9.25", "x 0.974")
    assert rows["computed in integers"] == ("98.0 %", "97.5 %", "")
    assert not {"bits per weight", "computed in integers"} & {row[0] for row in total_rows(report)}
