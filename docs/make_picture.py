"""Draw the terminal picture of the README: a real run of `obs-onnx prune` on the bundled model.

python docs/make_picture.py        # writes docs/run.svg
"""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

from rich.console import Console

from obs_onnx import prune
from obs_onnx.report import print_report

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Prune, print, record."""
    model = ROOT / "models" / "digits_mlp.onnx"
    console = Console(record=True, width=88, file=io.StringIO(), force_terminal=True)
    console.print("[bold green]$[/] obs-onnx prune models/digits_mlp.onnx --eval models/digits_mlp.test.npz")
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "digits_mlp.pruned.onnx")
        result = prune(model, output, eval=model.with_name("digits_mlp.test.npz"))
    names = {"model": "models/digits_mlp.onnx", "output": "models/digits_mlp.pruned.onnx"}
    print_report(type(result.report)(**{**vars(result.report), **names}), console)
    console.save_svg(str(ROOT / "docs" / "run.svg"), title="obs-onnx")


if __name__ == "__main__":
    main()
