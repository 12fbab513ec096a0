"""The command line by which benchmarks prune, in a process of its own."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["prune_command"]


def prune_command(
    model: Path, calib: Path, *, output: Path, result: Path, effort: str, targets: Sequence[str]
) -> list[str]:
    """Words of ``obs-onnx prune`` without latency.

    Args:
        model, calib: files that are read.
        output, result: files that are written: the model, and the report as JSON.
        effort, targets: as the options take them.
    """
    words = [sys.executable, "-m", "obs_onnx", "prune", str(model), "-o", str(output), "--calib", str(calib)]
    words += ["--effort", effort, "--json", str(result), "-q", "--no-latency"]
    return words + [word for target in targets for word in ("--target", target)]
