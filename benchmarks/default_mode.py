"""Models pruned with no option but their data: valid, equal to the silenced reference, no traceback.

    OBS_ONNX_DATA=<folder with zoo/ and field/> python benchmarks/default_mode.py [NAME ...]
        [--target params=0.8] [--effort quick] [--samples 32] [--timeout 300] [--without-zoo] [--without-real]

Each model is pruned by the command line in a process of its own, as a user would: as many channels as an
output error of 5% allows, or a target of one's own, refitted. The program compares the smaller model with the
dense one in which the channels are silenced ("difference"); the script checks what was written by itself: the
ONNX checker, a run in onnxruntime, shapes and types of the outputs. One row per model, and counts.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from prune_command import prune_command
from zoo import load_zoo, write_calibration


@dataclass(frozen=True)
class Row:
    """What became of a model."""

    name: str
    outcome: str
    seconds: float
    error: float | None = None
    parameters: float | None = None
    difference: float | None = None
    note: str = ""

    def __str__(self) -> str:
        error = "" if self.error is None else f"{self.error:.3f}"
        left = "" if self.parameters is None else f"{self.parameters:.3f}"
        difference = "" if self.difference is None else f"{self.difference:.0e}"
        cells = (self.name, self.outcome, error, left, difference, f"{self.seconds:.0f}", self.note)
        return "| " + " | ".join(cells) + " |"


def main() -> int:
    options = parse()
    if options.root is None:
        sys.exit("set OBS_ONNX_DATA to a folder with zoo/ and field/, or give --root")
    rows = []
    print(
        "| model | outcome | output error | parameters left | difference | seconds | note |\n"
        + "|---" * 7
        + "|"
    )
    for name, model, calib, folder in models(Path(options.root), options):
        with folder:
            row = pruned(name, model, calib, options)
        rows.append(row)
        print(row, flush=True)
    counts = Counter(row.outcome for row in rows)
    print(
        f"\n{len(rows)} models: " + ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common())
    )
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--root", default=os.environ.get("OBS_ONNX_DATA"))
    parser.add_argument(
        "--target", action="append", default=[], help="as prune takes it; several may be given"
    )
    parser.add_argument("--effort", default="quick")
    parser.add_argument("--samples", type=int, default=32, help="of calibration data that is made up")
    parser.add_argument("--timeout", type=float, default=300, help="seconds a model may take")
    parser.add_argument("--without-zoo", action="store_true")
    parser.add_argument("--without-real", action="store_true")
    return parser.parse_args()


def models(
    root: Path, options: argparse.Namespace
) -> Iterator[tuple[str, Path, Path, tempfile.TemporaryDirectory[str]]]:
    """Name, file, calibration data, and the folder in which both and the result lie."""
    real = [] if options.without_real else sorted(root.glob("field/real/*/model.onnx"))
    made = (
        []
        if options.without_zoo
        else sorted([*root.glob("zoo/skeletons/*.onnx"), *root.glob("zoo/real/*.onnx")])
    )
    for path in [*real, *made]:
        name = path.parent.name if path in real else path.stem
        if options.names and name not in options.names:
            continue
        folder = tempfile.TemporaryDirectory()
        model = Path(folder.name, "model.onnx")
        if path in real:
            model.write_bytes(path.read_bytes())
            yield name, model, path.with_name("calib.npz"), folder
        else:
            zoo = load_zoo(root / "zoo")
            proto = zoo.load(path)
            onnx.save(proto, model)
            yield name, model, write_calibration(zoo, proto, Path(folder.name), options.samples), folder


def pruned(name: str, model: Path, calib: Path, options: argparse.Namespace) -> Row:
    """The row of one model."""
    output, result = model.with_name("small.onnx"), model.with_name("result.json")
    command = prune_command(
        model, calib, output=output, result=result, effort=options.effort, targets=options.target
    )
    command += ["--threads", "1"]
    start = time.monotonic()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=options.timeout)
    except subprocess.TimeoutExpired:
        return Row(name, "not done", options.timeout)
    seconds = time.monotonic() - start
    last = " ".join((done.stderr.strip().splitlines() or [""])[-1].split())[:160].replace("|", "/")
    if "Traceback" in done.stderr:
        return Row(name, "traceback", seconds, note=last)
    if done.returncode == 2:
        return Row(name, "refused", seconds, note=last)
    if done.returncode not in (0, 3):
        return Row(name, "failed", seconds, note=last)
    report = json.loads(result.read_text())
    left = report["after"]["parameters"] / max(report["before"]["parameters"], 1)
    wrong = differing(model, output, calib)
    same = all(group["kept"] == group["channels"] for group in report["groups"])
    met = "nothing removed" if same else "pruned"
    outcome = "broken" if wrong else met if done.returncode == 0 else "target not met"
    proof = report["proof"]
    difference = max(proof["differences"].values(), default=None)
    unproven = "".join(f"not compared: {output} {reason}; " for output, reason in proof["left_out"].items())
    return Row(name, outcome, seconds, report["output_error"], left, difference, unproven + wrong)


def differing(model: Path, output: Path, calib: Path) -> str:
    """What is wrong with the model that was written; empty if nothing is."""
    try:
        onnx.checker.check_model(str(output), full_check=True)
    except Exception as error:
        return f"checker: {' '.join(str(error).split())[:120]}"
    data = calib if calib.is_file() else min(calib.glob("*.npz"))
    with np.load(data) as arrays:
        given = {name: arrays[name] for name in arrays.files}
    found = []
    for path in (model, output):
        session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        feed = {}
        for spec in session.get_inputs():
            fixed = spec.shape and isinstance(spec.shape[0], int)
            rows = spec.shape[0] if fixed else 2
            array = given[spec.name]
            if array.ndim > len(spec.shape):  # complete feeds, one after the other
                feed[spec.name] = np.asarray(array[0])
            else:
                feed[spec.name] = array[:rows] if calib.is_file() else array
        found.append(session.run(None, feed))
    dense, small = found
    return next(
        (
            f"output {number} is {y.dtype}{list(y.shape)}, was {x.dtype}{list(x.shape)}"
            for number, (x, y) in enumerate(zip(dense, small, strict=True))
            if isinstance(x, np.ndarray) and (x.dtype, x.ndim) != (y.dtype, y.ndim)
        ),
        "",
    )


if __name__ == "__main__":
    sys.exit(main())
