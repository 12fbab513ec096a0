"""Channel pruning of a folder of models: valid, equivalent, MACs reached, seconds.

Every model goes through ``prune()`` as a user would run it: a file, random calibration data, a target, no
retraining. What was written is then checked by code of its own: the full ONNX checker, onnxruntime, the
outputs against the dense model in which the channels missing from ``keep.json`` are silenced (for another
batch and other lengths too), and the multiply-accumulates of a run. Each model has a process of its own, so
that a crash or a hang counts as one.

    python benchmarks/zoo.py [NAME ...] [--root DIR] [--macs 0.5] [--criterion magnitude] [--compensate]
                             [--effort normal] [--samples 64] [--timeout 600] [--random SEED] [--verbose]

``--random SEED`` checks a random selection of channels through the passes alone.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

from obs_onnx import prune
from obs_onnx.evaluation.run_cost import measured
from obs_onnx.passes.canonical.own_constants import prepare
from obs_onnx.passes.channels.coupling import couple
from obs_onnx.passes.channels.keep_file import keep_file
from obs_onnx.passes.channels.remove_channels import RemoveChannels
from obs_onnx.passes.channels.silence import silence
from obs_onnx.passes.errors import InputError
from obs_onnx.runtimes import open_runtime

LIMIT, HALF_LIMIT = 5e-3, 3e-2  # relative error of outputs in float32, and in shorter types


def main() -> int:
    options = parse()
    if options.root is None:
        sys.exit("set OBS_ONNX_DATA to a folder with zoo/, or give --root")
    root = Path(options.root) / "zoo"
    if not root.exists():
        print(f"skipped: no {root}")
        return 0
    paths = sorted([*root.glob("skeletons/*.onnx"), *root.glob("real/*.onnx")])
    if options.names:
        paths = [path for path in paths if path.stem in options.names]
    if options.row:
        print(json.dumps(examine(load_zoo(root), paths[0], options)))
        return 0
    rows, reasons = [], Counter()
    print(f"{'model':36} outcome  valid  error    others   MACs  seconds    CPU groups frozen")
    for path in paths:
        row = apart(path, options)
        rows.append(row)
        reasons.update(tuple(reason) for reason in row["frozen"])
        print(
            f"{path.stem:36} {row['outcome']:8} {row['valid']!s:6} {row['error']:.1e}  {row['others']:.1e}  "
            f"{row['macs']:.3f} {row['seconds']:7.1f} {row['cpu']:6.1f} {row['groups']:6d} "
            f"{len(row['frozen']):6d}  {row['note']}",
            flush=True,
        )
    print(summary(rows, options))
    for (op_type, reason), count in reasons.most_common(30):
        print(f"{count:6d} {op_type}: {reason}")
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--root", default=os.environ.get("OBS_ONNX_DATA"))
    parser.add_argument("--macs", type=float, default=0.5)
    parser.add_argument("--criterion", default="magnitude")
    parser.add_argument("--compensate", action="store_true")
    parser.add_argument("--effort", default="normal")
    parser.add_argument("--samples", type=int, default=64, help="of calibration data")
    parser.add_argument("--timeout", type=float, default=600, help="seconds a model may take")
    parser.add_argument("--random", type=int, default=None, help="seed of a random selection instead")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--row", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def summary(rows: list[dict[str, Any]], options: argparse.Namespace) -> str:
    outcomes = Counter(row["outcome"] for row in rows)
    seconds = [row["seconds"] for row in rows] or [0.0]
    cpu = [row["cpu"] for row in rows] or [0.0]
    same = sum(row["valid"] and max(row["error"], row["others"]) < row["limit"] for row in rows)
    return (
        f"{len(rows)} models: valid {sum(row['valid'] for row in rows)}, equivalent {same}, "
        f"reach macs={options.macs} {sum(row['macs'] <= options.macs + 0.005 for row in rows)}, "
        f"untouched {outcomes['untouched']}, crashed {outcomes['crash']}, "
        f"median {np.median(seconds):.1f} s, most {max(seconds):.1f} s "
        f"(CPU: median {np.median(cpu):.1f} s, most {max(cpu):.1f} s)"
    )


def blank() -> dict[str, Any]:
    return {
        "outcome": "crash",
        "valid": False,
        "error": math.inf,
        "others": 0.0,
        "macs": 1.0,
        "seconds": 0.0,
        "cpu": 0.0,
        "groups": 0,
        "frozen": [],
        "note": "",
        "limit": LIMIT,
    }


def apart(path: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The row of one model, from a process of its own."""
    given = [a for a in sys.argv[1:] if a not in options.names]
    command = [sys.executable, __file__, path.stem, "--row", *given]
    start = time.time()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=options.timeout)
        if options.verbose:
            print(done.stderr, end="")
        return json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        note = f"not done after {options.timeout:.0f} s"
    except (IndexError, ValueError):
        note = f"the process ended with {done.returncode}: {' '.join(done.stderr.split())[-200:]}"
    return {**blank(), "seconds": time.time() - start, "note": note}


