"""The command ``obs-onnx``: parse, call the API, print. What is heavy is imported when it is called.

In: the command line. Out: text on the terminal and an exit code (0 done, 2 bad input, 3 a target was not
met, 4 something behind a written result failed). Next: :mod:`obs_onnx.entrypoints` does the work.
"""

from __future__ import annotations

import os

import click

from obs_onnx import __version__
from obs_onnx.cli.artifacts import artifacts
from obs_onnx.cli.bench import bench
from obs_onnx.cli.errors import Program
from obs_onnx.cli.evaluate import evaluate
from obs_onnx.cli.finetune import finetune
from obs_onnx.cli.gradient import gradient
from obs_onnx.cli.inspect import inspect
from obs_onnx.cli.pareto import pareto
from obs_onnx.cli.prune import prune, replay
from obs_onnx.cli.score import score

__all__ = ["main"]

_IDLE = "20"  # 2^20 cycles, below a millisecond: threads of OpenBLAS that wait longer sleep, by default 2^26


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="obs-onnx")
def main() -> None:
    """Prune ONNX models with layer-wise Optimal Brain Surgeon, and prove the result."""
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", _IDLE)  # read when numpy is imported


for command in (prune, pareto, inspect, bench, evaluate, gradient, finetune, score, artifacts, replay):
    main.add_command(command)
