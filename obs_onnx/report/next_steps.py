"""What to do once a run has ended, by what it gave."""

from __future__ import annotations

import shlex

from obs_onnx.allocation.targets import LATENCY
from obs_onnx.results.pruning import Report, plain

__all__ = ["next_steps"]

_CHANNELS = "channels"
_INTERFACE = {"change_caches", "vocabulary"}  # options with which both models take the same data no more
_SLOWER = 1.0  # of the dense model's time
_LOST, _FAR = 0.005, 0.1  # of the accuracy, and of the outputs, that training gets back a part of


def next_steps(report: Report) -> list[str]:
    """What helps where something is not as it might be, and else how the result is checked."""
    model, output = shlex.quote(report.model), report.output
    if output is None:
        return []
    steps = [
        f"ask for what is possible: --target {one.target}={plain(one.possible)}"
        for one in report.missed
        if one.possible
    ]
    if report.mode == _CHANNELS and LATENCY.name not in report.targets and _is_slower(report):
        steps.append(f"smaller but no faster: add --target {LATENCY.name}=0.9")
    if "finetune" not in report.options and _lost_much(report):
        steps.append("accuracy or outputs suffer: add --finetune 300")
    if not steps and report.before.accuracy is None and not _INTERFACE & set(report.options):
        small = shlex.quote(output)
        steps.append(f"on data of your own: obs-onnx eval {small} --data test.npz --against {model}")
    return steps


def _is_slower(report: Report) -> bool:
    before, after = report.before.latency_ms, report.after.latency_ms
    return before is not None and after is not None and after.median >= _SLOWER * before.median


def _lost_much(report: Report) -> bool:
    before, after = report.before.accuracy, report.after.accuracy
    if before is not None and after is not None:
        return before - after > _LOST
    return (report.output_error or 0.0) > _FAR
