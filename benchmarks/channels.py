"""One-shot channel pruning without retraining: top-1 at a half and a third of the multiply-accumulates.

    OBS_ONNX_DATA=<folder with data/ and models/> python benchmarks/channels.py [NET ...] [--effort normal]
        [--results docs/results.json]

Calibrates on 2,048 unlabelled training images, measures on labelled images the pruning never saw, and
prints one row per net and target: top-1 of the dense and the smaller model, what is left of it, seconds,
peak memory.
"""

from __future__ import annotations

from one_shot import parser, table
from results_file import Results

HALF, THIRD = "macs=0.5", "macs=0.3333"
TARGETS: dict[str, list[tuple[str, float]]] = {
    "lenet5": [(HALF, 99.1), (THIRD, 99.0)],
    "cifarnet": [(HALF, 80.5), (THIRD, 75.0)],
    "resnet32": [(HALF, 87.0), (THIRD, 83.5)],
    "mobilenetv2": [(HALF, 87.0), (THIRD, 86.8)],
    "vit": [(HALF, 78.5), (THIRD, 74.8)],
    "vgg16": [(HALF, 90.0), (THIRD, 89.0)],
}
COLUMNS = {
    "MACs %": "{macs:.2f}",
    "parameters %": "{params:.2f}",
    "error held out / unseen": "{held:.3f} / {unseen:.3f}",
    "seconds": "{seconds:.0f}",
    "GB": "{gigabytes:.1f}",
}

if __name__ == "__main__":
    options = parser(__doc__ or "", TARGETS)
    options.add_argument("--round-to", type=int, default=None)
    options.add_argument("--no-compensate", action="store_true")
    args = options.parse_args()
    given = {"mode": "channels", "round_to": args.round_to, "compensate": not args.no_compensate}
    results = Results.of(options, args, "channels", ("net", "target"), free=("nets", "target", "stages"))
    table(args, TARGETS, given, COLUMNS, results)
