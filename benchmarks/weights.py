"""One-shot weight pruning without retraining: top-1 at fixed sparsities, next to what is to be reached.

    OBS_ONNX_DATA=<folder with data/ and models/> python benchmarks/weights.py [NET ...] [--effort normal]
        [--results docs/results.json]

Calibrates on 2,048 unlabelled training images, measures on labelled images the pruning never saw, and
prints one row per net and target: top-1 of the dense and the pruned model, seconds, peak memory.
"""

from __future__ import annotations

from one_shot import parser, table
from results_file import Results

TARGETS: dict[str, list[tuple[str, float]]] = {
    "lenet300": [("sparsity=0.93", 98.0), ("sparsity=0.985", 95.0)],
    "lenet5": [("sparsity=0.93", 99.2), ("sparsity=0.985", 98.5)],
    "cifarnet": [("sparsity=0.9", 82.3)],
    "resnet32": [("sparsity=0.8", 87.4), ("sparsity=0.9", 84.0), ("2:4", 88.2)],
    "mobilenetv2": [("sparsity=0.8", 86.3), ("sparsity=0.9", 84.3), ("sparsity=0.95", 79.0)],
    "vit": [("sparsity=0.8", 79.6), ("sparsity=0.9", 77.0)],
    "vgg16": [("sparsity=0.9", 90.4), ("sparsity=0.95", 89.6)],
}
COLUMNS = {
    "zeros %": "{zeros:.2f}",
    "error held out / unseen": "{held:.3f} / {unseen:.3f}",
    "seconds": "{seconds:.0f}",
    "GB": "{gigabytes:.1f}",
}

if __name__ == "__main__":
    options = parser(__doc__ or "", TARGETS)
    options.add_argument("--loss", default="auto")
    options.add_argument("--no-sequential", action="store_true")
    args = options.parse_args()
    given = {"mode": "weights", "loss": args.loss, "sequential": not args.no_sequential}
    results = Results.of(options, args, "weights", ("net", "target"), free=("nets", "target", "stages"))
    table(args, TARGETS, given, COLUMNS, results)
