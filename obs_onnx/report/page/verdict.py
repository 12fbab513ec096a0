"""What a run came to, in one sentence."""

from __future__ import annotations

from obs_onnx.allocation.targets import ERROR, LATENCY, MACS, SIZE
from obs_onnx.report import format as fmt
from obs_onnx.results.pruning import Figures, Report, plain

__all__ = ["verdict"]

_SAME = 0.005  # shares of the dense model within which nothing changed


def verdict(report: Report) -> str:
    """One sentence: what is left, what it costs, whether what was asked for holds."""
    if report.is_dry:
        return "Nothing was pruned: a dry run."
    left = _left(report.before, report.after)
    gained = f"The smaller model keeps {left}" if left else "The model is as large as it was"
    time = _time(report)
    parts = [gained, *([time] if time else []), *_quality(report)]
    text = ", ".join(parts[:-1]) + f" and {parts[-1]}" if len(parts) > 1 else parts[0]
    return f"{text}; {_targets(report)}." if report.targets else f"{text}."


def _left(before: Figures, after: Figures) -> str:
    """Shares of the figures that went down."""
    found = [
        (MACS.axis, before.macs, after.macs),
        ("parameters that are not zero", before.nonzero, after.nonzero),
        (SIZE.axis, before.file_bytes, after.file_bytes),
    ]
    shares = [
        f"{fmt.percent(new / old, 0)} of the {name}"
        for name, old, new in found
        if old and new is not None and new / old < 1 - _SAME
    ]
    return ", ".join(shares[:-1]) + f" and {shares[-1]}" if len(shares) > 1 else "".join(shares)


def _time(report: Report) -> str:
    old, new = report.before.latency_ms, report.after.latency_ms
    if old is None or new is None or not old.median:
        return ""
    reached = report.reached.get(LATENCY.name)  # of runs in turn, where it was a share that was asked for
    share = reached if isinstance(reached, float) else new.median / old.median
    return f"takes {fmt.percent(share, 0)} of the time"


def _quality(report: Report) -> list[str]:
    before, after, found = report.before.accuracy, report.after.accuracy, []
    if before is not None and after is not None:
        found.append(
            f"is right for {fmt.percent(after, 2)} of the labelled samples ({fmt.percent(before, 2)} before)"
        )
    elif report.agreement is not None:
        found.append(f"decides as before on {fmt.percent(report.agreement)} of the samples")
    if report.output_error is not None:
        found.append(f"differs by an output {ERROR.name} of {fmt.error(report.output_error)}")
    return found


def _targets(report: Report) -> str:
    if report.missed:
        told = [
            f"{one.target}={plain(one.wanted)} is missed, {plain(one.reached)} was reached"
            for one in report.missed
        ]
        return f"what was asked for does not hold: {', '.join(told)}"
    wanted = ", ".join(f"{name}={value}" for name, value in report.targets.items())
    timed = (
        "" if LATENCY.name not in report.targets or report.after.latency_ms else ", which was not measured"
    )
    return f"what was asked for, {wanted}, {'holds' if report.met else f'does not hold{timed}'}"
