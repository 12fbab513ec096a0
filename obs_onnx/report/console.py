"""Results as text for a terminal or a file; narrow widths and ASCII-only outputs are fine."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from obs_onnx.report import format as fmt
from obs_onnx.report.combined import COMBINED, combined_rows
from obs_onnx.report.frontier import COLUMNS, Frontier, frontier_rows
from obs_onnx.report.result import Figures, GroupResult, Latency, LayerResult, Report

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = [
    "print_bench",
    "print_evaluation",
    "print_frontier",
    "print_inspection",
    "print_report",
    "print_scores",
    "quality_lines",
    "total_rows",
]

BAR_CELLS = 8
WIDE_ENOUGH_FOR_BARS = 72


class _Writer:
    """A console and how to write on it: no markup, no highlighting, nothing that its encoding lacks."""

    def __init__(self, console: Console | None) -> None:
        from rich.console import Console

        self.console = console or Console()
        self.ascii = not (self.console.encoding or "ascii").lower().startswith("utf")
        self.full, self.empty, self.arrow = ("#", ".", "->") if self.ascii else ("█", "░", "→")

    def safe(self, text: str) -> str:
        return text.encode("ascii", "replace").decode() if self.ascii else text

    def line(self, text: str = "", style: str | None = None, indent: int = 0) -> None:
        from rich.padding import Padding
        from rich.text import Text

        content = Text(self.safe(text), style=style or "")
        self.console.print(Padding(content, (0, 0, 0, indent)) if indent else content)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> None:
        """Aligned columns under bold headings; the first ``left`` wrap, the others stay whole."""
        from rich.table import Table
        from rich.text import Text

        table: Table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for index, name in enumerate(columns):
            if index < left:
                table.add_column(Text(name), overflow="fold", min_width=min(len(name) or 1, 8))
            else:
                table.add_column(Text(name), justify="right", no_wrap=True)
        for row in rows:
            table.add_row(*(Text(self.safe(cell)) for cell in row))
        self.console.print(table)

    def bar(self, share: float) -> str:
        cells = round(max(0.0, min(1.0, share)) * BAR_CELLS)
        return self.full * cells + self.empty * (BAR_CELLS - cells)


def print_report(report: Report, console: Console | None = None) -> None:
    """Summary of a run on ``console`` (default: stdout)."""
    out = _Writer(console)
    out.line(f"{report.model} {out.arrow} {report.output or '(dry run, nothing written)'}", style="bold")
    out.line(_how(report))
    wanted = ", ".join(f"{key}={value}" for key, value in report.targets.items())
    if wanted:
        reached = "reached" if report.met else "NOT reached"
        out.line(f"target {wanted}: {reached}", style="green" if report.met else "bold red")
    out.line()
    if report.groups:
        _print_groups(out, report.groups)
        out.line()
    if report.layers:
        _print_layers(out, report.layers)
        out.line()
    out.table(("", "before", "after", ""), total_rows(report.before, report.after))
    if report.combinations:
        out.line()
        out.table(COMBINED, combined_rows(report.combinations))
    quality = quality_lines(report)
    if quality:
        out.line()
    for text in quality:
        out.line(text)
    _print_frozen(out, report.frozen)
    if report.notes:
        out.line()
    for note in report.notes:
        out.line(f"note: {note}", style="yellow")
    if report.seconds:
        stages = ", ".join(f"{name} {value:.1f} s" for name, value in report.seconds.items())
        out.line()
        out.line(f"time: {stages}", style="dim")


def print_inspection(
    model: str,
    layers: Iterable[object],
    frozen: Iterable[object] = (),
    totals: Mapping[str, int | str | None] | None = None,
    console: Console | None = None,
    *,
    groups: Iterable[object] = (),
    frozen_channels: Iterable[object] = (),
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
    """
    out = _Writer(console)
    out.line(model, style="bold")
    out.line()
    rows = []
    for layer in map(_fields, layers):
        kept = fmt.percent(layer.get("kept"))
        counts = (fmt.count(layer["weights"]), fmt.count(layer.get("macs")))
        rows.append((layer["name"], layer["op_type"], _shape(layer["shape"]), *counts, kept))
    out.table(("layer", "operator", "shape", "weights", "MACs", "non-zero"), rows, left=2)
    if totals:
        out.line()
        out.table(("", "total"), [(_label(key), _figure(key, value)) for key, value in totals.items()])
    coupled = [_fields(group) for group in groups]
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
    _print_frozen(out, frozen)
    _print_frozen(out, frozen_channels, "keeps channels from being removed")


