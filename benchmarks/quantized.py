"""Rounding by error feedback against other roundings, on pruned and dense networks.

    OBS_ONNX_DATA=<folder with data/, models/ and lm/> python benchmarks/quantized.py [PART ...]
        [--effort quick] [--folder FOLDER] [--results docs/results.json]

Parts: resnet32 and mobilenetv2 (macs=0.5, then int8), zeros (resnet32 with 80% zeros, then int8), vit and lm
(int4 weights in blocks of 32), joint (lm with params=0.8 and int4 weights in one run). Images: 2,048
unlabelled ones to learn from, and top-1 and cross-entropy on labelled ones that nothing saw before. lm: 512
windows, and the cross-entropy of 441 others. "loss" is what is lost against the float model of the same part.
With --folder the models stay there, and a later run reads them.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import numpy as np
from one_shot import images
from results_file import Results, add_results

PARTS = ("resnet32", "mobilenetv2", "zeros", "vit", "lm", "joint")
INT8_LOSS, ZEROS_LOSS, SHARE = 0.1, 0.2, 1 / 3  # points of top-1, and of the loss of nearest rounding


@dataclass(frozen=True)
class Data:
    """Samples to learn from (a file), and to judge by."""

    calib: Path
    test: dict[str, np.ndarray]
    batch: int

    def judge(self, model: Path) -> tuple[float | None, float]:
        """Top-1 in percent, where there are labels, and cross-entropy in nats."""
        import onnxruntime

        session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
        (given,) = session.get_inputs()
        x, labels = self.test["input"], self.test.get("labels")
        right, total, count = 0, 0.0, 0
        for first in range(0, len(x), self.batch):
            part = slice(first, first + self.batch)
            scores = session.run(None, {given.name: x[part]})[0].astype(np.float64)
            wanted = x[part][:, 1:] if labels is None else labels[part]
            scores = scores[:, :-1] if labels is None else scores
            scores -= scores.max(-1, keepdims=True)
            chosen = np.take_along_axis(scores, wanted[..., None].astype(np.int64), -1)[..., 0]
            total += float((np.log(np.exp(scores).sum(-1)) - chosen).sum())
            right += int((scores.argmax(-1) == wanted).sum())
            count += wanted.size
        return (None if labels is None else 100 * right / count), total / count


@dataclass(frozen=True)
class Bench:
    """Where everything lies, and how much is measured."""

    root: Path
    folder: Path
    effort: str
    results: Results

    def of(self, net: str) -> Data:
        calib = self.folder / f"{net}.calib.npz"
        if not calib.exists():
            np.savez(calib, input=images(self.root, net, "train", 2048)[0])
        x, y = images(self.root, net, "val", None)
        return Data(calib, {"input": x, "labels": y}, 250)

    @cached_property
    def text(self) -> Data:
        return Data(
            self.root / "lm" / "lm.calib.npz",
            {"input": np.load(self.root / "lm" / "lm.val.npz")["input_ids"]},
            21,
        )

    def once(self, name: str, make: Callable[[Path], object]) -> Path:
        """A model, made unless it is there."""
        path = self.folder / name
        if not path.exists():
            start = time.process_time()
            make(path)
            print(f"   made {name}: {time.process_time() - start:.0f} CPU s", file=sys.stderr, flush=True)
        return path

    def pruned(self, model: Path, name: str, calib: Path, **options: object) -> Path:
        from obs_onnx import prune

        return self.once(
            name,
            lambda path: prune(model, path, calib=calib, effort=self.effort, latency=False, **options),
        )

    def quantized(self, model: Path, to: str, calib: Path) -> Path:
        """By this project."""
        from obs_onnx import quantize

        return self.once(
            f"{model.stem}.{to}.onnx",
            lambda path: quantize(model, path, to=to, calib=calib, latency=False),
        )

    def static(self, model: Path, calib: Path) -> Path:
        """Of 8 bits by onnxruntime alone: a scale for each output, ranges from smallest to largest."""
        import onnx_ir as ir

        from obs_onnx.data.open_source import open_source
        from obs_onnx.passes.canonical.canonicalize import canonicalize
        from obs_onnx.quantization.int8 import quantize
        from obs_onnx.runtimes import open_runtime

        runtime = open_runtime()
        source = open_source(calib, runtime.session(str(model)).inputs, batch_size=32)
        dense = canonicalize(ir.load(model))
        return self.once(
            f"{model.stem}.onnxruntime.int8.onnx",
            lambda path: ir.save(quantize(dense, source, runtime)[0], path),
        )

    def nearest(self, model: Path) -> Path:
        """Of 4 bits by nearest rounding, with the search for scales that feedback starts from."""
        import onnx_ir as ir

        from obs_onnx.passes.canonical.canonicalize import canonicalize
        from obs_onnx.quantization.rounded_layers import nearest_layers
        from obs_onnx.quantization.weight_only import Blocks

        dense, form = canonicalize(ir.load(model)), Blocks(32)
        return self.once(
            f"{model.stem}.nearest.int4.onnx",
            lambda path: ir.save(form.write(nearest_layers(dense, form.forms(dense))), path),
        )

    def nbits(self, model: Path) -> Path:
        """Of 4 bits by the tool of onnxruntime: nearest rounding, a zero point for each block."""
        import onnx
        import onnx_ir as ir
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

        from obs_onnx.passes.canonical.canonicalize import canonicalize

        def make(path: Path) -> None:
            logging.disable(logging.INFO)
            tool = MatMulNBitsQuantizer(
                ir.to_proto(canonicalize(ir.load(model))), block_size=32, is_symmetric=False
            )
            tool.process()
            onnx.save(tool.model.model, path)
            logging.disable(logging.NOTSET)

        return self.once(f"{model.stem}.onnxruntime.int4.onnx", make)

    def row(
        self, part: str, name: str, path: Path, data: Data, base: tuple[float | None, float] | None
    ) -> tuple[float | None, float]:
        """Judge, print and keep one model; what is lost is against ``base``."""
        accuracy, entropy = data.judge(path)
        megabytes = path.stat().st_size / 1e6
        points = None if base is None or accuracy is None else base[0] - accuracy
        loss = None if base is None else entropy - base[1]
        shown = ["-" if accuracy is None else f"{accuracy:.2f}", f"{entropy:.5f}"]
        shown += ["-" if points is None else f"{points:+.2f}", "-" if loss is None else f"{loss:+.5f}"]
        print(f"| {' | '.join([part, name, f'{megabytes:.3f}', *shown])} |", flush=True)
        figures = {
            "megabytes": megabytes,
            "top1": accuracy,
            "entropy": entropy,
            "points": points,
            "loss": loss,
        }
        self.results.keep({"part": part, "model": name, **figures})
        return accuracy, entropy


def verdict(text: str, found: float, most: float) -> None:
    print(f"   {text}: {found:.3f}, at most {most:.3f}: {'yes' if found <= most else 'NO'}", flush=True)


def int8(bench: Bench, part: str, net: str, most: float, **options: object) -> None:
    data = bench.of(net)
    path = bench.pruned(bench.root / "models" / f"{net}.onnx", f"{part}.pruned.onnx", data.calib, **options)
    base = bench.row(part, "pruned, float", path, data, None)
    bench.row(part, "int8 by onnxruntime", bench.static(path, data.calib), data, base)
    ours = bench.quantized(path, "int8", data.calib)
    found = bench.row(part, "int8", ours, data, base)
    verdict(f"{part}: points lost", base[0] - found[0], most)
    if "mode" in options:
        zeros(path, ours)


def zeros(floats: Path, integers: Path) -> None:
    import onnx_ir as ir

    from obs_onnx.passes.canonical.canonicalize import canonicalize
    from obs_onnx.quantization.int8 import check_quantized_zeros

    dense = canonicalize(ir.load(floats))
    count = check_quantized_zeros(dense, ir.load(integers))
    size = sum(v.const_value.size for v in dense.graph.initializers.values() if len(v.const_value.shape) > 1)
    print(f"   zeros of weights that are zeros of the integers: {count} of {size} weights", flush=True)


def int4(bench: Bench, part: str, model: Path, data: Data) -> None:
    base = bench.row(part, "float", model, data, None)
    tool = bench.row(part, "int4 by onnxruntime", bench.nbits(model), data, base)
    near = bench.row(part, "int4, nearest", bench.nearest(model), data, base)
    ours = bench.row(part, "int4", bench.quantized(model, "int4-weights", data.calib), data, base)
    lost = [one[1] - base[1] for one in (ours, near, tool)]
    verdict(f"{part}: share of the loss of nearest rounding", lost[0] / lost[1], SHARE)
    verdict(f"{part}: share of the loss of onnxruntime's tool", lost[0] / lost[2], SHARE)


def joint(bench: Bench) -> None:
    data, model = bench.text, bench.root / "lm" / "lm.onnx"
    path = bench.pruned(model, "joint.onnx", data.calib, targets=["params=0.8"], quantize="int4-weights")
    base = bench.row("joint", "dense, float", model, data, None)
    bench.row("joint", "params=0.8, float", path, data, base)
    both = path.with_suffix(".int4-weights.onnx")
    found = bench.row("joint", "params=0.8 and int4", both, data, base)
    bench.row("joint", "int4", bench.quantized(model, "int4-weights", data.calib), data, base)
    share = both.stat().st_size / model.stat().st_size
    small = bench.pruned(model, "joint.small.onnx", data.calib, targets=[f"params={share:.3f}"])
    alone = bench.row("joint", f"params={share:.2f}, float", small, data, base)
    verdict("joint: cross-entropy against pruning alone of the same bytes", found[1], alone[1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"by default {', '.join(PARTS)}")
    parser.add_argument("--effort", default="quick")
    parser.add_argument("--folder", type=Path)
    add_results(parser)
    args = parser.parse_args()
    if "OBS_ONNX_DATA" not in os.environ:
        sys.exit("set OBS_ONNX_DATA to a folder with data/, models/ and lm/")
    root = Path(os.environ["OBS_ONNX_DATA"]).resolve()
    print(f"onnxruntime {version('onnxruntime')}, effort {args.effort}")
    print("| part | model | MB | top-1 % | cross-entropy | points lost | loss |")
    print("|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        results = Results.of(parser, args, "quantized", ("part", "model"), free=("parts", "folder"))
        bench = Bench(root, args.folder or Path(temporary), args.effort, results)
        bench.folder.mkdir(exist_ok=True)
        for part in args.parts or PARTS:
            if part == "joint":
                joint(bench)
            elif part == "zeros":
                int8(bench, part, "resnet32", ZEROS_LOSS, mode="weights", targets=["sparsity=0.8"])
            elif part == "lm":
                int4(bench, part, root / "lm" / "lm.onnx", bench.text)
            elif part == "vit":
                int4(bench, part, root / "models" / "vit.onnx", bench.of("vit"))
            else:
                int8(bench, part, part, INT8_LOSS, targets=["macs=0.5"])


if __name__ == "__main__":
    main()
