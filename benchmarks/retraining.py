"""Light retraining of pruned models, next to what is to be reached; checks the zeros of every written file.

    OBS_ONNX_DATA=<folder with data/ and models/> python benchmarks/retraining.py [ROW ...] [--folder KEEP]
        [--results docs/results.json]

* labels: resnet32 at half of its multiply-accumulates, then some epochs on the labelled training images;
* teacher: the same smaller model taught by the dense one on the 2,048 unlabelled images it was pruned with;
* lenet300, lenet5: the sparsity of Dong et al. 2017, table 1, with no more updates than there: most weights
  go at once, by obs without labels; the others in many small rounds (prune, train, prune ...), by Fisher
  information on labelled training images, with a long end of training alone;
* taylor, obs: rounds of "estimate, rank, remove channels, train K updates" (Molchanov et al. 2017) on
  cifarnet, by their criterion without compensation and by obs with it, a line for every round.

Top-1 is measured on labelled images that neither pruning nor training saw; that after each round on an
eighth of the calibration images, which is held out.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from one_shot import images
from results_file import Results, add_results

Line = tuple[str, str, float, str, float, int, float]
HEADINGS = ("row", "what", "before", "at least", "top-1", "updates", "zeros or channels back", "seconds")
CALIBRATION = 2048


@dataclass
class Bench:
    """Where everything is, and what was chosen.

    Attributes:
        root: folder with data and models.
        folder: where models are written.
        args: of the command line.
    """

    root: Path
    folder: Path
    args: argparse.Namespace

    def data(self, net: str, split: str, count: int | None = None) -> dict[str, np.ndarray]:
        """Images and labels."""
        x, y = images(self.root, net, split, count)
        return {"input": x, "labels": y}

    def dense(self, net: str) -> Path:
        """File of the dense model."""
        return self.root / "models" / f"{net}.onnx"

    def accuracy(self, net: str, model: Path) -> float:
        """Top-1 in percent on images not seen."""
        from obs_onnx import evaluate

        return 100 * float(evaluate(model, self.data(net, "val"), batch_size=250).accuracy)

    def half(self) -> Path:
        """resnet32 at half of its multiply-accumulates; made once."""
        from obs_onnx import prune

        path = self.folder / "resnet32.half.onnx"
        if not path.exists():
            calib = {"input": self.data("resnet32", "train", CALIBRATION)["input"]}
            prune(self.dense("resnet32"), path, calib=calib, targets={"macs": 0.5}, latency=False)
        return path


def weights(path: Path) -> dict[str, np.ndarray]:
    """Initializers with two axes or more."""
    tensors = onnx.load(path).graph.initializer
    return {t.name: onnx.numpy_helper.to_array(t) for t in tensors if len(t.dims) > 1}


def came_back(before: Path, after: Path) -> int:
    """Weights that are zero, or not there, in one file, but not in the other."""
    old, new = weights(before), weights(after)
    back = sum(array.size for name, array in new.items() if name not in old or old[name].shape != array.shape)
    same = [name for name in new if name in old and old[name].shape == new[name].shape]
    return back + sum(int(np.count_nonzero(new[name][old[name] == 0])) for name in same)


def labels(bench: Bench) -> Iterator[Line]:
    """Epochs with labels, taught by the dense model too."""
    from obs_onnx import finetune

    start, out, args = bench.half(), bench.folder / "resnet32.labels.onnx", bench.args
    data = bench.data("resnet32", "train")
    count = len(data["labels"]) - CALIBRATION
    fit, held = ({name: array[part] for name, array in data.items()} for part in _parts(count))
    begin = time.perf_counter()
    report = finetune(
        start,
        fit,
        out,
        steps=round(args.epochs * count / args.batch),
        batch=args.batch,
        labels="labels",
        teacher=bench.dense("resnet32"),
        eval=held,
        optimizer=args.optimizer,
        lr=args.lr,
        augment="flip,crop",
    ).report
    seconds = time.perf_counter() - begin
    before, after = (bench.accuracy("resnet32", path) for path in (start, out))
    what = f"resnet32 macs=0.5, {args.epochs:g} epochs with labels, {args.optimizer}"
    yield "labels", what, before, "88.0", after, report.steps, came_back(start, out), seconds


def _parts(count: int) -> tuple[slice, slice]:
    return slice(count), slice(count, None)


def teacher(bench: Bench) -> Iterator[Line]:
    """300 steps without labels on the calibration images, as they are and in random views."""
    from obs_onnx import finetune

    start, calib = bench.half(), {"input": bench.data("resnet32", "train", CALIBRATION)["input"]}
    before = bench.accuracy("resnet32", start)
    for optimizer, augment in (("adamw", "flip,crop"), ("foof", "flip,crop"), ("foof", "flip"), ("foof", "")):
        out, begin = bench.folder / "resnet32.teacher.onnx", time.perf_counter()
        dense = bench.dense("resnet32")
        report = finetune(
            start, calib, out, steps=300, teacher=dense, optimizer=optimizer, augment=augment
        ).report
        seconds = time.perf_counter() - begin
        what = f"resnet32 macs=0.5, no labels, {optimizer}{', ' * bool(augment)}{augment}"
        after = bench.accuracy("resnet32", out)
        yield "teacher", what, before, "87.4", after, report.steps, came_back(start, out), seconds


def rounds_of_weights(
    net: str, at_once: float, sparsity: float, wanted: str, rounds: int, steps: int, last: int
) -> Callable:
    """A row of iterative pruning of weights."""

    def row(bench: Bench) -> Iterator[Line]:
        from obs_onnx import prune

        start, out = (bench.folder / f"{net}.{name}.onnx" for name in ("first", "rounds"))
        begin, common = time.perf_counter(), {"mode": "weights", "latency": False}
        calib = bench.data(net, "train", CALIBRATION)
        prune(bench.dense(net), start, calib=calib, targets={"sparsity": at_once}, **common)
        report = prune(
            start,
            out,
            calib=calib,
            labels="labels",
            targets={"sparsity": sparsity},
            criterion="fisher",
            allocation="fisher",
            compensate=False,
            rounds=rounds,
            finetune=steps,
            finetune_last=last,
            finetune_data=bench.data(net, "train"),
            mix=1.0,
            train_batch=4 * bench.args.batch,
            optimizer="adamw",
            lr=bench.args.lr or 1e-2,
            augment="crop=1",
            **common,
        ).report
        seconds = time.perf_counter() - begin
        arrays = weights(out).values()
        zeros, size = (sum(of(array) for array in arrays) for of in (lambda w: int((w == 0).sum()), np.size))
        back = max(int(np.ceil(sparsity * size - 1e-9)), report.finetune["masked"]) - zeros
        total = report.finetune["total_steps"]
        what = f"{net}, {100 * (1 - zeros / size):.2f}% of weights, {rounds} rounds of {steps}"
        before, after = (bench.accuracy(net, path) for path in (bench.dense(net), out))
        yield net, what, before, wanted, after, total, max(back, 0), seconds

    return row


def greedy(criterion: str, compensate: bool) -> Callable:
    """Rows of the loop over channels, one for each round."""

    def row(bench: Bench) -> Iterator[Line]:
        from obs_onnx import prune

        net, args, out = "cifarnet", bench.args, bench.folder / f"cifarnet.{criterion}.onnx"
        begin = time.perf_counter()
        report = prune(
            bench.dense(net),
            out,
            calib=bench.data(net, "train", 8 * CALIBRATION),
            labels="labels",
            targets={"macs": args.macs},
            criterion=criterion,
            compensate=compensate,
            rounds=args.rounds,
            finetune=args.updates,
            train_batch=args.batch,
            lr=args.lr,
            augment="flip",
            latency=False,
        ).report
        seconds = time.perf_counter() - begin
        name = f"{criterion}{'' if compensate else ', no refit'}"
        for number, part in enumerate(report.finetune["rounds"], 1):
            macs = 100 * args.macs ** (number / args.rounds)
            what = f"{net} {name}, round {number}, {macs:.0f}% of MACs, held out"
            old, new = (100 * part[when]["accuracy"] for when in ("before", "after"))
            yield criterion, what, old, "", new, part["steps"], float("nan"), float("nan")
        before, after = (bench.accuracy(net, path) for path in (bench.dense(net), out))
        kept = onnx.load(out).graph.initializer
        count = sum(int(np.prod(t.dims)) for t in kept if t.data_type == onnx.TensorProto.FLOAT)
        back = max(count - report.after.parameters, 0)
        total = report.finetune["total_steps"]
        yield criterion, f"{net} {name}, all rounds, unseen", before, "", after, total, back, seconds

    return row


ROWS: dict[str, Callable[[Bench], Iterator[Line]]] = {
    "labels": labels,
    "teacher": teacher,
    "lenet300": rounds_of_weights("lenet300", 0.9, 0.985, "98.2", 33, 10, 320),
    "lenet5": rounds_of_weights("lenet5", 0.95, 0.991, "98.8", 37, 10, 480),
    "taylor": greedy("taylor", False),
    "obs": greedy("obs", True),
}


def main() -> None:
    """Run the rows and print them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", nargs="*", metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--folder", type=Path, help="keep models here, and take resnet32.half.onnx from here")
    parser.add_argument("--epochs", type=float, default=5)
    parser.add_argument(
        "--batch", type=int, default=128, help="of all rows but teacher; four times as much for the lenets"
    )
    parser.add_argument("--optimizer", default="foof", help="of labels")
    parser.add_argument("--lr", type=float, help="of all rows but teacher")
    parser.add_argument("--rounds", type=int, default=5, help="of taylor and obs")
    parser.add_argument("--updates", type=int, default=60, help="of each of their rounds")
    parser.add_argument("--macs", type=float, default=0.3333, help="that they keep")
    add_results(parser)
    args = parser.parse_args()
    results = Results.of(parser, args, "retraining", ("row", "what"), free=("rows", "folder"))
    if "OBS_ONNX_DATA" not in os.environ:
        sys.exit("set OBS_ONNX_DATA to a folder with data/ and models/")
    if unknown := set(args.rows) - set(ROWS):
        sys.exit(f"unknown rows {', '.join(sorted(unknown))}: choose from {', '.join(ROWS)}")
    from obs_onnx.runtimes.machine import describe_machine

    print(f"{describe_machine()['cpu']}, {os.cpu_count()} cores")
    print(f"| {' | '.join(HEADINGS)} |")
    print("|" + "---|" * len(HEADINGS), flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(Path(os.environ["OBS_ONNX_DATA"]).resolve(), args.folder or Path(scratch), args)
        for name in args.rows or ROWS:
            for row, what, before, wanted, after, updates, back, seconds in ROWS[name](bench):
                cells = [row, what, f"{before:.2f}", wanted, f"**{after:.2f}**", str(updates)]
                cells += ["" if np.isnan(number) else f"{number:.0f}" for number in (back, seconds)]
                print(f"| {' | '.join(cells)} |", flush=True)
                figures = {"before": before, "after": after, "updates": updates, "back": back}
                results.keep({"row": row, "what": what, **figures, "seconds": seconds})


if __name__ == "__main__":
    main()
