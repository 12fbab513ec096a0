"""Gradients and Hessian-vector products over a folder of models, against central differences in float64.

The gradient graph of each model (loss: a random linear form of its outputs plus half of their squares) is
copied to float64 and evaluated by onnx's reference evaluator with the kernels of tests/float64.py. Its
derivative along a random direction of all float weights is compared with the central difference of the
loss, the Hessian-vector product with that of the gradients. The same graph in float32 runs on onnxruntime.

Differences say something only where they settle: where those of two neighbouring steps agree with one
another, whatever the graph says. Some models with random weights stand at a kink (a norm of zeros, a tie), or
are so steep and so curved that rounding sets in before the differences settle. Where a derivative differs, it
is evaluated again at other weights: one percent off, then 0.8 and 0.6 times as large, which makes every layer
flatter. A row names the weights it holds for; ``wrong`` are those whose differences settle at another value,
``open`` those whose differences settle nowhere.

    python benchmarks/gradient.py [NAME ...] [--root DIR] [--verbose] [--batch 2] [--no-hvp] [--limit 600]

With ``--operators`` it counts, over the operator tests that come with onnx, gradients and Hessian-vector
products that are right, refused or wrong (see tests/operator_gradients.py); ``--verbose`` names those that
are not right.

    python benchmarks/gradient.py --operators [--verbose]
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import math
import os
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

from obs_onnx.passes.autodiff.gradient import Gradient, HessianVectorProduct, weights
from obs_onnx.passes.canonical.canonicalize import canonicalize
from obs_onnx.passes.canonical.modernize import modernize
from obs_onnx.passes.canonical.plainer.decompose import Decompose
from obs_onnx.passes.graph.emitter import Emitter
from obs_onnx.passes.graph.names import Names

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from float64 import double, evaluator, feeds_in_double
from operator_gradients import outcomes

STEPS = (
    1e-7,
    1e-6,
    1e-8,
    1e-9,
    1e-10,
    1e-11,
    1e-12,
)  # of the weights; rounding wants large, kinks small ones
HESSIAN_STEPS = (1e-8, 1e-10, 1e-9, 1e-7)
GOOD, GOOD_HESSIAN = 1e-4, 1e-3
ELSEWHERE = ((1.0, 0.01), (0.8, 0.0), (0.6, 0.0))  # factor on the weights, and noise relative to them


def with_loss(model: ir.Model, rng: np.random.Generator) -> str:
    """Add ``loss``: the mean over elements of r y + y^2 / 2, summed over the float outputs y; r is noise."""
    emit, terms = Emitter(model, Names(model), "loss"), []
    for y in list(model.graph.outputs):
        if y.dtype is None or not y.dtype.is_floating_point():
            continue
        wide = (
            y
            if y.dtype in (ir.DataType.FLOAT, ir.DataType.DOUBLE)
            else emit.op("Cast", y, to=int(ir.DataType.FLOAT))
        )
        last = (emit.dims(y) or (None,))[-1] or 1
        noise = emit.constant(rng.standard_normal(last), wide)
        terms.append(emit.mean(emit.mul(wide, emit.add(noise, emit.mul(wide, 0.5)))))
    loss = terms[0] if len(terms) == 1 else emit.op("Sum", *terms)
    loss.name = emit.names.fresh("loss")
    loss.shape = ir.Shape([])
    for y in list(model.graph.outputs):
        model.graph.outputs.remove(y)
    model.graph.outputs.append(loss)
    return str(loss.name)


def differentiable_form(proto: onnx.ModelProto, feeds: dict, row: dict) -> ir.Model:
    """Canonical; recurrent operators get a fixed number of steps by fixing all sizes of the inputs."""
    recurrent = any(node.op_type in ("GRU", "LSTM", "RNN") for node in proto.graph.node)
    if recurrent and any(dim.dim_param for v in proto.graph.input for dim in v.type.tensor_type.shape.dim):
        row["note"] = "sizes fixed"
        for value in proto.graph.input:
            for dim, size in zip(value.type.tensor_type.shape.dim, feeds[value.name].shape, strict=True):
                dim.dim_value = size
        del proto.graph.value_info[:]
        for value in proto.graph.output:
            value.type.tensor_type.ClearField("shape")
    model = modernize(canonicalize(ir.from_proto(proto)))
    Decompose().call(model)
    return model


class Point:
    """Evaluates a float64 copy of a graph at shifted weights."""

    def __init__(self, proto: onnx.ModelProto, feeds: dict, moved: list[str], outputs: list[str]) -> None:
        copy = onnx.ModelProto()
        copy.CopyFrom(proto)
        _only(copy, outputs)
        copy = double(copy)
        held = {t.name: t for t in copy.graph.initializer}
        self.at = {name: onnx.numpy_helper.to_array(held[name]) for name in moved if name in held}
        self.feeds, self.outputs = feeds_in_double(feeds), outputs
        inputs = {info.name for info in copy.graph.input}
        for name, array in self.at.items():
            copy.graph.initializer.remove(held[name])
            if name not in inputs:
                info = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.DOUBLE, array.shape)
                copy.graph.input.append(info)
        self.run = evaluator(copy)
        self.names = {info.name for info in copy.graph.input}

    def __call__(self, direction: dict | None = None, step: float = 0.0, extra: dict | None = None) -> list:
        moved = {n: a if direction is None else a + step * direction[n] for n, a in self.at.items()}
        feeds = {n: a for n, a in {**self.feeds, **moved, **(extra or {})}.items() if n in self.names}
        with np.errstate(all="ignore"):
            return self.run.run(self.outputs, feeds)


def _only(proto: onnx.ModelProto, outputs: list[str]) -> None:
    """Drop the nodes that ``outputs`` do not need."""
    wanted, kept = set(outputs), []
    for node in reversed(proto.graph.node):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted.update(node.input)
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    wanted.update(name for inner in attribute.g.node for name in inner.input)
    del proto.graph.node[:]
    proto.graph.node.extend(reversed(kept))
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in outputs)
    del proto.graph.value_info[:]
    unused = [t for t in proto.graph.initializer if t.name not in wanted]
    for tensor in unused:
        proto.graph.initializer.remove(tensor)
    for info in [i for i in proto.graph.input if i.name not in wanted]:
        proto.graph.input.remove(info)


def relative(a: float, b: float, floor: float) -> float:
    error = abs(a - b) / max(abs(a), abs(b), floor)
    return error if math.isfinite(error) else math.inf


def dot(a: list, b: list) -> float:
    return sum(float(np.vdot(x, y)) for x, y in zip(a, b, strict=True))


def norm(arrays: list) -> float:
    return math.sqrt(sum(float(np.vdot(a, a)) for a in arrays))


def one(zoo, path: Path, options) -> dict:
    row = {
        **dict.fromkeys(("gradient", "hessian", "float32"), math.nan),
        **dict.fromkeys(("nodes", "wrt", "seconds"), 0),
        "note": "",
    }
    start = time.process_time()
    try:
        proto = zoo.load(path)
        if any(node.op_type == "QuantizeLinear" for node in proto.graph.node):
            row["note"] = "skipped: it rounds, so differences say nothing about its gradient"
            return row
        feeds = zoo.inputs(proto, options.batch)
        rng = np.random.default_rng(0)
        model = differentiable_form(proto, feeds, row)
        loss = with_loss(model, rng)
        wrt = weights(model, loss)
        grads = [f"{name}.grad" for name in wrt]
        before = len(list(model.graph))
        second = None if options.no_hvp else model.clone()
        Gradient(loss, wrt, unconnected="zeros").call(model)
        row["nodes"], row["wrt"] = len(list(model.graph)) / before, len(wrt)
        first = ir.to_proto(model)
        held = {t.name: onnx.numpy_helper.to_array(t) for t in first.graph.initializer}
        direction = {}
        for name in wrt:
            w = np.asarray(held[name], np.float64)
            scale = math.sqrt(float((w**2).mean())) if w.size else 0.0
            direction[name] = rng.standard_normal(w.shape) * (scale or 0.01)
        v = [direction[name] for name in wrt]

        value = Point(first, feeds, wrt, [loss])
        both = Point(first, feeds, wrt, [loss, *grads])
        at, *g = both()
        row["float32"] = on_runtime(
            first, feeds, wrt, loss, grads, direction, at, dot(g, v), norm(g) * norm(v)
        )
        curve = None
        if second is not None:
            HessianVectorProduct(loss, wrt).call(second)
            curve = Point(ir.to_proto(second), feeds, wrt, [f"{name}.hvp" for name in wrt])
        compare(row, value, both, curve, direction, rng)
    except Exception as problem:
        row["note"] = f"{type(problem).__name__}: {' '.join(str(problem).split())[:250]}"
        if options.verbose:
            traceback.print_exc()
    row["seconds"] = time.process_time() - start
    return row


def compare(row: dict, value: Point, both: Point, curve: Point | None, direction: dict, rng) -> None:
    """Both derivatives at the given weights and, as long as one of them differs, at others."""
    points = [point for point in (value, both, curve) if point is not None]
    given = dict(both.at)
    tries: dict[str, list[tuple[float, bool]]] = {"gradient": [], "hessian": []}
    for factor, share in ((1.0, 0.0), *ELSEWHERE):
        noise = {n: share * rng.permutation(d.ravel()).reshape(d.shape) for n, d in direction.items()}
        for point in points:
            point.at = {name: factor * w + noise[name] for name, w in given.items()}
        for kind, good in (("gradient", GOOD), ("hessian", GOOD_HESSIAN)):
            seen = tries[kind]
            if (kind == "hessian" and curve is None) or (seen and seen[-1][0] < good):
                continue
            errors, settled = (
                first_order(value, both, direction)
                if kind == "gradient"
                else second_order(both, curve, direction)
            )
            row[kind] = min(errors)
            seen.append((min(errors), settled < good))
            if seen[-1][0] < good and len(seen) > 1:
                row["note"] += f"{kind} at {factor:g} of the weights, noise {share:g}; "
        if all(not seen or seen[-1][0] < good for seen, good in _with_limits(tries)):
            break
    for (kind, seen), (_, good) in zip(tries.items(), _with_limits(tries), strict=True):
        if seen and seen[-1][0] >= good:
            row["note"] += f"{kind} {'wrong' if any(settled for _, settled in seen) else 'open'}; "
        elif any(settled for _, settled in seen[:-1]):
            row["note"] += f"{kind} differed where differences settle; "


def _with_limits(tries: dict) -> list:
    return [(tries["gradient"], GOOD), (tries["hessian"], GOOD_HESSIAN)]


def first_order(value: Point, both: Point, direction: dict) -> tuple[list[float], float]:
    """Relative errors of the slope for all steps, and how well differences of neighbouring steps agree."""
    _, *g = both()
    v = [direction[name] for name in both.at]
    errors, found, floor = [], {}, 1e-9 * norm(g) * norm(v)
    for h in STEPS:
        found[h] = (float(value(direction, h)[0]) - float(value(direction, -h)[0])) / (2 * h)
        errors.append(relative(dot(g, v), found[h], floor))
        if errors[-1] < GOOD / 10:
            break
    return errors, _settled(found, lambda a, b: relative(a, b, floor))


def second_order(both: Point, curve: Point, direction: dict) -> tuple[list[float], float]:
    """The same of the Hessian-vector product."""
    hv, errors, found = curve(extra={f"{name}.v": array for name, array in direction.items()}), [], {}

    def differ(a: list, b: list) -> float:
        error = norm([x - y for x, y in zip(a, b, strict=True)]) / max(norm(b), 1e-30)
        return error if math.isfinite(error) else math.inf

    for h in HESSIAN_STEPS:
        plus, minus = both(direction, h)[1:], both(direction, -h)[1:]
        found[h] = [(a - b) / (2 * h) for a, b in zip(plus, minus, strict=True)]
        errors.append(differ(hv, found[h]))
        if errors[-1] < GOOD_HESSIAN / 10:
            break
    return errors, _settled(found, differ)


def _settled(found: dict, differ) -> float:
    """The smallest difference between the results of two neighbouring steps."""
    steps = sorted(found)
    return min((differ(found[a], found[b]) for a, b in itertools.pairwise(steps)), default=math.inf)


def on_runtime(proto, feeds, wrt, loss, grads, direction, at, slope, size) -> float:
    """Largest relative error of loss and slope of the float32 graph on onnxruntime."""
    settings = ort.SessionOptions()
    settings.log_severity_level = 3
    settings.intra_op_num_threads = 1
    session = ort.InferenceSession(proto.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    value, *g = session.run([loss, *grads], feeds)
    found = sum(float(np.vdot(a.astype(np.float64), direction[n])) for n, a in zip(wrt, g, strict=True))
    return max(relative(float(value), float(at), 1e-6), relative(found, slope, 1e-3 * size))


def operators(verbose: bool) -> int:
    """Counts over the operator tests of onnx."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = list(outcomes())
    for one in found if verbose else ():
        if one.verdict != "right":
            print(f"{one.verdict:9} {one.name}: {' '.join(one.reason.split())[:200]}")
    counts = Counter(one.verdict for one in found)
    print(
        f"{len(found)} cases: {counts['right']} right, {counts['refused']} refused, {counts['wrong']} wrong, "
        f"{counts['left out']} without anything to compare"
    )
    return int(counts["wrong"] > 0)


