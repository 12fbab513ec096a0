"""The command ``obs-onnx``: parse, call the API, print. A command is imported when it is called.

In: the command line. Out: text on the terminal and an exit code (0 done, 2 bad input, 3 a target was not
met, 4 something behind a written result failed). Next: :mod:`obs_onnx.entrypoints` does the work.
"""

from __future__ import annotations

import os

import click

from obs_onnx.cli.errors import Lazy, Program
from obs_onnx.cli.saved.completion import SHELLS, install_completion

__all__ = ["main"]

_IDLE = "20"  # 2^20 cycles, below a millisecond: threads of OpenBLAS that wait longer sleep, by default 2^26

_COMMANDS = {
    "artifacts": Lazy("artifacts:artifacts", "Write what onnxruntime needs to train MODEL on a device."),
    "bench": Lazy("bench:bench", "Time MODELS side by side; ratios are to the first."),
    "compare": Lazy(
        "saved.show:compare", "Compare the RESULTS of two runs of prune, as JSON, figure by figure."
    ),
    "eval": Lazy("evaluate:evaluate", "Measure the accuracy of MODEL, and how far it is from a reference."),
    "finetune": Lazy("finetune:finetune", "Train MODEL a little; zeros of a pruned model stay zeros."),
    "gradient": Lazy("gradient:gradient", "Write MODEL with a loss and its gradients as further outputs."),
    "inspect": Lazy(
        "inspect:inspect", "Show the layers and channels of MODEL, and what is left alone and why."
    ),
    "join": Lazy(
        "prune:join",
        "Write MODELS, an encoder and its decoders in the order in which they run, as one model.",
    ),
    "pareto": Lazy("pareto:pareto", "Write the frontier of smaller models of MODEL."),
    "prune": Lazy("prune:prune", "Prune MODEL and write a smaller one."),
    "quantize": Lazy("prune:quantize", "Write MODEL in integers, and compare both."),
    "replay": Lazy("prune:replay", "Remove the channels that KEEP, a keep.json, leaves out from MODEL."),
    "report": Lazy(
        "saved.show:report", "Show RESULT, the JSON of a prune or a pareto, and write it as a page."
    ),
    "score": Lazy("score:score", "Score the channels of MODEL."),
    "split": Lazy("prune:split", "Write the files that MODEL was joined of, with the sizes that are left."),
}


@click.group(
    cls=Program,
    lazy=_COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="obs-onnx", prog_name="obs-onnx")
@click.option(
    "--install-completion",
    type=click.Choice(("auto", *SHELLS)),
    is_flag=False,
    flag_value="auto",
    is_eager=True,
    expose_value=False,
    callback=install_completion,
    help="Complete commands and options in the shell, by default the one that SHELL names.",
)
def main() -> None:
    """Prune ONNX models with layer-wise Optimal Brain Surgeon, and prove the result."""
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", _IDLE)  # read when numpy is imported
