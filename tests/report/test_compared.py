"""Two runs side by side."""

from __future__ import annotations

from collections.abc import Callable

from console_text import text_of

from obs_onnx.report import print_comparison
from obs_onnx.results.pruning import Figures, LayerResult, Report


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_figures_and_what_differs(make_report: Callable[..., Report]) -> None:
    layer = LayerResult("a", "Conv", (8, 3), 24, 0.5, widths=(3, 8), kept_widths=(3, 4))
    one = make_report(layers=(layer,), options={"rounds": 2, "seed": 1, "output": "b.onnx"})
    small = Figures(100, 20, 90, 500)
    layers = (LayerResult("a", "Conv", (8, 3), 24, 0.5, widths=(3, 8), kept_widths=(3, 2)),)
    other = make_report(
        layers=layers,
        after=small,
        output_error=0.1,
        options={"seed": 1},
        targets={"sparsity": 0.8},
        output="c.onnx",
    )
    text = text_of(lambda console: print_comparison(("r.json", "s.json"), (one, other), console), 120)
    found = rows(text)
    assert ["non-zero", "100", "40", "20", "x", "0.5"] in found
    assert ["output", "error", "0.05", "0.1", "x", "2"] in found
    assert ["rounds", "2", "-"] in found
    assert ["target", "sparsity", "0.75", "0.8"] in found
    assert ["a", "3,", "4", "3,", "2"] in found
    assert "warning" not in text
    assert not any(row[:1] == ["output"] and row[1] != "error" for row in found)


def test_different_questions_are_told(make_report: Callable[..., Report]) -> None:
    one, other = make_report(), make_report(before=Figures(50, 50, 90, 500, accuracy=0.9, runtime="openvino"))
    text = text_of(lambda console: print_comparison(("r", "s"), (one, other), console), 120)
    assert "warning: the dense models are different ones" in text
    assert "warning: accuracy was measured on other data" in text
    assert "warning: latency is that of onnxruntime and of openvino" in text


def test_it_fits(make_report: Callable[..., Report]) -> None:
    text = text_of(lambda console: print_comparison(("r", "s"), (make_report(),) * 2, console), 60)
    assert max(map(len, text.splitlines())) <= 60
