"""What was measured of a pruned model's outputs, in sentences and as a table of their parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from obs_onnx.report import format as fmt
from obs_onnx.results.pruning import PartError, Report

__all__ = ["PARTS", "measure_lines", "measured_as", "part_rows", "quality_lines"]

PARTS = ("part of the outputs", "from", "relative to", "weight", "error")

_WHERE = "on held-out calibration data"
_SAME = {
    "segmentation": "same class at {} of the positions",
    "language": "same top-1 token on {} of the tokens",
}
_MEASURES = {
    "kl": "divergence of the class probabilities {} nats (KL, {each})",
    "miou": "mean intersection over union with the labels {}",
    "miou_to_reference": "mean intersection over union with the dense model's classes {}",
    "perplexity": "perplexity {}, of the labels or the next tokens",
    "perplexity_dense": "perplexity of the dense model {}",
    "perplexity_of_reference": "perplexity of the dense model under its own probabilities {}",
    "perplexity_to_reference": "perplexity of the pruned model under the dense model's probabilities {}",
    "cosine": "cosine to the dense model's vectors {}, in the mean",
    "least_cosine": "cosine to the dense model's vectors {}, at least",
}
_EACH = {"segmentation": "per position", "language": "per token"}


def quality_lines(report: Report) -> list[str]:
    """One sentence each about the error measured, the measures of the task, and the bound."""
    lines = []
    if report.output_error is not None:
        lines.append(f"output error {fmt.error(report.output_error)} ({_basis(report.parts)})")
    if report.agreement is not None:
        same = _SAME.get(report.task or "", "same top-1 class on {} of the held-out samples")
        lines.append(same.format(fmt.percent(report.agreement)))
    lines += measure_lines(report.task, report.measures)
    bound = report.bound
    if bound is not None and bound.spectral is not None:
        frobenius = fmt.error(bound.frobenius)
        lines.append(
            f"proven bound of the output error {fmt.error(bound.spectral)} (Frobenius norms: {frobenius})"
        )
    elif bound is not None:
        names = ", ".join(f"{node} ({op_type})" for node, op_type in bound.blocked_by[:3])
        more = len(bound.blocked_by) - 3
        tail = f" and {more} more" if more > 0 else ""
        lines.append(f"no proven bound: no Lipschitz constant for {names}{tail}")
    return lines


def measure_lines(task: str | None, measures: Mapping[str, float]) -> list[str]:
    """One sentence for each measure of a task."""
    each = _EACH.get(task or "", "per sample")
    return [
        text.format(fmt.error(measures[name]), each=each)
        for name, text in _MEASURES.items()
        if name in measures
    ]


def _basis(parts: Sequence[PartError]) -> str:
    """What the error is of, and relative to."""
    if len(parts) < 2:
        basis = parts[0].basis if parts else "size"
        return f"relative to the {basis} of the output, {_WHERE}"
    worst = parts[0]
    origin = f" from {worst.node}" if worst.node else ""
    factor = "" if worst.weight == 1 else f", times its weight {worst.weight:g}"
    which = f"of {worst.name}{origin}, the worst of {len(parts)} parts"
    return f"{which}, relative to its {worst.basis}{factor}, {_WHERE}"


def part_rows(parts: Sequence[PartError]) -> list[tuple[str, ...]]:
    """One row per part under the headings :data:`PARTS`, the worst first; none where there is only one."""
    if len(parts) < 2:
        return []
    return [
        (
            part.name,
            part.node or fmt.DASH,
            f"{part.basis} {fmt.error(part.scale)}",
            f"{part.weight:g}",
            fmt.error(part.error),
        )
        for part in parts
    ]


def measured_as(task: str | None) -> str:
    """How the run is described by its task; nothing where none was asked for or found."""
    return "" if task is None else f"measured as {task}"