def _too_long(*_) -> None:
    raise TimeoutError("the time for a model is over")


def weight_of(path: Path, root: Path) -> float:
    """Multiply-accumulates of a model, from the index of the zoo."""
    records = json.loads((path.parent / "index.json").read_text())
    records = records if isinstance(records, list) else records.values()
    return next((float(r["macs"] or 0) + 100 * r["n_params"] for r in records if r["name"] == path.stem), 0.0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--root", default=os.environ.get("OBS_ONNX_DATA"))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--no-hvp", action="store_true")
    parser.add_argument("--part", default="0/1", help="k/n: every n-th model from the k-th on")
    parser.add_argument("--limit", type=int, default=0, help="processor seconds for a model, 0: any number")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--operators", action="store_true", help="the operator tests of onnx instead")
    options = parser.parse_args()
    if options.operators:
        return operators(options.verbose)
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
    first, every = map(int, options.part.split("/"))
    paths = sorted(paths[first::every], key=lambda path: weight_of(path, root))
    rows = []
    signal.signal(signal.SIGPROF, _too_long)
    print(f"{'model':36} weights nodes  gradient  hvp      float32  seconds")
    for path in paths:
        signal.setitimer(signal.ITIMER_PROF, options.limit)
        row = one(zoo, path, options)
        signal.setitimer(signal.ITIMER_PROF, 0)
        rows.append(row)
        print(
            f"{path.stem:36} {row['wrt']:7d} {row['nodes']:5.1f}  {row['gradient']:.1e}   "
            f"{row['hessian']:.1e}  {row['float32']:.1e} {row['seconds']:7.1f}  {row['note']}",
            flush=True,
        )
    good = sum(row["gradient"] < GOOD for row in rows)
    curved = sum(row["hessian"] < GOOD_HESSIAN for row in rows)
    single = sum(row["float32"] < 1e-2 for row in rows)
    print(
        f"{len(rows)} models: gradient within 1e-4 {good}, Hessian-vector product within 1e-3 {curved}, "
        f"float32 on onnxruntime within 1e-2 {single}, {sum(row['seconds'] for row in rows):.0f} s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