def print_bench(results: Iterable[object], console: Console | None = None) -> None:
    """Latencies side by side, the first model as the measure of the others.

    Args:
        results: dicts or dataclasses with ``model``, ``median``, ``p10``, ``p90`` (milliseconds) and
            ``runs``, optionally ``ratio`` (to the first latency), ``runtime``, ``threads``, ``batch``.
        console: default stdout.
    """
    out = _Writer(console)
    rows = [_fields(result) for result in results]
    if not rows:
        return
    settings = [
        f"{key} {rows[0][key]}" for key in ("runtime", "threads", "batch") if rows[0].get(key) is not None
    ]
    out.line(", ".join(settings))
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


def print_evaluation(result: object, console: Console | None = None) -> None:
    """Figures of one evaluation, one per line.

    Args:
        result: a dict or dataclass; ``accuracy`` and ``agreement`` are shares, ``output_error`` is relative.
        console: default stdout.
    """
    out = _Writer(console)
    fields = {key: value for key, value in _fields(result).items() if value is not None}
    if "model" in fields:
        out.line(str(fields.pop("model")), style="bold")
    rows = []
    for key, value in fields.items():
        parts = value.items() if isinstance(value, Mapping) else [("", value)]
        rows += [(f"{_label(key)} {name}".rstrip(), _figure(key, part)) for name, part in parts]
    out.table(("", ""), rows)


def print_scores(result: Mapping[str, Any], console: Console | None = None) -> None:
    """One line per group of channels, and the agreement with the oracle where it was measured.

    Args:
        result: as :meth:`obs_onnx.scoring.Scores.to_json` gives it.
        console: default stdout.
    """
    out = _Writer(console)
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
    out = _Writer(console)
    out.line(f"{frontier.model} {out.arrow} {frontier.output or '(nothing written)'}", style="bold")
    out.line(f"{frontier.by} against {frontier.cost}, {frontier.runtime}, batch {frontier.batch}")
    out.line()
    rows = frontier_rows(frontier)
    used = [i for i, _ in enumerate(COLUMNS) if any(row[i] != fmt.DASH for row in rows)]
    out.table([COLUMNS[i] for i in used], [[row[i] for i in used] for row in rows])
    if frontier.notes:
        out.line()
    for note in frontier.notes:
        out.line(f"note: {note}", style="yellow")
    stages = ", ".join(f"{name} {value:.1f} s" for name, value in frontier.seconds.items())
    out.line()
    out.line(f"time: {stages}", style="dim")


