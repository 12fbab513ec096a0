"""Decoders of 85 million parameters and more, and a wide layer, pruned: seconds and memory.

    OBS_ONNX_DATA=<folder with scale/> python benchmarks/scale.py [85M] [650M] [1.3B] [8192]
        [--sequences 64] [--effort quick] [--memory 1GB] [--target params=0.7] [--no-compensate]
        [--keep FOLDER]

Decoders are made by ``scale/make_decoder.py`` (random weights in external data, random tokens) in a temporary
folder, or in ``--keep FOLDER`` to be used again; 70% of their parameters stay. 8192 is a layer of so many
inputs behind a narrow one, on 2,048 samples, of whose weights half become zero with normal effort. Peak
memory is the most that the process had resident, pages of mapped weights included. One row per model.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from prune_command import prune_command

DECODERS = {  # layers, width, FFN, heads, vocabulary
    "85M": (6, 1024, 2816, 16, 4000),
    "650M": (12, 2048, 5632, 16, 8000),
    "1.3B": (24, 2048, 5632, 16, 8000),
}
SAMPLES = 2048
WIDE = {"8192": (64, 8192, 512)}  # inputs, width, outputs


def main() -> int:
    options = parse()
    works = options.works or [*DECODERS, *WIDE]
    if unknown := set(works) - {*DECODERS, *WIDE}:
        sys.exit(f"{', '.join(sorted(unknown))}: there are {', '.join([*DECODERS, *WIDE])}")
    if options.root is None and set(works) & set(DECODERS):
        sys.exit("set OBS_ONNX_DATA to a folder with scale/, or give --root")
    print("| model | samples | outcome | parameters left | output error | seconds | CPU seconds | peak GB |")
    print("|---" * 8 + "|")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.keep or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for name in works:
            print(row(name, folder, options), flush=True)
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("works", nargs="*", metavar="MODEL")
    parser.add_argument("--root", default=os.environ.get("OBS_ONNX_DATA"))
    parser.add_argument("--sequences", type=int, default=64, help="of 64 tokens, at most 64")
    parser.add_argument("--effort", default=None, help="quick for decoders, normal for wide layers")
    parser.add_argument("--memory", default=None, help="as of prune")
    parser.add_argument(
        "--target", default=None, help="params=0.7 for decoders, sparsity=0.5 for wide layers"
    )
    parser.add_argument("--keep", default=None, metavar="FOLDER", help="where models are made and stay")
    parser.add_argument("--no-compensate", action="store_true")
    return parser.parse_args()


def row(name: str, folder: Path, options: argparse.Namespace) -> str:
    """What became of a model."""
    wide = name in WIDE
    if wide:
        model, calib = made_wide(name, folder)
    else:
        model, calib = made(Path(options.root), name, folder, options.sequences)
    output, result = model.with_suffix(".small.onnx"), model.with_suffix(".json")
    command = prune_command(
        model,
        calib,
        output=output,
        result=result,
        effort=options.effort or ("normal" if wide else "quick"),
        targets=[options.target or ("sparsity=0.5" if wide else "params=0.7")],
    )
    command += ["--mode", "weights"] * wide
    command += ["--no-compensate"] * options.no_compensate
    command += [] if options.memory is None else ["--memory", options.memory]
    start = time.monotonic()
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds, code = time.monotonic() - start, os.waitstatus_to_exitcode(status)
    cells, peaks = [name, str(SAMPLES if wide else options.sequences)], [1024 * usage.ru_maxrss]
    if code in (0, 3):
        report = json.loads(result.read_text())
        peaks += [one["peak_bytes"] or 0 for one in report["stages"]]  # each of which begins to count anew
        left = report["after"]["parameters"] / report["before"]["parameters"]
        cells += ["met" if code == 0 else "missed", f"{left:.3f}", f"{report['output_error']:.3f}"]
    else:
        cells += [f"exit {code}: {' '.join(said.split())[-160:]}", "", ""]
    cells += [f"{seconds:.0f}", f"{usage.ru_utime + usage.ru_stime:.0f}", f"{max(peaks) / 1e9:.1f}"]
    return f"| {' | '.join(cells)} |"


def made_wide(name: str, folder: Path) -> tuple[Path, Path]:
    """Files of a model with a wide layer and of its data."""
    inputs, width, outputs = WIDE[name]
    model, calib, rng = folder / f"{name}.onnx", folder / f"{name}.npz", np.random.default_rng(0)
    text = f"""<ir_version: 9, opset_import: ["": 18]>
        g (float[N,{inputs}] x) => (float[N,{outputs}] y) {{
            h = MatMul(x, first)  r = Relu(h)  y = MatMul(r, second)
        }}"""
    proto = onnx.parser.parse_model(text)
    for weight, (rows, columns) in {"first": (inputs, width), "second": (width, outputs)}.items():
        array = rng.standard_normal((rows, columns), dtype=np.float32) * np.float32((2 / rows) ** 0.5)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, weight))
    onnx.save(proto, model)
    np.savez(calib, x=rng.standard_normal((SAMPLES, inputs), dtype=np.float32))
    return model, calib


def made(root: Path, name: str, folder: Path, sequences: int) -> tuple[Path, Path]:
    """Files of a decoder and of its data; made if they are not there."""
    model, calib = folder / f"{name}.onnx", folder / f"{name}.{sequences}.npz"
    if not model.exists():
        sizes = [str(size) for size in DECODERS[name]]
        subprocess.run(
            [sys.executable, root / "scale" / "make_decoder.py", *sizes, model],
            check=True,
            stdout=subprocess.DEVNULL,
        )
    with np.load(model.with_suffix(".calib.npz")) as arrays:
        np.savez(calib, **{key: array[:sequences] for key, array in arrays.items()})
    return model, calib


if __name__ == "__main__":
    sys.exit(main())
