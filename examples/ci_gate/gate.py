"""Prune models and end with the exit code that says what came of it: what a pipeline waits for.

    python gate.py --target macs=0.5 --target drop=1% models/*.onnx

0: all targets hold. 2: something given is wrong. 3: a target is not met. Nothing is written but where
--output names a folder.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path


def gate(models: Sequence[str], targets: Sequence[str], calib: str | None, folder: Path) -> int:
    """The largest exit code of all models; each says in a line what came of it."""
    worst = 0
    for model in models:
        words = [sys.executable, "-m", "obs_onnx", "prune", model, "-o", str(folder / Path(model).name)]
        words += [f"--target={one}" for one in targets] + ([f"--calib={calib}"] if calib else [])
        worst = max(worst, subprocess.run([*words, "--no-latency", "--summary"], check=False).returncode)
    return worst


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+")
    parser.add_argument("--target", action="append", required=True)
    parser.add_argument("--calib", help="by default <stem>.calib.npz beside each model")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) if given.output is None else given.output
        folder.mkdir(parents=True, exist_ok=True)
        return gate(given.models, given.target, given.calib, folder)


if __name__ == "__main__":
    sys.exit(main())
