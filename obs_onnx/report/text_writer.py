"""Lines and tables on a terminal or in plain text."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from obs_onnx.allocation.targets import TARGETS
from obs_onnx.report import format as fmt
from obs_onnx.results.pruning import Latency

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


__all__ = []


BAR_CELLS = 8


WIDE_ENOUGH_FOR_BARS = 72


class Writer:
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


def fields_of(item: object) -> dict[str, Any]:
    if isinstance(item, Mapping):
        return dict(item)
    if dataclasses.is_dataclass(item):
        return {f.name: getattr(item, f.name) for f in dataclasses.fields(item)}
    raise TypeError(f"neither a mapping nor a dataclass: {type(item).__name__}")


def spread_text(latency: Latency | None) -> str:
    return f"{latency.p10:.3g}..{latency.p90:.3g} ms" if latency else fmt.DASH


def shape_text(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape))


_LABELS = {
    "nonzero": "non-zero",
    "peak_node": "peak at",
    "compressed_bytes": "file, zipped",
    **{one.figures[-1]: one.label for one in TARGETS.values() if one.figures},
}


def label_of(key: str) -> str:
    return _LABELS.get(key, key.replace("_", " "))


def figure_text(key: str, value: Any) -> str:
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
