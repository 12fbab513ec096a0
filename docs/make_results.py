"""Writes results.md, and the three results in README.md, from results.json, which the benchmarks fill.

python benchmarks/channels.py --results docs/results.json      # ... and so on, where there is data
python docs/make_results.py
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).resolve().parent
FILE, PAGE, README = DOCS / "results.json", DOCS / "results.md", DOCS.parent / "README.md"
BEGIN, END = "<!-- made by docs/make_results.py -->", "<!-- end -->"

Cell = str | float | bool | None
Row = Mapping[str, Cell]

HEAD = """# Measured

Written by `python docs/make_results.py` from [results.json](results.json); each table names the script that
fills it ([how to reproduce](reproduce.md)). Small networks: the lenets are trained on MNIST, all others on a
JPEG copy of CIFAR-10. Unless a table says something else: one shot, 2,048 unlabelled calibration images,
**no retraining**, default options; top-1 in percent on images that pruning never saw.
"""


@dataclass(frozen=True)
class Table:
    """How a table of the file is shown.

    Attributes:
        name: in the file.
        title, about: heading, and what has to be said of it.
        columns: heading -> what stands in a cell, with the names of a row's figures.
        behind: what is to be said below.
    """

    name: str
    title: str
    about: str
    columns: Mapping[str, str]
    behind: str = ""


NET = "{net} ({dense:.1f})"
TABLES = (
    Table(
        "channels",
        "Channels removed",
        "Targets are shares of the dense model's multiply-accumulates.",
        {
            "net (dense top-1)": NET,
            "target": "{target}",
            "top-1": "**{pruned:.1f}**",
            "multiply-accumulates left": "{macs:.1f} %",
            "parameters left": "{params:.1f} %",
            "output error, unseen data": "{unseen:.3f}",
        },
    ),
    Table(
        "latency",
        "Channels removed until the latency holds",
        "`--target latency=... --threads 1`: one image on one thread, timed by a loop of the script's "
        "own, in turn with the dense model, whose time is 1.",
        {
            "net (dense top-1)": NET,
            "runtime": "{runtime}",
            "target": "{target}",
            "latency": "**{latency:.3f}**",
            "top-1": "**{top1:.1f}**",
            "multiply-accumulates left": "{macs:.1f} %",
            "met by the program's clock": "{met}",
        },
        "Sessions of OpenVINO of one and the same model differ by some percent in time.",
    ),
    Table(
        "latency_predicted",
        "Latency predicted from widths",
        "Models of random widths: what is predicted from blocks against what is measured, as shares of "
        "the dense model's.",
        {
            "net": "{net}",
            "runtime": "{runtime}",
            "dense, ms": "{dense_ms:.2f}",
            "shares": "{least:.2f} to {most:.2f}",
            "median error": "**{median:.1f} %**",
            "largest": "{largest:.1f} %",
            "rank correlation": "**{rank:.3f}**",
        },
    ),
    Table(
        "pareto",
        "The frontier",
        "`obs-onnx pareto` with onnxruntime on one thread, beside models that keep the same share of "
        "all widths (uniform), chosen and refitted in the same way.",
        {
            "net": "{net}",
            "model": "{model}",
            "latency": "{ratio:.0%}",
            "top-1": "**{accuracy:.1%}**",
        },
    ),
    Table(
        "quantization",
        "Channels removed, and integers",
        "`--target macs=0.5 --quantize int8`; latency of one image on one thread of onnxruntime, as a "
        "share of the dense float model's. Pruning and int8 do not always add up: a pruned model may be "
        "slower in integers than the dense one.",
        {
            "net": "{net}",
            "top-1 dense": "{dense_top1:.1f}",
            "dense int8": "{dense_int8_top1:.1f}",
            "pruned": "{pruned_top1:.1f}",
            "pruned int8": "**{pruned_int8_top1:.1f}**",
            "file dense": "{dense_kb:,.0f} kB",
            "file pruned int8": "{pruned_int8_kb:,.0f} kB",
            "latency dense": "{dense_ms:.2g} ms",
            "latency dense int8": "{dense_int8_latency:.2f}",
            "latency pruned": "{pruned_latency:.2f}",
            "latency pruned int8": "{pruned_int8_latency:.2f}",
        },
    ),
    Table(
        "quantized",
        "Roundings",
        "Rounding by error feedback against other roundings ([integers](quantization.md)); the loss is "
        "the cross-entropy in nats beyond that of the float model of the same part.",
        {
            "part": "{part}",
            "model": "{model}",
            "MB": "{megabytes:.3f}",
            "top-1": "{top1:.2f}",
            "cross-entropy": "{entropy:.4f}",
            "points lost": "{points:.2f}",
            "loss": "{loss:.5f}",
        },
    ),
    Table(
        "weights",
        "Zeros",
        "`--mode weights`. Zeros make nothing faster on dense kernels "
        "([why](faq.md#why-is-a-sparse-model-not-faster)).",
        {
            "net (dense top-1)": NET,
            "target": "{target}",
            "top-1": "**{pruned:.1f}**",
            "zeros": "{zeros:.1f} %",
            "output error, unseen data": "{unseen:.3f}",
        },
    ),
    Table(
        "retraining",
        "Light retraining",
        "Top-1 before and after; the zeros of every written file are counted. The optimizer `foof` is "
        "the default of the trainer `graph`: it steps by the inverse Hessian of each layer's inputs, "
        "the matrix that pruning goes by ([methods](methods.md#14-retraining)). The lenets were trained "
        "with AdamW.",
        {
            "what": "{what}",
            "updates": "{updates:,}",
            "top-1 before": "{before:.1f}",
            "after": "**{after:.1f}**",
        },
    ),
)

SHORT = {  # of the README: what was asked for -> table, key, cells
    "half of the multiply-accumulates": ("channels", {"net": "resnet32", "target": "macs=0.5"}),
    "0.6 of the latency (onnxruntime, one thread)": (
        "latency",
        {"net": "resnet32", "runtime": "onnxruntime", "target": "latency=0.6"},
    ),
    "80 % zeros": ("weights", {"net": "resnet32", "target": "sparsity=0.8"}),
}
_GOT = {
    "channels": ("{macs:.1f} % of them", "{dense:.1f} → **{pruned:.1f}**"),
    "latency": ("{latency:.3f}", "{dense:.1f} → **{top1:.1f}**"),
    "weights": ("{zeros:.1f} %", "{dense:.1f} → **{pruned:.1f}**"),
}


def page(tables: Mapping[str, Mapping[str, object]]) -> str:
    """The whole page; tables without rows are left out."""
    return "\n".join([HEAD, *(_table(one, tables[one.name]) for one in TABLES if one.name in tables)])


def short(tables: Mapping[str, Mapping[str, object]]) -> str:
    """Three results."""
    lines = ["| resnet32, asked for | reached | top-1 | printed by |", "|---|---|---|---|"]
    for asked, (name, key) in SHORT.items():
        found = [row for row in _rows(tables[name]) if key.items() <= row.items()]
        if not found:
            raise SystemExit(f"{FILE.name}: {name} has no row {key}")
        cells = (asked, *(_cell(text, found[0]) for text in _GOT[name]), f"`{tables[name]['script']}`")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def readme(text: str, tables: Mapping[str, Mapping[str, object]]) -> str:
    """The README with these three."""
    before, _, rest = text.partition(BEGIN)
    _, _, behind = rest.partition(END)
    return f"{before}{BEGIN}\n{short(tables)}\n{END}{behind}"


def read() -> Mapping[str, Mapping[str, object]]:
    """All tables."""
    found: Mapping[str, Mapping[str, object]] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def _table(shown: Table, table: Mapping[str, object]) -> str:
    rows = _rows(table)
    filled = {
        head: cells
        for head, text in shown.columns.items()
        if any(cells := [_cell(text, row) for row in rows])
    }
    lines = [f"## {shown.title}\n", shown.about, f"Printed by `{table['script']}`. {_made(rows)}\n"]
    lines += [f"| {' | '.join(filled)} |", "|---" * len(filled) + "|"]
    lines += [f"| {' | '.join(cells)} |" for cells in zip(*filled.values(), strict=True)]
    return "\n".join([*lines, *([f"\n{shown.behind}"] if shown.behind else []), ""])


def _rows(table: Mapping[str, object]) -> Sequence[Row]:
    rows = table["rows"]
    assert isinstance(rows, list)
    return rows


def _cell(text: str, row: Row) -> str:
    """A cell; empty where a figure is not known."""
    try:
        return text.format(**row)
    except (KeyError, TypeError):  # not there, or None
        return ""


def _made(rows: Sequence[Row]) -> str:
    """With what the rows were measured."""
    known = [row["made"] for row in rows if isinstance(row.get("made"), Mapping)]
    earlier = len(rows) - len(known)
    said = []
    for key in dict.fromkeys(name for made in known for name in made):
        values = sorted({str(made[key]) for made in known if key in made})
        said.append(f"{'' if key in ('date', 'cpu') else f'{key} '}{' and '.join(values)}")
    told = f"Measured with {', '.join(said)}." if said else ""
    if not earlier:
        return told
    which = "All rows" if earlier == len(rows) else f"{earlier} of the rows"
    return f"{told} {which} come from an earlier version of the program, whose date was not kept.".strip()


if __name__ == "__main__":
    tables = read()
    PAGE.write_text(page(tables), encoding="utf-8")
    README.write_text(readme(README.read_text(encoding="utf-8"), tables), encoding="utf-8")
