"""What to do next follows from what a run gave."""

from __future__ import annotations

from collections.abc import Callable

from obs_onnx.report.next_steps import next_steps
from obs_onnx.results.pruning import Figures, Latency, Missed, Report


def figures(milliseconds: float, accuracy: float | None) -> Figures:
    return Figures(9, 9, 9, 9, 9, Latency(milliseconds, 1.0, 2.0, 9), "onnxruntime", accuracy)


def test_each_case(make_report: Callable[..., Report]) -> None:
    fine = {
        "before": figures(2, 0.9),
        "after": figures(1, 0.899),
        "mode": "channels",
        "targets": {"macs": 0.5},
    }
    assert next_steps(make_report(**fine)) == []
    assert next_steps(make_report(**fine, output=None)) == []
    (slow,) = next_steps(make_report(**{**fine, "after": figures(2.1, 0.9)}))
    assert slow == "smaller but no faster: add --target latency=0.9"
    assert next_steps(make_report(**{**fine, "after": figures(2.1, 0.9), "targets": {"latency": 0.5}})) == []
    (worse,) = next_steps(make_report(**{**fine, "after": figures(1, 0.8)}))
    assert worse.endswith("add --finetune 300")
    assert next_steps(make_report(**{**fine, "after": figures(1, 0.8)}, options={"finetune": 3})) == []
    missed = (Missed("macs", 0.1, 0.3, 0.25), Missed("error", 0.1, 0.3))
    assert next_steps(make_report(**fine, missed=missed)) == ["ask for what is possible: --target macs=0.25"]
    unlabelled = {**fine, "before": figures(2, None), "after": figures(1, None)}
    (check,) = next_steps(make_report(**unlabelled, model="my net.onnx"))
    assert check == "on data of your own: obs-onnx eval b.onnx --data test.npz --against 'my net.onnx'"
    for option in ("vocabulary", "change_caches"):
        assert next_steps(make_report(**unlabelled, options={option: "seen"})) == []
