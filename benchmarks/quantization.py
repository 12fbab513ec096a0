"""Pruning and quantization together: top-1, size and latency of dense and pruned models, float and int8.

    OBS_ONNX_DATA=<folder with data/ and models/> python benchmarks/quantization.py [NET ...]
        [--target macs=0.5] [--effort normal] [--folder FOLDER] [--no-latency]
        [--results docs/results.json]

Prunes channels on 2,048 unlabelled training images, quantizes both models with them, and measures top-1 on
labelled images that nothing saw before. Latencies are of one image on one thread, all four models of a
network in turn. With --folder the models and their accuracies stay there, and a later run only times them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
from one_shot import images
from results_file import Results, add_results

NETS = ("lenet5", "resnet32", "mobilenetv2")
MODELS = ("dense", "dense int8", "pruned", "pruned int8")


def prepare(root: Path, net: str, folder: Path, args: argparse.Namespace) -> dict[str, float]:
    """Write all four models, measure their top-1 in percent."""
    from obs_onnx import evaluate, prune, quantize

    model = root / "models" / f"{net}.onnx"
    np.savez(folder / "calib.npz", input=images(root, net, "train", 2048)[0])
    prune(
        model,
        folder / f"{net}.pruned.onnx",
        calib=folder / "calib.npz",
        targets=[args.target],
        effort=args.effort,
        quantize="int8",
        latency=False,
    )
    (folder / f"{net}.pruned.int8.onnx").replace(path_of(folder, net, "pruned int8"))
    path_of(folder, net, "dense").write_bytes(model.read_bytes())
    quantize(model, path_of(folder, net, "dense int8"), calib=folder / "calib.npz", latency=False)
    x, y = images(root, net, "val", None)
    return {
        name: 100 * evaluate(path_of(folder, net, name), {"input": x, "labels": y}, batch_size=250).accuracy
        for name in MODELS
    }


def path_of(folder: Path, net: str, name: str) -> Path:
    return folder / f"{net}.{name.replace(' ', '_')}.onnx"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("nets", nargs="*", metavar="NET", help=f"by default {', '.join(NETS)}")
    parser.add_argument("--target", default="macs=0.5")
    parser.add_argument("--effort", default="normal")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--no-latency", action="store_true")
    add_results(parser)
    args = parser.parse_args()
    results = Results.of(parser, args, "quantization", ("net",), free=("nets", "folder"))
    if "OBS_ONNX_DATA" not in os.environ:
        sys.exit("set OBS_ONNX_DATA to a folder with data/ and models/")
    root = Path(os.environ["OBS_ONNX_DATA"]).resolve()
    from obs_onnx import bench
    from obs_onnx.runtimes.machine import describe_machine

    print(f"{describe_machine()['cpu']}, onnxruntime {version('onnxruntime')}, one thread, batch 1")
    print(f"target {args.target}, effort {args.effort}, 2,048 calibration images, no retraining")
    print("| net | model | top-1 % | file kB | latency ms | times dense |")
    print("|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(exist_ok=True)
        for net in args.nets or NETS:
            known = folder / f"{net}.json"
            if not known.exists():
                known.write_text(json.dumps(prepare(root, net, folder, args)))
            accuracy = json.loads(known.read_text())
            paths = [path_of(folder, net, name) for name in MODELS]
            timed = None if args.no_latency else bench(paths, threads=1, seconds=3.0)
            figures = dict[str, float]()
            for number, (name, path) in enumerate(zip(MODELS, paths, strict=True)):
                short = name.replace(" ", "_")
                figures |= {f"{short}_top1": accuracy[name], f"{short}_kb": path.stat().st_size / 1000}
                if timed is not None:
                    figures |= {
                        f"{short}_ms": timed.latencies[number].median,
                        f"{short}_latency": timed.ratios[number].value,
                    }
                cells = [net, name, f"{accuracy[name]:.2f}", f"{path.stat().st_size / 1000:.1f}"]
                cells += (
                    ["-", "-"]
                    if timed is None
                    else [f"{timed.latencies[number].median:.3f}", f"{timed.ratios[number].value:.2f}"]
                )
                print(f"| {' | '.join(cells)} |", flush=True)
            results.keep({"net": net, **figures})
            for reason in () if timed is None else timed.noise:
                print(f"   noise: {reason}", flush=True)


if __name__ == "__main__":
    main()
