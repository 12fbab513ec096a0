"""One sentence says what a run came to."""

from __future__ import annotations

from collections.abc import Callable

from obs_onnx.report.page.verdict import verdict
from obs_onnx.results.pruning import Figures, Missed, Report


def test_the_sentence(make_report: Callable[..., Report]) -> None:
    assert verdict(make_report()) == (
        "The smaller model keeps 40 % of the parameters that are not zero, takes 110 % of the time, "
        "is right for 97.00 % of the labelled samples (98.00 % before) "
        "and differs by an output error of 0.05; what was asked for, sparsity=0.75, holds."
    )
    small, dense = Figures(50, 50, 45, 400), Figures(100, 100, 90, 1000)
    assert verdict(make_report(before=dense, after=small, targets={})) == (
        "The smaller model keeps 50 % of the multiply-accumulates, 50 % of the parameters that are not "
        "zero and 40 % of the bytes of the file, decides as before on 99.0 % of the samples "
        "and differs by an output error of 0.05."
    )


def test_what_does_not_hold(make_report: Callable[..., Report]) -> None:
    missed = make_report(met=False, missed=(Missed("sparsity", 0.75, 0.5),))
    assert verdict(missed).endswith(
        "what was asked for does not hold: sparsity=0.75 is missed, 0.5 was reached."
    )
    timed = make_report(met=False, targets={"latency": 0.5}, after=Figures(1, 1, 1, 1))
    assert verdict(timed).endswith("what was asked for, latency=0.5, does not hold, which was not measured.")


def test_nothing(make_report: Callable[..., Report]) -> None:
    assert verdict(make_report(output=None, layers=())) == "Nothing was pruned: a dry run."
    same = Figures(100, 100, 90, 1000)
    text = verdict(make_report(before=same, after=same, output_error=None, agreement=None, targets={}))
    assert text == "The model is as large as it was."
