"""What the benchmarks of one-shot pruning share: data, a process for each run, and the table they print."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import numpy as np
from results_file import PACKAGES, Results, add_results

Targets = Mapping[str, list[tuple[str, float]]]


def images(root: Path, net: str, split: str, count: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Normalised images and labels, by the loader that lies beside the data."""
    sys.path.insert(0, str(root / "data"))
    import load

    x, y = (load.mnist if net.startswith("lenet") else load.cifar10)(split, count)
    return x, y


def run(root: Path, net: str, options: dict[str, object], queue: multiprocessing.Queue) -> None:
    """Prune and evaluate in a process of its own, so that memory is that of one run."""
    from obs_onnx import evaluate, prune

    with tempfile.TemporaryDirectory() as folder:
        x, _ = images(root, net, "train", 2048)
        np.savez(Path(folder, "calib.npz"), input=x)
        x, y = images(root, net, "val", None)
        test = {"input": x, "labels": y}
        model, out = root / "models" / f"{net}.onnx", Path(folder, "pruned.onnx")
        start = time.perf_counter()
        report = prune(model, out, calib=Path(folder, "calib.npz"), latency=False, **options).report
        seconds = time.perf_counter() - start
        dense = evaluate(model, test, batch_size=250)
        pruned = evaluate(out, test, batch_size=250, against=model)
        before, after = report.before, report.after
        kept = sum(layer.kept * layer.weights for layer in report.layers)
        queue.put(
            {
                "dense": 100 * dense.accuracy,
                "pruned": 100 * pruned.accuracy,
                "zeros": 100 * (1 - kept / sum(layer.weights for layer in report.layers)),
                "macs": 100 * after.macs / before.macs,
                "params": 100 * after.parameters / before.parameters,
                "held": report.output_error,
                "unseen": pruned.output_error,
                "seconds": seconds,
                "gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
                "stages": dict(report.seconds),
            }
        )


def parser(description: str, targets: Targets) -> argparse.ArgumentParser:
    """Options that all these benchmarks take."""
    found = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    found.add_argument("nets", nargs="*", metavar="NET", help=", ".join(targets))
    found.add_argument("--target", action="append", help="instead of the listed ones, e.g. error=0.05")
    found.add_argument("--effort", default="normal")
    found.add_argument("--criterion", default="auto")
    found.add_argument("--damping", type=float, default=None)
    found.add_argument("--rounds", type=int, default=1)
    found.add_argument("--stages", action="store_true", help="print the seconds of every stage")
    add_results(found)
    return found


def table(
    args: argparse.Namespace,
    targets: Targets,
    options: dict[str, object],
    columns: Mapping[str, str],
    results: Results,
) -> None:
    """Run all nets and targets and print a row for each.

    Args:
        args: parsed by :func:`parser`.
        targets: net -> (target, or pattern without "=", and the accuracy to reach).
        options: of prune().
        columns: heading -> format of its cell.
        results: where the rows are kept.
    """
    if "OBS_ONNX_DATA" not in os.environ:
        sys.exit("set OBS_ONNX_DATA to a folder with data/ and models/")
    root = Path(os.environ["OBS_ONNX_DATA"]).resolve()
    options = {"effort": args.effort, "criterion": args.criterion, "rounds": args.rounds, **options}
    if args.damping is not None:
        options["damping"] = args.damping
    from obs_onnx.runtimes.machine import describe_machine

    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    print(f"{describe_machine()['cpu']}, {os.cpu_count()} cores; {packages}")
    print(f"effort {args.effort}, criterion {args.criterion}, 2,048 calibration images, no retraining")
    headings = ["net", "target", "dense", "pruned", "at least", *columns]
    print(f"| {' | '.join(headings)} |")
    print("|" + "---|" * len(headings), flush=True)
    context = multiprocessing.get_context("spawn")
    for net in args.nets or targets:
        for target, floor in [(t, float("nan")) for t in args.target] if args.target else targets[net]:
            what = {"targets": [target]} if "=" in target else {"pattern": target}
            queue = context.Queue()
            worker = context.Process(target=run, args=(root, net, {**options, **what}, queue))
            worker.start()
            while worker.is_alive() and queue.empty():
                worker.join(0.2)
            if queue.empty():
                print(f"| {net} | {target} | failed |", flush=True)
                continue
            r = queue.get()
            worker.join()
            cells = [net, target, f"{r['dense']:.2f}", f"**{r['pruned']:.2f}**", str(floor)]
            cells += [text.format(**r) for text in columns.values()]
            print(f"| {' | '.join(cells)} |", flush=True)
            figures = {name: value for name, value in r.items() if name != "stages"}
            results.keep({"net": net, "target": target, **figures})
            if args.stages:
                print("   ", {k: round(v, 1) for k, v in r["stages"].items()}, flush=True)