def _quantiles(scores: Sequence[float]) -> tuple[float, float, float]:
    ordered = sorted(scores)
    return ordered[0], ordered[len(ordered) // 2], ordered[-1]


def _correlation(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _speed_up(first: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    ratio = row.get("ratio") or (row["median"] / first["median"] if first["median"] else None)
    return f"{1 / ratio:.2f}" if ratio else fmt.DASH


def _how(report: Report) -> str:
    parts = [report.mode, f"criterion {report.criterion}"]
    parts += [
        f"{name} {value}" for name, value in (("method", report.method), ("pattern", report.pattern)) if value
    ]
    if report.damping is not None:
        parts.append(f"damping {report.damping:g}")
    if report.seed is not None:
        parts.append(f"seed {report.seed}")
    return ", ".join(parts)


def _print_layers(out: _Writer, layers: Sequence[LayerResult]) -> None:
    measured = any(layer.measured_error is not None for layer in layers)
    wide = out.console.width >= WIDE_ENOUGH_FOR_BARS
    rows = []
    for layer in layers:
        bar = (out.bar(layer.kept),) if wide else ()
        errors = (fmt.error(layer.predicted_error), fmt.error(layer.measured_error)) if measured else ()
        rows.append((layer.name, _shape(layer.shape), *bar, fmt.percent(layer.kept), *errors))
    headings = (*(("",) if wide else ()), "kept", *(("predicted", "measured") if measured else ()))
    out.table(("layer", "shape", *headings), rows)


def _print_groups(out: _Writer, groups: Sequence[GroupResult]) -> None:
    wide = out.console.width >= WIDE_ENOUGH_FOR_BARS
    rows = []
    for group in groups:
        bar = (out.bar(group.kept / group.channels),) if wide else ()
        rows.append(
            (group.name, fmt.count(group.tensors), *bar, fmt.count(group.kept), fmt.count(group.channels))
        )
    out.table(("channels of", "tensors", *(("",) if wide else ()), "kept", "of"), rows)


def total_rows(before: Figures, after: Figures) -> list[tuple[str, str, str, str]]:
    """(figure, before, after, change) as text, for everything that was measured."""
    keys = ("parameters", "nonzero", "macs", "peak_activation_bytes", "file_bytes", "compressed_bytes")
    rows = []
    for key in keys:
        old, new = getattr(before, key), getattr(after, key)
        if old is not None or new is not None:
            rows.append((_label(key), _figure(key, old), _figure(key, new), fmt.times(old, new)))
    old_ms, new_ms = before.latency_ms, after.latency_ms
    if old_ms or new_ms:
        where = before.runtime or after.runtime
        label = f"latency ({where})" if where else "latency"
        old, new = (latency.median if latency else None for latency in (old_ms, new_ms))
        rows.append((label, fmt.milliseconds(old), fmt.milliseconds(new), fmt.times(old, new)))
        rows.append(("  10 % .. 90 %", _spread(old_ms), _spread(new_ms), ""))
    if before.accuracy is not None or after.accuracy is not None:
        change = ""
        if before.accuracy is not None and after.accuracy is not None:
            change = f"{100 * (after.accuracy - before.accuracy):+.2f}"
        rows.append(("accuracy", fmt.percent(before.accuracy, 2), fmt.percent(after.accuracy, 2), change))
    return rows


def quality_lines(report: Report) -> list[str]:
    """One sentence each about the error measured, the agreement and the bound."""
    lines = []
    if report.output_error is not None:
        lines.append(
            f"output error {fmt.error(report.output_error)} (relative, on held-out calibration data)"
        )
    if report.agreement is not None:
        lines.append(f"same top-1 class on {fmt.percent(report.agreement)} of the held-out samples")
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


def _print_frozen(out: _Writer, frozen: Iterable[object], heading: str = "left alone") -> None:
    """Nodes under a heading, grouped by their reason."""
    reasons: dict[str, list[str]] = {}
    for item in map(_fields, frozen):
        reasons.setdefault(item["reason"], []).append(f"{item['node']} ({item['op_type']})")
    if not reasons:
        return
    out.line()
    out.line(f"{heading}:", style="bold")
    for reason, nodes in reasons.items():
        out.line(f"{', '.join(nodes)}: {reason}", indent=2)


def _fields(item: object) -> dict[str, Any]:
    if isinstance(item, Mapping):
        return dict(item)
    if dataclasses.is_dataclass(item):
        return {f.name: getattr(item, f.name) for f in dataclasses.fields(item)}
    raise TypeError(f"neither a mapping nor a dataclass: {type(item).__name__}")


def _spread(latency: Latency | None) -> str:
    return f"{latency.p10:.3g}..{latency.p90:.3g} ms" if latency else fmt.DASH


def _shape(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape))


_LABELS = {
    "nonzero": "non-zero",
    "macs": "MACs",
    "peak_activation_bytes": "peak activations",
    "peak_node": "peak at",
    "file_bytes": "file",
    "compressed_bytes": "file, zipped",
    "output_error": "output error",
}


def _label(key: str) -> str:
    return _LABELS.get(key, key.replace("_", " "))


def _figure(key: str, value: Any) -> str:
    """``value`` the way its name asks for."""
    if value is None:
        return fmt.DASH
    if key.endswith("bytes"):
        return fmt.size(value)
    if key in ("accuracy", "agreement") or key.startswith("accuracy"):
        return fmt.percent(value, 2)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return fmt.count(value) if isinstance(value, int) else fmt.error(value)
