"""The frontier of `obs-onnx pareto` against uniform pruning, on images that neither of them saw.

    OBS_ONNX_DATA=<folder with data/ and models/> python benchmarks/pareto.py [NET] [--points 12]

Both calibrate on the same 2,048 unlabelled training images. Uniform pruning keeps the same share of the
channels of every group, in multiples of 8, ranked by the same criterion and refitted in the same way. Then
all models are timed in turn, in one go, and evaluated on labelled images. A uniform model is dominated if one
of the frontier is no slower and no less accurate.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from one_shot import images
from results_file import Results, add_results

from obs_onnx import bench, evaluate, pareto
from obs_onnx.allocation.targets import parse_targets
from obs_onnx.entrypoints.options.pareto import ParetoOptions
from obs_onnx.io.onnx_file import save_model
from obs_onnx.progress import quiet, terminal_progress
from obs_onnx.pruning.calibrated import calibrate
from obs_onnx.pruning.channels.plan import ChannelStrategy
from obs_onnx.pruning.channels.round import Round
from obs_onnx.pruning.channels.task import attempt_removal
from obs_onnx.pruning.inputs import load
from obs_onnx.pruning.options import ModeOptions
from obs_onnx.pruning.recorder import Recorder
from obs_onnx.runtimes import open_runtime
from obs_onnx.runtimes.machine import describe_machine

QUANTUM = 8
SHARES = (0.875, 0.75, 0.625, 0.5, 0.375, 0.25)
Row = Mapping[str, float]


def uniform(model: Path, calib: Path, folder: Path, shares: Sequence[float], threads: int) -> list[Path]:
    """Models that keep such shares of the channels of each group."""
    # the effort changes how often damage is measured, not how channels are ranked
    options = ParetoOptions(calib=calib, threads=threads, round_to=QUANTUM, effort="quick")
    inputs, recorder = load(model, options), Recorder(quiet)
    plan = ChannelStrategy().open(inputs, options.part(ModeOptions))
    calibrated = calibrate(inputs, plan.model, plan.layers, parse_targets({"macs": 0.5}), options)
    task = plan.task(calibrated, recorder)
    part = Round.of(task, None, None)
    paths, seen = [], set()
    for share in shares:
        counts = {
            group.id: min(max(QUANTUM * round(share * group.n / QUANTUM), QUANTUM), group.n)
            for group in part.coupling.groups
        }
        if tuple(counts.values()) in seen or all(counts[g.id] == g.n for g in part.coupling.groups):
            continue
        seen.add(tuple(counts.values()))
        keep = {group: one.keep(counts[group]) for group, one in part.ranked.items()}
        attempt = attempt_removal(task, keep, {}, part.dense_evidence)
        paths.append(folder / f"uniform_{share:g}.onnx")
        save_model(attempt.model, paths[-1])
    return paths


def verdict(row: Row, frontier: Mapping[str, Row]) -> str:
    """What the frontier says about a uniform model."""
    better = [
        name
        for name, one in frontier.items()
        if one["ratio"] <= row["ratio"] and one["accuracy"] >= row["accuracy"]
    ]
    if better:
        best = max(better, key=lambda name: frontier[name]["accuracy"])
        gain = 100 * (frontier[best]["accuracy"] - row["accuracy"])
        return f"dominated by {best}, {gain:+.1f} points"
    if row["ratio"] < min(one["ratio"] for one in frontier.values()):
        return "faster than the end of the frontier"
    return "NOT dominated"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("net", nargs="?", default="resnet32", metavar="NET")
    parser.add_argument("--points", type=int, default=12)
    parser.add_argument("--least", type=float, default=0.2)
    parser.add_argument("--cost", default="latency")
    parser.add_argument("--effort", default="normal")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1.0, help="of timing, per model")
    parser.add_argument("--images", type=int, default=None, help="labelled images  [default: all]")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--folder", type=Path, help="where models stay; those that lie there are used again")
    parser.add_argument("--prepare", action="store_true", help="with --folder: stop before anything is timed")
    add_results(parser)
    args = parser.parse_args()
    results = Results.of(parser, args, "pareto", ("net", "model"), free=("net", "folder", "verbose"))
    if "OBS_ONNX_DATA" not in os.environ:
        sys.exit("set OBS_ONNX_DATA to a folder with data/ and models/")
    root = Path(os.environ["OBS_ONNX_DATA"]).resolve()
    model = root / "models" / f"{args.net}.onnx"
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.folder or Path(scratch)
        folder.mkdir(exist_ok=True)
        calib, out = folder / "calib.npz", folder / "out"
        np.savez(calib, input=images(root, args.net, "train", 2048)[0])
        made = sorted(folder.glob("uniform_*.onnx"), reverse=True)
        uniforms = made or uniform(model, calib, folder, SHARES, args.threads)
        if args.prepare and not out.exists():
            return
        if not out.exists():
            pareto(
                model,
                out,
                calib=calib,
                points=args.points,
                least=args.least,
                cost=args.cost,
                effort=args.effort,
                threads=args.threads,
                batch=args.batch,
                seconds=args.seconds,
                progress=terminal_progress(silent=not args.verbose),
            )
        found = json.loads((out / "pareto.json").read_text())
        points = found["points"]
        files = [point["file"] for point in points if point["file"]]
        kept = {file.removesuffix(".onnx"): out / file for file in files}
        others = {path.stem.replace("_", " "): path for path in uniforms}
        paths = {"dense": model, **kept, **others}

        x, y = images(root, args.net, "val", args.images)
        known = folder / "quality.json"
        rows: dict[str, dict[str, float]] = json.loads(known.read_text()) if known.exists() else {}
        for name in [name for name in paths if name not in rows]:
            quality = evaluate(paths[name], {"input": x, "labels": y}, batch_size=250, against=model)
            rows[name] = {"accuracy": quality.accuracy or 0.0, "error": quality.output_error or 0.0}
        known.write_text(json.dumps(rows))
        if args.prepare:
            return
        runtime = open_runtime(threads=args.threads)
        feed = {"input": x[: args.batch]}
        times = bench([str(p) for p in paths.values()], runtime, feed=feed, seconds=args.seconds)
        for i, name in enumerate(paths):
            rows[name] |= {"ms": times.latencies[i].median, "ratio": times.ratios[i].value}
    print(f"{describe_machine()['cpu']}; {runtime.spec}, {args.threads} thread(s), batch {args.batch}")
    stages = ", ".join(f"{name} {value:.0f} s" for name, value in found["seconds"].items())
    print(f"{args.net}: {len(kept)} of {len(points)} models kept ({stages})")
    for note in (*found["notes"], *times.noise):
        print(f"- {note}")
    print(f"\n| model | ms | of dense | top-1 on {len(y):,} | output error | |\n|---|---|---|---|---|---|")
    frontier = {name: rows[name] for name in ("dense", *kept)}
    results.drop("net", args.net)
    for name, row in rows.items():
        what = verdict(row, frontier) if name in others else ""
        print(
            f"| {name} | {row['ms']:.3f} | {100 * row['ratio']:.1f} % | {100 * row['accuracy']:.2f} "
            f"| {row['error']:.3f} | {what} |"
        )
        results.keep({"net": args.net, "model": name, "uniform": name in others, **row})


if __name__ == "__main__":
    main()
