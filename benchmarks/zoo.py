"""Coverage of channel removal over a folder of models: valid, equivalent, MACs reached, seconds.

No calibration: channels are ranked by the magnitude of the weights they stand in.

    python benchmarks/zoo.py [NAME ...] [--root DIR] [--macs 0.5] [--random] [--verbose]
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import sys
import time
import traceback
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

from obs_onnx.passes.coupling import Coupling, couple
from obs_onnx.passes.prepare import prepare
from obs_onnx.passes.remove_channels import RemoveChannels, replay
from obs_onnx.passes.silence import silence


def macs_of(coupling: Coupling, shapes: dict) -> float:
    total = 0.0
    for node in coupling.model.graph:
        ins = [shapes.get(v) if v is not None else None for v in node.inputs]
        out = shapes.get(node.outputs[0])
        if node.op_type in ("Conv", "FusedConv") and out and ins[1]:
            total += math.prod(out) * math.prod(ins[1][1:])
        elif node.op_type == "ConvTranspose" and ins[0] and ins[1]:
            total += math.prod(ins[0]) * math.prod(ins[1][1:])
        elif node.op_type in ("Gemm", "FusedGemm") and out and ins[0]:
            total += math.prod(out) * ins[0][0 if node.attributes.get_int("transA", 0) else 1]
        elif node.op_type in ("MatMul", "FusedMatMul") and out is not None and ins[0]:
            total += math.prod(out) * ins[0][-2 if node.attributes.get_int("transA", 0) else -1]
        elif node.op_type in ("LSTM", "GRU", "RNN") and ins[0] and ins[1] and ins[2]:
            total += ins[0][0] * ins[0][1] * (math.prod(ins[1]) + math.prod(ins[2]))
        elif node.op_type == "Einsum" and all(i is not None for i in ins):
            terms = node.attributes.get_string("equation").replace(" ", "").split("->")[0].split(",")
            letters = {c: n for t, i in zip(terms, ins, strict=True) for c, n in zip(t, i, strict=False)}
            total += math.prod(letters.values())
    return total


def magnitudes(coupling: Coupling, group) -> np.ndarray:
    score = np.zeros(group.n)
    for site in group.sites:
        tensor = coupling.model.graph.initializers[site.value].const_value
        if not tensor.dtype.is_floating_point():
            continue
        array = np.moveaxis(tensor.numpy().astype(np.float32), site.axis, 0).reshape(
            tensor.shape[site.axis], -1
        )
        score += site.elements @ (array.astype(np.float64) ** 2).sum(1)
    return score


def keep_at(coupling: Coupling, scores: dict, share: float) -> dict:
    keep = {}
    for group in coupling.groups:
        count = max(1, math.ceil(group.n * share))
        mask = np.zeros(group.n, bool)
        mask[np.argsort(-scores[group.id], kind="stable")[:count]] = True
        keep[group.id] = mask
    return keep


def uniform(coupling: Coupling, wanted: float) -> tuple[dict, float]:
    scores = {group.id: magnitudes(coupling, group) for group in coupling.groups}
    dense = macs_of(coupling, coupling.shapes({}))
    low, high = 0.0, 1.0
    best = keep_at(coupling, scores, low)
    reached = macs_of(coupling, coupling.shapes(best)) / max(dense, 1)
    if reached > wanted:
        return best, reached
    for _ in range(8):
        middle = (low + high) / 2
        keep = keep_at(coupling, scores, middle)
        share = macs_of(coupling, coupling.shapes(keep)) / max(dense, 1)
        if share <= wanted:
            low, best, reached = middle, keep, share
        else:
            high = middle
    return best, reached


def randomly(coupling: Coupling, seed: int) -> dict:
    rng = np.random.default_rng(seed)
    keep = {}
    for group in coupling.groups:
        mask = rng.random(group.n) < rng.uniform(0.3, 1)
        mask[rng.integers(group.n)] = True
        keep[group.id] = mask
    return keep


def run(model: onnx.ModelProto, feeds: dict) -> dict:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def error(a: dict, b: dict) -> float:
    worst = 0.0
    for name, x in a.items():
        y = b[name]
        if x.shape != y.shape:
            return math.inf
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        if x.size and not np.array_equal(x, y):
            there = float(np.linalg.norm(x - y) / (np.linalg.norm(x) + 1e-12))
            worst = max(worst, there if math.isfinite(there) else math.inf)
    return worst


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--root", default=os.environ.get("OBS_ONNX_DATA", "../shared"))
    parser.add_argument("--macs", type=float, default=0.5)
    parser.add_argument("--random", type=int, default=None, help="seed of a random selection instead")
    parser.add_argument("--raw", action="store_true", help="without the canonical form")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    root = Path(options.root) / "zoo"
    if not root.exists():
        print(f"skipped: no {root}")
        return 0
    spec = importlib.util.spec_from_file_location("model_zoo", root / "zoo.py")
    zoo = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(zoo)

    paths = sorted([*root.glob("skeletons/*.onnx"), *root.glob("real/*.onnx")])
    if options.names:
        paths = [path for path in paths if path.stem in options.names]
    rows, reasons = [], Counter()
    print(f"{'model':36} valid  error    batch3   MACs  seconds groups frozen")
    for path in paths:
        row = one(zoo, path, options, reasons)
        rows.append(row)
        print(
            f"{path.stem:36} {row['valid']!s:6} {row['error']:.1e}  {row['error3']:.1e}  {row['macs']:.3f} "
            f"{row['seconds']:6.1f} {row['groups']:6d} {row['frozen']:6d}  {row['note']}",
            flush=True,
        )
    seconds = [row["seconds"] for row in rows]
    valid = sum(row["valid"] for row in rows)
    same = sum(row["valid"] and row["error"] < row["limit"] and row["error3"] < row["limit"] for row in rows)
    half = sum(row["macs"] <= options.macs + 0.005 for row in rows)
    print(
        f"{len(rows)} models: valid {valid}, equivalent {same}, reach macs={options.macs} {half}, "
        f"median {np.median(seconds):.1f} s, most {max(seconds):.1f} s"
    )
    for (op_type, reason), count in reasons.most_common(30):
        print(f"{count:6d} {op_type}: {reason}")
    return 0


def one(zoo, path: Path, options, reasons: Counter) -> dict:
    row = {
        "valid": False,
        "error": math.inf,
        "error3": 0.0,
        "macs": 1.0,
        "seconds": 0.0,
        "groups": 0,
        "frozen": 0,
        "note": "",
        "limit": 5e-3,
    }
    try:
        proto = zoo.load(path)
        start = time.time()
        model = prepare(ir.from_proto(proto), canonical=not options.raw)
        coupling = couple(model)
        row["groups"], row["frozen"] = len(coupling.groups), len(coupling.frozen)
        reasons.update((f.op_type, f.reason) for f in coupling.frozen)
        if options.verbose:
            for frozen in coupling.frozen:
                print("   frozen", frozen.node, frozen.op_type, frozen.reason)
        if options.random is None:
            keep, row["macs"] = uniform(coupling, options.macs)
        else:
            keep = randomly(coupling, options.random)
            row["macs"] = macs_of(coupling, coupling.shapes(keep)) / macs_of(coupling, coupling.shapes({}))
        if options.verbose:
            for group in coupling.groups:
                print("   group", group.id, group.name, group.n, int(keep[group.id].sum()), len(group.sites))
        reference = silence(model, keep)
        tensors = coupling.keep_indices(keep)
        small = model.clone()
        RemoveChannels(keep).call(small)
        row["seconds"] = time.time() - start
        again = prepare(ir.from_proto(proto), canonical=not options.raw)
        replay(again, tensors)
        small_proto, reference_proto = ir.to_proto(small), ir.to_proto(reference)
        if again_differs(small, again):
            row["note"] = "replay differs"
        onnx.checker.check_model(small_proto, full_check=True)
        feeds = zoo.inputs(proto, 2)
        got = run(small_proto, feeds)
        row["valid"] = True
        if any(v.dtype == np.float16 for v in got.values()):
            row["limit"] = 3e-2
        row["error"] = error(run(reference_proto, feeds), got)
        shapes3 = zoo.input_shapes(proto, 3)
        if shapes3 != zoo.input_shapes(proto, 2):
            try:
                feeds = zoo.inputs(proto, 3)
                expected = run(reference_proto, feeds)
            except Exception:
                expected = None
            if expected is not None:
                row["error3"] = error(expected, run(small_proto, feeds))
    except Exception as problem:
        row["note"] = f"{type(problem).__name__}: {' '.join(str(problem).split())[:300]}"
        if options.verbose:
            traceback.print_exc()
    return row


def again_differs(a: ir.Model, b: ir.Model) -> bool:
    shapes = [{n: tuple(v.const_value.shape) for n, v in m.graph.initializers.items()} for m in (a, b)]
    return shapes[0] != shapes[1]


if __name__ == "__main__":
    sys.exit(main())
