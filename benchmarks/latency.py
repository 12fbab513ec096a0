"""Latency as an objective: predicted against measured, and pruned to a share of the dense model's.

    OBS_ONNX_DATA=<folder with data/ and models/> python benchmarks/latency.py [NET ...]
        [--table predicted|pruned] [--runtime onnxruntime|openvino] [--target latency=0.5]
        [--results docs/results.json]

The first table takes models of random widths, over the whole range, and compares the latency that is
predicted from blocks with the one that is measured. The second prunes to a share of the dense latency. What
is called measured comes from a loop of this script's own, one thread, one sample, each model in turn with
the dense one. Latencies of blocks that are known from earlier runs are used again; an empty folder in
OBS_ONNX_CACHE measures all of them.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from one_shot import images
from results_file import PACKAGES, Results, add_results
from scipy.stats import spearmanr

NETS = ("lenet5", "cifarnet", "resnet32", "mobilenetv2", "vgg16", "vit")
TARGETS = {
    "mobilenetv2": ("latency=0.5", 0.52, 86.8),
    "vgg16": ("latency=0.33", 0.35, 89.0),
    "resnet32": ("latency=0.6", 0.62, 86.5),
}
LOWEST = 0.12  # share of the channels of the narrowest random models
BLOCK_SECONDS = 0.01

Run = Callable[[], object]


def opened(model: bytes, x: np.ndarray, runtime: str) -> Run:
    """A function that runs the model once on one thread, without anything of obs-onnx."""
    if runtime.startswith("openvino"):
        import openvino

        core = openvino.Core()
        options = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY"}
        compiled = core.compile_model(core.read_model(model), "CPU", options)
        request = compiled.create_infer_request()
        request.set_input_tensor(openvino.Tensor(x))

        def infer() -> None:
            request.start_async()
            request.wait()

        return infer
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: x})


def ratio(dense: Run, other: Run, seconds: float) -> float:
    """Median over rounds of the other one's median time in a round, by the dense one's."""

    def timed(run: Run, runs: int) -> float:
        run()
        times = []
        for _ in range(runs):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        return float(np.median(times))

    runs = [max(3, int(BLOCK_SECONDS / timed(run, 5))) for run in (dense, other)]
    found, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or len(found) < 5:
        if len(found) % 2:
            below, above = timed(dense, runs[0]), timed(other, runs[1])
        else:
            above, below = timed(other, runs[1]), timed(dense, runs[0])
        found.append(above / below)
    return float(np.median(found))


def predicted(root: Path, net: str, args: argparse.Namespace) -> dict[str, object]:
    """A row of the first table."""
    from obs_onnx.io.onnx_file import load_model, serialize
    from obs_onnx.latency import measure_table
    from obs_onnx.latency.blocks import narrowed
    from obs_onnx.passes.canonical.own_constants import prepare
    from obs_onnx.passes.channels.coupling import couple
    from obs_onnx.runtimes import open_runtime

    coupling = couple(prepare(load_model(root / "models" / f"{net}.onnx")))
    local = open_runtime("onnxruntime", 1)
    (spec,) = local.session(serialize(coupling.model)).inputs
    x = np.random.default_rng(0).normal(size=(1, *spec.shape[1:])).astype(np.float32)
    start = time.perf_counter()
    table = measure_table(coupling, open_runtime(args.runtime, 1), local, {spec.name: x})
    seconds = time.perf_counter() - start
    rng, guesses, truths = np.random.default_rng(args.seed), [], []
    dense = opened(serialize(coupling.model), x, args.runtime)
    for middle in rng.permutation(np.linspace(LOWEST, 1, args.plans)):
        plan = {}
        for group in coupling.groups:
            own = np.array(table.counts[group.id])
            share = np.clip(middle * rng.lognormal(0, 0.4), 0, 1)
            plan[group.id] = int(own[np.abs(own - share * group.n).argmin()])
        guesses.append(table.cost.value(plan) / table.dense_ms)
        truths.append(
            ratio(dense, opened(serialize(narrowed(coupling, plan)), x, args.runtime), args.seconds)
        )
        if args.plain:
            print(f"    {guesses[-1]:.3f} predicted, {truths[-1]:.3f} measured", flush=True)
    errors = np.abs(np.array(guesses) / truths - 1)
    return {
        "net": net,
        "runtime": args.runtime,
        "dense_ms": table.dense_ms,
        "least": min(truths),
        "most": max(truths),
        "median": float(100 * np.median(errors)),
        "largest": float(100 * errors.max()),
        "rank": float(spearmanr(guesses, truths)[0]),
        "own": 100 * table.error,
        "timed": table.timed,
        "asked": table.asked,
        "seconds": seconds,
    }


def pruned(root: Path, net: str, args: argparse.Namespace) -> dict[str, object]:
    """A row of the second table."""
    from obs_onnx import evaluate, prune

    target, most, floor = TARGETS.get(net, ("latency=0.5", float("nan"), float("nan")))
    if args.target:
        target, most, floor = args.target, float("nan"), float("nan")
    x, _ = images(root, net, "train", 2048)
    test, labels = images(root, net, "val", 5000)
    model = root / "models" / f"{net}.onnx"
    options = {"effort": args.effort, "rounds": args.rounds, "runtime": args.runtime, "threads": 1}
    with tempfile.TemporaryDirectory() as folder:
        out, start = Path(folder, "pruned.onnx"), time.perf_counter()
        report = prune(model, out, calib={"input": x}, targets=[target], **options).report
        seconds = time.perf_counter() - start
        both = [opened(path.read_bytes(), test[:1], args.runtime) for path in (model, out)]
        share = ratio(*both, 4 * args.seconds)
        labelled = {"input": test, "labels": labels}
        dense, small = (100 * evaluate(path, labelled, batch_size=250).accuracy for path in (model, out))
    if args.plain:
        for note in report.notes:
            print(f"    {note}")
        print("   ", {stage: round(value, 1) for stage, value in report.seconds.items()}, flush=True)
    return {
        "net": net,
        "runtime": args.runtime,
        "target": target,
        "met": "yes" if report.met else "no",
        "latency": share,
        "most": most,
        "dense": dense,
        "top1": small,
        "floor": floor,
        "macs": 100 * report.after.macs / report.before.macs,
        "seconds": seconds,
    }


TABLES = {
    "predicted": (
        predicted,
        NETS,
        {
            "net": "{net}",
            "runtime": "{runtime}",
            "dense ms": "{dense_ms:.2f}",
            "measured shares": "{least:.2f} to {most:.2f}",
            "median error": "**{median:.1f} %**",
            "largest": "{largest:.1f} %",
            "rank correlation": "**{rank:.3f}**",
            "own estimate of the error": "{own:.1f} %",
            "blocks timed": "{timed} of {asked}",
            "seconds": "{seconds:.0f}",
        },
        "latency_predicted",
        ("net", "runtime"),
    ),
    "pruned": (
        pruned,
        tuple(TARGETS),
        {
            "net": "{net}",
            "runtime": "{runtime}",
            "target": "{target}",
            "met": "{met}",
            "timed": "**{latency:.3f}**",
            "at most": "{most}",
            "top-1": "**{top1:.2f}**",
            "at least": "{floor}",
            "MACs left": "{macs:.1f} %",
            "seconds": "{seconds:.0f}",
        },
        "latency",
        ("net", "runtime", "target"),
    ),
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("nets", nargs="*", metavar="NET", help=", ".join(NETS))
    parser.add_argument("--table", choices=TABLES, action="append", help="both by default")
    parser.add_argument("--runtime", default="onnxruntime", help="onnxruntime or openvino")
    parser.add_argument("--target", help="of the second table, instead of the listed ones")
    parser.add_argument("--plans", type=int, default=20, help="random models of the first table")
    parser.add_argument("--seconds", type=float, default=1.0, help="to time a pair of models")
    parser.add_argument("--effort", default="normal")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plain", action="store_true", help="print every model, notes and stages, too")
    add_results(parser)
    args = parser.parse_args()
    if "OBS_ONNX_DATA" not in os.environ:
        sys.exit("set OBS_ONNX_DATA to a folder with data/ and models/")
    if args.runtime not in ("onnxruntime", "openvino"):
        sys.exit("this script's own loop knows onnxruntime and openvino")
    from obs_onnx.runtimes.machine import describe_machine

    machine = describe_machine()
    print(
        f"{machine['cpu']}, {machine['logical_cores']} cores, load {machine['load_average']}; {args.runtime}"
    )
    for name in args.table or TABLES:
        row, nets, columns, kept, key = TABLES[name]
        free = ("nets", "table", "runtime", "target", "plain")
        packages = dict.fromkeys((*PACKAGES, args.runtime))
        results = Results.of(parser, args, kept, key, free=free, packages=packages)
        print(f"\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)
        for net in args.nets or nets:
            found = row(Path(os.environ["OBS_ONNX_DATA"]).resolve(), net, args)
            print(f"| {' | '.join(cell.format(**found) for cell in columns.values())} |", flush=True)
            results.keep(found)
