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
from obs_onnx.passes.keep_file import keep_file, replay
from obs_onnx.passes.macs import MacCounter
from obs_onnx.passes.prepare import prepare
from obs_onnx.passes.remove_channels import RemoveChannels
from obs_onnx.passes.silence import silence


def magnitudes(coupling: Coupling, group) -> np.ndarray:
    score = np.zeros(group.n)
    for site in group.sites:
        tensor = coupling.model.graph.initializers[site.initializer].const_value
        if not tensor.dtype.is_floating_point():
            continue
        array = np.moveaxis(tensor.numpy().astype(np.float32), site.axis, 0).reshape(
            tensor.shape[site.axis], -1
        )
        score += coupling.incidence(group, *site) @ (array.astype(np.float64) ** 2).sum(1)
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
    """The same share of every group, as large as ``wanted`` allows."""
    scores = {group.id: magnitudes(coupling, group) for group in coupling.groups}
    share_of = Share(coupling)
    low, high = 0.0, 1.0
    best = keep_at(coupling, scores, low)
    reached = share_of(best)
    if reached > wanted:
        return best, reached
    for _ in range(8):
        middle = (low + high) / 2
        keep = keep_at(coupling, scores, middle)
        if (share := share_of(keep)) <= wanted:
            low, best, reached = middle, keep, share
        else:
            high = middle
    return best, reached


class Share:
    """MACs of a selection relative to the dense model."""

    def __init__(self, coupling: Coupling) -> None:
        self.coupling, self.counter = coupling, MacCounter(coupling.model)
        self.dense = self.counter(coupling.shapes({}, self.counter.values)) or 1

    def __call__(self, keep: dict) -> float:
        return self.counter(self.coupling.shapes(keep, self.counter.values)) / self.dense


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
    parser.add_argument("--root", default=os.environ.get("OBS_ONNX_DATA"))
    parser.add_argument("--macs", type=float, default=0.5)
    parser.add_argument("--random", type=int, default=None, help="seed of a random selection instead")
    parser.add_argument("--raw", action="store_true", help="without the canonical form")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    if options.root is None:
        parser.error("set OBS_ONNX_DATA to a folder with zoo/, or give --root")
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
    print(f"{'model':36} valid  error    others   MACs  seconds groups frozen")
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
            row["macs"] = Share(coupling)(keep)
        if options.verbose:
            for group in coupling.groups:
                print("   group", group.id, group.name, group.n, int(keep[group.id].sum()), len(group.sites))
        reference = silence(model, keep)
        small = model.clone()
        RemoveChannels(keep).call(small)
        row["seconds"] = time.time() - start
        again = replay(ir.from_proto(proto), keep_file(ir.from_proto(proto), coupling, keep)["tensors"])
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
        for feeds in other_feeds(zoo, proto):
            try:
                expected = run(reference_proto, feeds)
            except Exception:  # a size the model itself does not take
                continue
            row["error3"] = max(row["error3"], error(expected, run(small_proto, feeds)))
    except Exception as problem:
        row["note"] = f"{type(problem).__name__}: {' '.join(str(problem).split())[:300]}"
        if options.verbose:
            traceback.print_exc()
    return row


def other_feeds(zoo, proto: onnx.ModelProto) -> list[dict]:
    """Another batch; then another batch and other lengths."""
    found = []
    if zoo.input_shapes(proto, 3) != zoo.input_shapes(proto, 2):
        found.append(zoo.inputs(proto, 3))
    names = {
        d.dim_param for v in zoo.input_values(proto) for d in v.type.tensor_type.shape.dim if d.dim_param
    }
    if lengths := names - {"batch", "N"}:
        hints = zoo.metadata(proto, "inputs", {})
        zoo.set_metadata(proto, "inputs", {**hints, "dims": dict.fromkeys(lengths, 11)})
        found.append(zoo.inputs(proto, 1))
        zoo.set_metadata(proto, "inputs", hints)
    return found


def again_differs(a: ir.Model, b: ir.Model) -> bool:
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
