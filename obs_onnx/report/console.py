"""Results as text for a terminal or a file; narrow widths and ASCII-only outputs are fine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from obs_onnx.allocation.targets import METRIC
from obs_onnx.report import format as fmt
from obs_onnx.report.comparison_table import COMBINED, combined_rows
from obs_onnx.report.frontier_table import COLUMNS, frontier_rows
from obs_onnx.report.pruning_text import print_frozen, print_remarks
from obs_onnx.report.quality_text import PARTS, part_rows
from obs_onnx.report.text_writer import Writer, fields_of, figure_text, label_of, shape_text
from obs_onnx.results.frontier import Frontier
from obs_onnx.results.pruning import Combination, PartError

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "print_bench",
    "print_combinations",
    "print_evaluation",
    "print_frontier",
    "print_inspection",
    "print_scores",
]


def print_inspection(
    model: str,
    layers: Iterable[object],
    frozen: Iterable[object] = (),
    totals: Mapping[str, int | str | None] | None = None,
    console: Console | None = None,
    *,
    groups: Iterable[object] = (),
    frozen_channels: Iterable[object] = (),
    shapes: Mapping[str, Sequence[int]] | None = None,
    free: Sequence[str] = (),
) -> None:
    """What a model holds.

    Args:
        model: file.
        layers: dicts or dataclasses with ``name``, ``op_type``, ``shape``, ``weights`` and optionally
            ``macs`` and ``kept``.
        frozen: dicts or dataclasses with ``node``, ``op_type``, ``reason``.
        totals: figures by name (``parameters``, ``macs``, ``file_bytes`` ...).
        console: default stdout.
        groups: dicts or dataclasses with ``name``, ``channels``, ``tensors``, ``macs``.
        frozen_channels: like ``frozen``, for channels.
        shapes: of the inputs at which multiply-accumulates and memory were counted.
        free: names of sizes that counted as one there.
    """
    out = Writer(console)
    out.line(model, style="bold")
    if shapes:
        out.line(f"counted at {inputs_text(shapes)}")
    if free:
        out.line(f"free sizes count as one: {', '.join(free)}; give others by --size NAME=N", style="yellow")
    out.line()
    rows = []
    for layer in map(fields_of, layers):
        kept = fmt.percent(layer.get("kept"))
        counts = (fmt.count(layer["weights"]), fmt.count(layer.get("macs")))
        rows.append((layer["name"], layer["op_type"], shape_text(layer["shape"]), *counts, kept))
    out.table(("layer", "operator", "shape", "weights", "MACs", "non-zero"), rows, left=2)
    if totals:
        out.line()
        out.table(("", "total"), [(label_of(key), figure_text(key, value)) for key, value in totals.items()])
    coupled = [fields_of(group) for group in groups]
    if coupled:
        out.line()
        out.table(
            ("channels of", "channels", "tensors", "MACs"),
            [
                (
                    group["name"],
                    fmt.count(group["channels"]),
                    fmt.count(len(group["tensors"])),
                    fmt.count(group["macs"]),
                )
                for group in coupled
            ],
        )
    print_frozen(out, frozen)
    print_frozen(out, frozen_channels, "keeps channels from being removed")


def print_bench(
    results: Iterable[object],
    console: Console | None = None,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    timed_on: str = "",
) -> None:
    """Latencies side by side, the first model as the measure of the others.

    Args:
        results: dicts or dataclasses with ``model``, ``median``, ``p10``, ``p90`` (milliseconds) and
            ``runs``, optionally ``ratio`` (to the first latency), ``runtime``, ``threads``, ``batch``.
        console: default stdout.
        shapes: of the arrays that were timed, by input.
        timed_on: what they are.
    """
    out = Writer(console)
    rows = [fields_of(result) for result in results]
    if not rows:
        return
    settings = [
        f"{key} {rows[0][key]}" for key in ("runtime", "threads", "batch") if rows[0].get(key) is not None
    ]
    out.line(", ".join(settings))
    if shapes:
        out.line(f"timed on {timed_on}: {inputs_text(shapes)}")
    out.line()
    out.table(
        ("model", "median", "10 %", "90 %", "runs", "speed-up"),
        [
            (
                str(row["model"]),
                *(fmt.milliseconds(row[key]) for key in ("median", "p10", "p90")),
                fmt.count(row.get("runs")),
                _speed_up(rows[0], row),
            )
            for row in rows
        ],
    )


def print_combinations(
    title: str,
    combinations: Sequence[Combination],
    notes: Iterable[str] = (),
    alerts: Iterable[str] = (),
    console: Console | None = None,
) -> None:
    """Forms of a model side by side.

    Args:
        title: above them.
        combinations: the forms, measured.
        notes: what the reader should know.
        alerts: what must not be overlooked.
        console: default stdout.
    """
    out = Writer(console)
    out.line(title, style="bold")
    out.line()
    rows = combined_rows(combinations)
    used = [i for i, _ in enumerate(COMBINED) if any(row[i] != fmt.DASH for row in rows)]
    out.table([COMBINED[i] for i in used], [[row[i] for i in used] for row in rows])
    for alert in alerts:
        out.line(f"warning: {alert}", style="bold red")
    for note in notes:
        out.line(f"note: {note}", style="yellow")


def print_evaluation(result: object, console: Console | None = None) -> None:
    """Figures of one evaluation, one per line.

    Args:
        result: a dict or dataclass; ``accuracy`` and ``agreement`` are shares, ``output_error`` is relative.
        console: default stdout.
    """
    out = Writer(console)
    fields = {key: value for key, value in fields_of(result).items() if value is not None}
    if "model" in fields:
        out.line(str(fields.pop("model")), style="bold")
    alerts, notes, rows = fields.pop("alerts", ()), fields.pop("notes", ()), []
    for key, value in fields.items():
        if key == "parts":
            continue
        parts = value.items() if isinstance(value, Mapping) else [("", value)]
        if key == "measures":
            rows += [(label_of(name), figure_text(name, part)) for name, part in parts]
            continue
        rows += [(f"{label_of(key)} {name}".rstrip(), figure_text(key, part)) for name, part in parts]
    out.table(("", ""), rows)
    if len(fields.get("parts", ())) > 1:
        out.line()
        out.table(PARTS, part_rows([PartError(**part) for part in fields["parts"]]), left=2)
    for alert in alerts:
        out.line(f"warning: {alert}", style="bold red")
    for note in notes:
        out.line(f"note: {note}", style="yellow")


def print_scores(result: Mapping[str, Any], console: Console | None = None) -> None:
    """One line per group of channels, and the agreement with the oracle where it was measured.

    Args:
        result: as :meth:`obs_onnx.entrypoints.score.Scores.to_json` gives it.
        console: default stdout.
    """
    out = Writer(console)
    groups, spearman = result["groups"], result.get("spearman")
    judged = ("Spearman",) if spearman else ()
    out.table(
        ("channels of", "count", f"{result['criterion']}: least", "median", "most", *judged),
        [
            (
                str(group["name"]),
                fmt.count(group["channels"]),
                *(f"{value:.3g}" for value in _quantiles(group["scores"])),
                *((_correlation(group["spearman"]),) if spearman else ()),
            )
            for group in groups
        ],
    )
    if spearman:
        out.line()
        out.line(f"Spearman with the oracle, mean over groups: {_correlation(spearman['per_layer_mean'])}")
        for key, what in (("all", "all channels"), ("convolutions", "channels of convolutions")):
            if (found := spearman[key]) is not None:
                raw, normalised = _correlation(found["raw"]), _correlation(found["normalised"])
                out.line(f"{what}: raw {raw}, normalised by group {normalised}")


def print_frontier(frontier: Frontier, console: Console | None = None) -> None:
    """The models that nothing dominates, under the dense one; a figure that nobody measured has no column.

    Args:
        frontier: to show.
        console: default stdout.
    """
    out = Writer(console)
    out.line(f"{frontier.model} {out.arrow} {frontier.output or '(nothing written)'}", style="bold")
    quality = frontier.metric if frontier.by == METRIC.name and frontier.metric else frontier.by
    out.line(f"{quality} against {frontier.cost}, {frontier.runtime}, batch {frontier.batch}")
    out.line()
    rows = frontier_rows(frontier)
    used = [i for i, _ in enumerate(COLUMNS) if any(row[i] != fmt.DASH for row in rows)]
    out.table([COLUMNS[i] for i in used], [[row[i] for i in used] for row in rows])
    print_remarks(out, frontier)
    stages = ", ".join(f"{name} {value:.1f} s" for name, value in frontier.seconds.items())
    out.line()
    out.line(f"time: {stages}", style="dim")


def inputs_text(shapes: Mapping[str, Sequence[int]]) -> str:
    """Inputs with their shapes: ``image 1x3x224x224, scale (one number)``."""
    return ", ".join(f"{name} {shape_text(shape) or '(one number)'}" for name, shape in shapes.items())


def _quantiles(scores: Sequence[float]) -> tuple[float, float, float]:
    ordered = sorted(scores)
    return ordered[0], ordered[len(ordered) // 2], ordered[-1]


def _correlation(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _speed_up(first: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    ratio = row.get("ratio") or (row["median"] / first["median"] if first["median"] else None)
    return f"{1 / ratio:.2f}" if ratio else fmt.DASH