def load_zoo(root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("model_zoo", root / "zoo.py")
    zoo = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(zoo)
    return zoo


def examine(zoo: ModuleType, path: Path, options: argparse.Namespace) -> dict[str, Any]:
    row = blank()
    try:
        proto = zoo.load(path)
        with tempfile.TemporaryDirectory() as folder:
            if options.random is None:
                pruned(zoo, proto, Path(folder), options, row)
            else:
                at_random(zoo, proto, options.random, row)
    except InputError as problem:
        row["note"] = f"{type(problem).__name__}: {problem}"
        if "\n" not in str(problem):
            row.update(outcome="untouched", valid=True, error=0.0)
    except Exception as problem:
        row["note"] = f"{type(problem).__name__}: {' '.join(str(problem).split())[:300]}"
        traceback.print_exc()
    return row


def pruned(
    zoo: ModuleType, proto: onnx.ModelProto, folder: Path, options: argparse.Namespace, row: dict[str, Any]
) -> None:
    """Prune as a user would, and check what was written."""
    file, output = folder / "model.onnx", folder / "small.onnx"
    onnx.save(proto, file)
    calib = write_calibration(zoo, proto, folder, options.samples)
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        result = prune(
            file,
            output,
            calib=calib,
            mode="channels",
            targets={"macs": options.macs},
            criterion=options.criterion,
            compensate=options.compensate,
            effort=options.effort,
            latency=False,
            threads=1,
        )
    finally:
        row["seconds"], row["cpu"] = time.perf_counter() - wall, time.process_time() - cpu
    report = result.report
    row["groups"] = len(report.groups)
    row["frozen"] = [(frozen.op_type, frozen.reason) for frozen in report.frozen]
    stages = {stage: round(seconds, 2) for stage, seconds in report.seconds.items()}
    print({**stages, "met": report.met, "after": report.after.macs}, file=sys.stderr)

    small = onnx.load(output)
    kept = json.loads((folder / "small.keep.json").read_text())["tensors"]
    raw, dense = (couple(prepare(ir.from_proto(proto), canonical=form)) for form in (False, True))
    keep = raw.same_in(dense, raw.keep_from(kept))
    if not options.compensate:
        compare(zoo, proto, ir.to_proto(silence(dense.model, keep, dense)), small, row)
    else:
        onnx.checker.check_model(small, full_check=True)
        run(small, zoo.inputs(proto, 2, seed=1))
        row.update(valid=True, error=0.0)
    runtime, feed = open_runtime("onnxruntime", 1), zoo.inputs(proto, 1)
    before, now = (measured(runtime, prepare(ir.from_proto(model)), feed).macs for model in (proto, small))
    row["macs"] = now / before if before else 1.0
    row["outcome"] = "pruned"


def write_calibration(zoo: ModuleType, proto: onnx.ModelProto, folder: Path, samples: int) -> Path:
    """An npz where the first axis of all inputs is the same free one, else a folder of complete feeds."""
    firsts = {
        value.type.tensor_type.shape.dim[0].dim_param if value.type.tensor_type.shape.dim else ""
        for value in zoo.input_values(proto)
    }
    given = zoo.metadata(proto, "inputs", {}).get("dims", {})
    if len(firsts) == 1 and all(firsts) and not firsts & set(given):
        file = folder / "calib.npz"
        np.savez(file, **zoo.inputs(proto, samples))
        return file
    feeds = folder / "calib"
    feeds.mkdir()
    for seed in range(max(samples // 4, 8)):
        np.savez(feeds / f"{seed}.npz", **zoo.inputs(proto, 2, seed=seed))
    return feeds


def at_random(zoo: ModuleType, proto: onnx.ModelProto, seed: int, row: dict[str, Any]) -> None:
    """Remove random channels, and replay the selection on the model as it came in."""
    start = time.perf_counter()
    model, rng = prepare(ir.from_proto(proto)), np.random.default_rng(seed)
    coupling, keep = couple(model), {}
    for group in coupling.groups:
        keep[group.id] = rng.random(group.n) < rng.uniform(0.3, 1)
        keep[group.id][rng.integers(group.n)] = True
    row["groups"] = len(coupling.groups)
    row["frozen"] = [(frozen.op_type, frozen.reason) for frozen in coupling.frozen]
    small = model.clone()
    RemoveChannels(keep).call(small)
    row["seconds"] = row["cpu"] = time.perf_counter() - start
    compare(zoo, proto, ir.to_proto(silence(model, keep)), ir.to_proto(small), row)
    raw = prepare(ir.from_proto(proto), canonical=False)
    coupling_raw = couple(raw)
    again = coupling_raw.keep_from(keep_file(ir.from_proto(proto), coupling, keep)["tensors"])
    RemoveChannels(again, coupling_raw).call(raw)
    if differs(small, raw):
        row["note"] = "replay differs"
    row["outcome"] = "pruned"


def compare(
    zoo: ModuleType,
    proto: onnx.ModelProto,
    reference: onnx.ModelProto,
    small: onnx.ModelProto,
    row: dict[str, Any],
) -> None:
    onnx.checker.check_model(small, full_check=True)
    feeds = zoo.inputs(proto, 2, seed=1)
    got = run(small, feeds)
    row["valid"] = True
    quantized = any(node.op_type == "QuantizeLinear" for node in small.graph.node)  # a tie may turn over
    if quantized or any(y.dtype.itemsize < 4 for y in got.values()):
        row["limit"] = HALF_LIMIT
    row["error"] = error(run(reference, feeds), got, run(reference, feeds))
    for feeds in other_feeds(zoo, proto):
        try:
            expected, again = run(reference, feeds), run(reference, feeds)
        except Exception:  # a size the model itself does not take
            continue
        row["others"] = max(row["others"], error(expected, run(small, feeds), again))


def run(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, map(np.asarray, session.run(names, feeds)), strict=True))


def error(a: dict[str, np.ndarray], b: dict[str, np.ndarray], again: dict[str, np.ndarray]) -> float:
    """Largest relative difference of an output; those that differ from run to run have to agree in shape."""
    worst = 0.0
    for name, x in a.items():
        y = b[name]
        if x.shape != y.shape:
            return math.inf
        if x.dtype.kind in "OSU" or not np.array_equal(x, again[name], equal_nan=True):
            continue
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        if x.size and not np.array_equal(x, y):
            there = float(np.linalg.norm(x - y) / (np.linalg.norm(x) + 1e-12))
            worst = max(worst, there if math.isfinite(there) else math.inf)
    return worst


def other_feeds(zoo: ModuleType, proto: onnx.ModelProto) -> list[dict[str, np.ndarray]]:
    """Another batch; then another batch and other lengths."""
    found = []
    if zoo.input_shapes(proto, 3) != zoo.input_shapes(proto, 2):
        found.append(zoo.inputs(proto, 3, seed=2))
    names = {
        d.dim_param for v in zoo.input_values(proto) for d in v.type.tensor_type.shape.dim if d.dim_param
    }
    if lengths := names - {"batch", "N"}:
        hints = zoo.metadata(proto, "inputs", {})
        zoo.set_metadata(proto, "inputs", {**hints, "dims": dict.fromkeys(lengths, 11)})
        found.append(zoo.inputs(proto, 1, seed=3))
        zoo.set_metadata(proto, "inputs", hints)
    return found


def differs(a: ir.Model, b: ir.Model) -> bool:
    """Whether values of the same name have different static sizes."""
    before, after = (
        {
            v.name: tuple(dim if isinstance(dim, int) else None for dim in v.shape or ())
            for n in m.graph
            for v in n.outputs
        }
        for m in (a, b)
    )
    return any(after[name] != shape for name, shape in before.items() if name in after)


if __name__ == "__main__":
    sys.exit(main())
