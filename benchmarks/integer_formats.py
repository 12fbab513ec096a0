"""Models in integers of every format of onnxruntime's tools, pruned in their own format.

    OBS_ONNX_DATA=<folder with data/ and models/> python benchmarks/integer_formats.py [NET ...]
        [--format NAME-PART] [--target macs=0.5] [--effort normal] [--samples 2048]

Each net is quantized by ``onnxruntime.quantization`` and then pruned as it is. Beside it stands the float
net, pruned to the same target and then quantized by ``obs_onnx.quantize``; it should be at most 0.3 points
better. Top-1 on labelled images that nothing saw before; files as a share of the dense float one;
"time" with a target latency: that of the pruned model as a share of the dense one's in integers.
"difference" is that of the pruned model from the dense one in integers whose channels are silenced. "new
operators": of the result, that the dense model in integers does not have.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from one_shot import images
from onnxruntime import quantization
from onnxruntime.quantization import QuantFormat, QuantType
from onnxruntime.quantization.shape_inference import quant_pre_process

import obs_onnx
from obs_onnx.results.pruning import Report

NETS = ("lenet5", "resnet32", "mobilenetv2")
SEEN, BATCH = 256, 64  # images that onnxruntime takes ranges of activations from
_INT8, _UINT8 = QuantType.QInt8, QuantType.QUInt8
FORMATS: Mapping[str, Mapping[str, object] | None] = {
    f"{name} {'per channel' if per_channel else 'per tensor'}, {text}": {
        "quant_format": form,
        "per_channel": per_channel,
        "activation_type": activations,
        "weight_type": weights,
    }
    for name, form in (("QDQ", QuantFormat.QDQ), ("QOperator", QuantFormat.QOperator))
    for per_channel in (False, True)
    for text, activations, weights in (("uint8", _UINT8, _UINT8), ("int8", _INT8, _INT8))
} | {"dynamic": None}


class Reader(quantization.CalibrationDataReader):
    """Batches of images."""

    def __init__(self, x: np.ndarray) -> None:
        parts = np.array_split(x, len(x) // BATCH)
        self._parts: Iterator[dict[str, np.ndarray]] = iter([{"input": part} for part in parts])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next one."""
        return next(self._parts, None)


def quantized(model: Path, form: str, x: np.ndarray, folder: Path) -> Path:
    """The model in a format."""
    plain, result = folder / f"{model.stem}.plain.onnx", folder / f"{model.stem}.integers.onnx"
    quant_pre_process(str(model), str(plain))
    how = FORMATS[form]
    if how is None:
        quantization.quantize_dynamic(str(plain), str(result), weight_type=_UINT8)
    else:
        quantization.quantize_static(str(plain), str(result), Reader(x[:SEEN]), **how)
    return result


def operators(path: Path) -> set[str]:
    """Of a file."""
    return {f"{node.domain}::{node.op_type}" for node in onnx.load(path).graph.node}


def _times(report: Report) -> str:
    """Latency of the pruned model as a share of that of the dense one in integers, if they were timed."""
    times = [one.latency_ms for one in (report.before, report.after)]
    return "-" if None in times else f"{times[1].median / times[0].median:.2f}"


def main() -> None:
    """Print a row for each net and format."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("nets", nargs="*", metavar="NET", help=f"by default {', '.join(NETS)}")
    parser.add_argument("--format", default="", help="part of the names of formats; default: all formats")
    parser.add_argument("--target", default="macs=0.5")
    parser.add_argument("--effort", default="normal")
    parser.add_argument("--samples", type=int, default=2048)
    args = parser.parse_args()
    if "OBS_ONNX_DATA" not in os.environ:
        sys.exit("set OBS_ONNX_DATA to a folder with data/ and models/")
    logging.disable(logging.WARNING)
    root = Path(os.environ["OBS_ONNX_DATA"]).resolve()
    headings = (
        "net|format|float|integers|pruned|float pruned, then int8|file|time|difference|new operators|seconds"
    )
    print(f"| {headings.replace('|', ' | ')} |\n{'|---' * len(headings.split('|'))}|", flush=True)
    for net in args.nets or NETS:
        x, _ = images(root, net, "train", args.samples)
        seen, labels = images(root, net, "val", None)
        judge = partial(obs_onnx.evaluate, data={"input": seen, "labels": labels}, batch_size=250)
        given = {"calib": {"input": x}, "effort": args.effort, "latency": args.target.startswith("latency")}
        dense = root / "models" / f"{net}.onnx"
        small = obs_onnx.prune(dense, targets=[args.target], **given).model
        after = obs_onnx.quantize(small, **given).model
        best, float_bytes = judge(after).accuracy, dense.stat().st_size
        with tempfile.TemporaryDirectory() as folder:
            for form in (name for name in FORMATS if args.format in name):
                start = time.perf_counter()
                integers, out = quantized(dense, form, x, Path(folder)), Path(folder, "pruned.onnx")
                report = obs_onnx.prune(integers, output=out, targets=[args.target], **given).report
                proof = report.proof
                points = [100 * one for one in (judge(dense).accuracy, judge(integers).accuracy)]
                cells = [
                    net,
                    form,
                    *(f"{one:.2f}" for one in points),
                    f"**{100 * judge(out).accuracy:.2f}**",
                    f"{100 * best:.2f}",
                    f"{out.stat().st_size / float_bytes:.2f}",
                    _times(report),
                    "-" if proof is None or proof.largest is None else f"{proof.largest:.0e}",
                    ", ".join(sorted(operators(out) - operators(integers))) or "none",
                    f"{time.perf_counter() - start:.0f}",
                ]
                print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
