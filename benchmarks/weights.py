"""One-shot weight pruning without retraining: top-1 at fixed sparsities, next to published figures.

    OBS_ONNX_DATA=<folder with data/ and models/> python benchmarks/weights.py [NET ...] [--effort normal]

Calibrates on 2,048 unlabelled training images, measures on labelled images the pruning never saw, and
prints one row per net and target: top-1 of the dense and the pruned model, seconds, peak memory.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

TARGETS: dict[str, list[tuple[str, float]]] = {
    "lenet300": [("sparsity=0.93", 98.0), ("sparsity=0.985", 95.0)],
    "lenet5": [("sparsity=0.93", 99.2), ("sparsity=0.985", 98.5)],
    "cifarnet": [("sparsity=0.9", 82.3)],
    "resnet32": [("sparsity=0.8", 87.4), ("sparsity=0.9", 84.0), ("2:4", 88.2)],
    "mobilenetv2": [("sparsity=0.8", 86.3), ("sparsity=0.9", 84.3), ("sparsity=0.95", 79.0)],
    "vit": [("sparsity=0.8", 79.6), ("sparsity=0.9", 77.0)],
    "vgg16": [("sparsity=0.9", 90.4), ("sparsity=0.95", 89.6)],
}


def images(root: Path, net: str, split: str, count: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Normalised images and labels, by the loader that lies beside the data."""
    sys.path.insert(0, str(root / "data"))
    import load

    x, y = (load.mnist if net.startswith("lenet") else load.cifar10)(split, count)
    return x, y


def run(root: Path, net: str, target: str, options: dict[str, object], queue: multiprocessing.Queue) -> None:
    """Prune and evaluate in a process of its own, so that memory is that of one run."""
    from obs_onnx import evaluate, prune

    with tempfile.TemporaryDirectory() as folder:
        x, _ = images(root, net, "train", 2048)
        np.savez(Path(folder, "calib.npz"), input=x)
        x, y = images(root, net, "val", None)
        test = {"input": x, "labels": y}
        model, out = root / "models" / f"{net}.onnx", Path(folder, "pruned.onnx")
        start = time.perf_counter()
        what = {"mode": "weights", **({"targets": [target]} if "=" in target else {"pattern": target})}
        result = prune(model, out, calib=Path(folder, "calib.npz"), latency=False, **what, **options)
        seconds = time.perf_counter() - start
        dense = evaluate(model, test, batch_size=250)
        pruned = evaluate(out, test, batch_size=250, against=model)
        report = result.report
        zeros = 1 - sum(layer.kept * layer.weights for layer in report.layers) / sum(
            layer.weights for layer in report.layers
        )
        queue.put(
            {
                "dense": 100 * dense.accuracy,
                "pruned": 100 * pruned.accuracy,
                "zeros": 100 * zeros,
                "held": report.output_error,
                "unseen": pruned.output_error,
                "seconds": seconds,
                "gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
                "stages": dict(report.seconds),
            }
        )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("nets", nargs="*", metavar="NET", help=", ".join(TARGETS))
    parser.add_argument("--target", action="append", help="instead of the listed ones, e.g. error=0.05")
    parser.add_argument("--effort", default="normal")
    parser.add_argument("--criterion", default="auto")
    parser.add_argument("--damping", type=float, default=None)
    parser.add_argument("--loss", default="auto")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--no-sequential", action="store_true")
    parser.add_argument("--stages", action="store_true", help="print the seconds of every stage")
    args = parser.parse_args()
    if "OBS_ONNX_DATA" not in os.environ:
        sys.exit("set OBS_ONNX_DATA to a folder with data/ and models/")
    root = Path(os.environ["OBS_ONNX_DATA"]).resolve()
    options: dict[str, object] = {
        "effort": args.effort,
        "criterion": args.criterion,
        "loss": args.loss,
        "rounds": args.rounds,
        "sequential": not args.no_sequential,
    }
    if args.damping is not None:
        options["damping"] = args.damping
    from obs_onnx.environment import describe_machine

    packages = ", ".join(f"{name} {version(name)}" for name in ("onnxruntime", "numpy", "scipy", "onnx-ir"))
    print(f"{describe_machine()['cpu']}, {os.cpu_count()} cores; {packages}")
    print(f"effort {args.effort}, criterion {args.criterion}, 2,048 calibration images, no retraining")
    print("| net | target | dense | pruned | at least | zeros % | error held out / unseen | seconds | GB |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    context = multiprocessing.get_context("spawn")
    for net in args.nets or TARGETS:
        targets = [(t, float("nan")) for t in args.target] if args.target else TARGETS[net]
        for target, floor in targets:
            queue = context.Queue()
            worker = context.Process(target=run, args=(root, net, target, options, queue))
            worker.start()
            while worker.is_alive() and queue.empty():
                worker.join(0.2)
            if queue.empty():
                print(f"| {net} | {target} | failed |", flush=True)
                continue
            r = queue.get()
            worker.join()
            print(
                f"| {net} | {target} | {r['dense']:.2f} | **{r['pruned']:.2f}** | {floor} | {r['zeros']:.2f} "
                f"| {r['held']:.3f} / {r['unseen']:.3f} | {r['seconds']:.0f} | {r['gigabytes']:.1f} |",
                flush=True,
            )
            if args.stages:
                print("   ", {k: round(v, 1) for k, v in r["stages"].items()}, flush=True)


if __name__ == "__main__":
    main()
