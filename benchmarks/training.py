"""Milliseconds of one training step (forward, backward, update): the graph engine next to others.

    OBS_ONNX_DATA=<folder with models/> python benchmarks/training.py [NET ...] [--threads 2] [--steps 20]
        [--optimizer adamw|sgd] [--ort-training PYTHON] [--torch PYTHON]

``--ort-training`` and ``--torch`` name Python interpreters with obs-onnx[training], and with torch and onnx.
All engines train the same folded model on the same batch in turns, so that a busy machine hits all of them,
and the fastest and the median step count. SGD is without momentum, AdamW without decay: all have these.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx

NETS = {"lenet5": 128, "resnet32": 64, "vgg16": 64}
RATE = 1e-4


def example(path: Path, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """A batch of noise, and labels."""
    dims = onnx.load(path, load_external_data=False).graph.input[0].type.tensor_type.shape.dim
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, *(dim.dim_value for dim in dims[1:]))).astype(np.float32)
    return x, rng.integers(0, 10, batch)


def engine(trainer: str, path: Path, batch: int, threads: int, optimizer: str) -> Callable[[], float]:
    """A step of one of this project's engines; returns the loss."""
    from obs_onnx.io.onnx_file import load_model
    from obs_onnx.passes.autodiff.training_step import Term, trained_weights
    from obs_onnx.passes.canonical.canonicalize import canonicalize
    from obs_onnx.runtimes.onnxruntime import OrtRuntime
    from obs_onnx.training.engines.base import Task, open_engine
    from obs_onnx.training.settings import Settings

    model = canonicalize(load_model(path))
    terms = [Term("cross_entropy", str(model.graph.outputs[0].name), "labels")]
    names = trained_weights(model, terms)
    start = {name: model.graph.initializers[name].const_value.numpy() for name in names}
    settings = Settings(1, optimizer=optimizer, momentum=0.0, decay=0.0, trainer=trainer)
    made = open_engine(OrtRuntime(None, threads), Task(model, terms, start, settings))
    x, labels = example(path, batch)
    feed = {str(model.graph.inputs[0].name): x, "labels": labels}
    return lambda: float(made.step(feed, RATE)[made.loss])


def torch_eager(path: Path, batch: int, threads: int, optimizer: str) -> Callable[[], float]:
    """A step of PyTorch in eager mode, node by node as in the file."""
    import torch
    import torch.nn.functional as F

    torch.set_num_threads(threads)
    graph = onnx.load(path).graph
    held = {t.name: torch.from_numpy(onnx.numpy_helper.to_array(t).copy()) for t in graph.initializer}
    learnt = [t.requires_grad_() for t in held.values() if t.is_floating_point() and t.numel() > 1]
    kinds: dict[str, Any] = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
    updater = kinds[optimizer](learnt, lr=RATE, weight_decay=0.0)
    x, labels = (torch.from_numpy(array) for array in example(path, batch))

    def node(n: onnx.NodeProto, v: dict[str, Any]) -> Any:
        a = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in n.attribute}
        i = [v.get(name) for name in n.input]
        if n.op_type == "Conv":
            pads = a.get("pads", [0, 0])[:2]
            return F.conv2d(i[0], i[1], i[2] if len(i) > 2 else None, a.get("strides", 1), pads)
        if n.op_type == "Gemm":
            return F.linear(i[0], i[1] if a.get("transB") else i[1].T, i[2])
        if n.op_type == "MaxPool":
            return F.max_pool2d(i[0], a["kernel_shape"], a.get("strides"))
        if n.op_type in ("GlobalAveragePool", "ReduceMean"):
            return i[0].mean((2, 3), keepdim=bool(a.get("keepdims", 1)))
        if n.op_type in ("Flatten", "Reshape"):
            return i[0].flatten(1)
        return {"Relu": torch.relu, "Add": torch.add, "Identity": lambda y: y}[n.op_type](*i)

    def run() -> float:
        values = {graph.input[0].name: x, **held}
        for n in graph.node:
            values[n.output[0]] = node(n, values)
        loss = F.cross_entropy(values[graph.output[0].name], labels)
        updater.zero_grad(set_to_none=True)
        loss.backward()
        updater.step()
        return float(loss)

    return run


ENGINES = {
    "graph": partial(engine, "graph"),
    "ort-training": partial(engine, "ort-training"),
    "torch": torch_eager,
}


def serve(arguments: list[str]) -> None:
    """Worker: one step for every line on stdin; prints milliseconds and loss."""
    name, path, batch, threads, optimizer = arguments
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries may print
    run = ENGINES[name](Path(path), int(batch), int(threads), optimizer)
    for _ in sys.stdin:
        start = time.perf_counter()
        loss = run()
        print(json.dumps([1000 * (time.perf_counter() - start), loss]), file=out, flush=True)


def fold(path: Path, folder: Path) -> Path:
    """The model with BatchNormalization folded, for all engines."""
    from obs_onnx.io.onnx_file import load_model, save_model
    from obs_onnx.passes.canonical.canonicalize import canonicalize

    save_model(canonicalize(load_model(path)), folder / path.name)
    return folder / path.name


def compare(path: Path, batch: int, pythons: dict[str, str], args: argparse.Namespace) -> None:
    """Run all engines in turns and print a line for each."""
    workers = {}
    for engine, python in pythons.items():
        command = [python, __file__, "--serve", engine, str(path), str(batch), str(args.threads)]
        workers[engine] = subprocess.Popen(
            [*command, args.optimizer],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
    times: dict[str, list[float]] = {engine: [] for engine in workers}
    losses: dict[str, list[float]] = {engine: [] for engine in workers}
    for _ in range(args.steps):
        for engine, worker in workers.items():
            assert worker.stdin is not None
            assert worker.stdout is not None
            try:
                worker.stdin.write("step\n")
                worker.stdin.flush()
                milliseconds, loss = json.loads(worker.stdout.readline())
            except (BrokenPipeError, ValueError):
                continue
            times[engine].append(milliseconds)
            losses[engine].append(loss)
    for worker in workers.values():
        worker.communicate()
    own = min(times["graph"][2:])
    for engine, found in times.items():
        if not found:
            print(f"{path.stem:10} {batch:5}  {engine:14} failed")
            continue
        best, middle = min(found[2:]), statistics.median(found[2:])
        drift = abs(losses[engine][1] - losses["graph"][1])
        row = f"{path.stem:10} {batch:5}  {engine:14} {best:9.1f} {middle:9.1f}"
        print(f"{row}  x{own / best:5.2f}  {drift:.0e}")


def main() -> None:
    """Parse, compare, print."""
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("nets", nargs="*", default=list(NETS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--optimizer", choices=["adamw", "sgd"], default="adamw")
    parser.add_argument("--ort-training", metavar="PYTHON")
    parser.add_argument("--torch", metavar="PYTHON")
    args = parser.parse_args()
    root = os.environ.get("OBS_ONNX_DATA")
    if not root:
        print("needs outside data: set OBS_ONNX_DATA to the folder with models/")
        return
    others = {"ort-training": args.ort_training, "torch": args.torch}
    pythons = {"graph": sys.executable, **{name: python for name, python in others.items() if python}}
    for name in others.keys() - pythons.keys():
        print(f"skipped: {name} (give its interpreter with --{name})")
    print(f"{'net':10} {'batch':>5}  {'engine':14} {'least ms':>9} {'median':>9}  graph/it  loss difference")
    with tempfile.TemporaryDirectory() as folder:
        for name in args.nets:
            compare(fold(Path(root, "models", f"{name}.onnx"), Path(folder)), NETS[name], pythons, args)


if __name__ == "__main__":
    main()
