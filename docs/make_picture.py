"""Draw the terminal picture of the README: a real run of `obs-onnx prune` on the bundled model.

python docs/make_picture.py        # writes docs/run.svg
"""

from __future__ import annotations

import html
import io
import re
import tempfile
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from obs_onnx import prune
from obs_onnx.report import print_report

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "run.svg"


def record() -> Console:
    """Prune and print; what was printed is recorded."""
    model = ROOT / "models" / "digits_mlp.onnx"
    console = Console(record=True, width=88, file=io.StringIO(), force_terminal=True)
    console.print("[bold green]$[/] obs-onnx prune models/digits_mlp.onnx --eval models/digits_mlp.test.npz")
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "digits_mlp.pruned.onnx")
        result = prune(model, output, eval=model.with_name("digits_mlp.test.npz"))
    names = {"model": "models/digits_mlp.onnx", "output": "models/digits_mlp.pruned.onnx"}
    notes = tuple(note for note in result.report.notes if "noisy" not in note)  # of the machine that draws
    print_report(replace(result.report, **names, notes=notes), console)
    return console


def shape(text: str) -> str:
    """What is the same in every run: letters alone, without notes, advice and what took how long."""
    text = re.sub(r"note:.*?(?=before +after)", "", text, flags=re.DOTALL)
    return "".join(
        re.findall("[a-z]", re.sub(r"^(next|time):? .*", "", text, flags=re.DOTALL | re.MULTILINE))
    )


def drawn(svg: str) -> str:
    """The text of a picture, line by line."""
    lines: dict[float, str] = {}
    for y, text in re.findall(r'<text class="[^"]*-r\d+"[^>]* y="([\d.]+)"[^>]*>([^<]*)</text>', svg):
        lines[float(y)] = lines.get(float(y), "") + html.unescape(text).replace("\xa0", " ")
    return "\n".join(lines[y] for y in sorted(lines))


if __name__ == "__main__":
    record().save_svg(str(PICTURE), title="obs-onnx")
