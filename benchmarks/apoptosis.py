"""Criteria against each other, as in the tables of Optimal Brain Apoptosis (arXiv 2502.17941).

    OBS_ONNX_DATA=<folder with data/ and models/> python benchmarks/apoptosis.py [NET ...]

One shot, no retraining. Each criterion chooses what goes and how much of each layer, from labelled training
images; top-1 is measured on other images. Columns:

* normalised: scores divided by their norm in each layer, one threshold for the whole network, kept weights
  as they are: the method of the papers;
* raw: scores as they are, for channels per multiply-accumulate saved;
* + refit: the same, and what is kept is refitted layer by layer, on the same images without their labels.

The last row is the program's default: the surgeon chooses, measured damage allocates. Scores are computed
once for each criterion and serve all columns and ratios.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from one_shot import images

from obs_onnx.allocation.targets import Targets
from obs_onnx.calibration.layer_problem import stored
from obs_onnx.data.open_source import open_source, split
from obs_onnx.evaluation.output_damage import choose_measure
from obs_onnx.evaluation.quality import evaluate_sessions
from obs_onnx.evaluation.run_cost import measured
from obs_onnx.io.onnx_file import open_model, serialize
from obs_onnx.passes.graph.set_weights import SetWeights
from obs_onnx.progress import quiet
from obs_onnx.pruning.channels.mode import ChannelsMode
from obs_onnx.pruning.channels.round import Round
from obs_onnx.pruning.effort import EFFORTS
from obs_onnx.pruning.mode import Opened
from obs_onnx.pruning.options import DAMAGE, ModeOptions
from obs_onnx.pruning.weights.mode import WeightsMode
from obs_onnx.runtimes import open_runtime
from obs_onnx.solvers.patterns import project

NETS = ("resnet32", "vit", "vgg16")
CRITERIA = ("magnitude", "taylor", "fisher", "obd", "oba", "oba-paper", "obs")
RATIOS = {"weights": (0.5, 0.7, 0.9), "channels": (0.8, 0.65, 0.5)}
TARGET = {"weights": "zeros", "channels": "MACs"}
COLUMNS = ("normalised", "normalised + refit", "raw", "raw + refit")
_BUDGET = 4_000_000_000


class Bench:
    """A network and its data, ready for both modes."""

    def __init__(self, root: Path, net: str, samples: int, tested: int, effort: str) -> None:
        self.effort = EFFORTS[effort]
        original, name, path = open_model(root / "models" / f"{net}.onnx", ())
        self.runtime = open_runtime("onnxruntime", spinning=False)
        self.opened = Opened(original, name, path, self.runtime)
        x, y = images(root, net, "train", samples)
        inputs = self.runtime.session(serialize(original)).inputs
        source = open_source({"input": x, "labels": y}, inputs, batch_size=128)
        self.fit, self.held_out = split(source, 0.125, 0)
        x, y = images(root, net, "val", tested)
        self.test = open_source({"input": x, "labels": y}, inputs, batch_size=128)

    def study(self, mode: str, criterion: str) -> Any:
        """Trials of a mode with this criterion, which also allocates unless it is the surgeon."""
        default = criterion == "obs"
        options = ModeOptions(
            criterion="auto" if default else criterion,
            compensate=default,
            sequential=default,
            round_to=None if default else 1,
            allocation=DAMAGE if default else criterion,
        )
        if mode == "weights":
            options = replace(options, round_to=None)
        way = (WeightsMode if mode == "weights" else ChannelsMode)(Targets(), options)
        way.open(self.opened)
        dense = self.runtime.session(serialize(way.model))
        demand = measured(self.runtime, way.model, next(iter(self.held_out.rebatch(1))))
        self.dense = evaluate_sessions(dense, self.test).accuracy
        return way.study(
            {
                "runtime": self.runtime,
                "fit": self.fit,
                "held_out": self.held_out,
                "effort": self.effort,
                "measure": choose_measure("auto", dense.run(next(iter(self.held_out)))),
                "budget": _BUDGET,
                "progress": quiet,
                "dense": dense,
                "evaluation": self.test,
                "dense_accuracy": self.dense,
                "macs": demand.macs,
                "peak": demand.peak.bytes,
                "moved": sum(demand.sizes.values()),
                "seed": 0,
            },
            Targets(),
        )


def ways(study: Any, mode: str, columns: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """For each column a function of the ratio that gives an attempt; all share the scores of ``study``."""
    first = Round.of(study, None, None) if mode == "channels" else None
    for column in columns:
        refit, normalize = column.endswith("refit"), column.startswith("normalised")
        options = replace(study.options, compensate=refit, sequential=refit)
        if mode == "weights":
            other = replace(study, options=options, allocation=replace(study.allocation, normalize=normalize))
            yield column, partial(zeroed, other, refit)
            continue
        other = replace(study, options=replace(options, normalize=normalize))
        ranked = other.scored_curves(first.dense_evidence, first.quantum)
        part = replace(first, study=other, ranked=ranked)
        yield column, partial(cut, part)


def cut(part: Any, ratio: float) -> Any:
    """An attempt with this share of the multiply-accumulates."""
    return part.reach({"macs": ratio})


def zeroed(study: Any, refit: bool, ratio: float) -> Any:
    """An attempt with this share of zeros; without a refit the masks alone say everything."""
    counts = study.shares(study.curves(ratio, None), ratio)
    if refit:
        return study.attempt(counts)
    tensors = {}
    for layer, scores in study.allocation.scores(study.model, study.choice.pruned):
        w_GOI = layer.layout.to_matrix(stored(study.model, layer.name))
        mask = project(scores, counts[layer.name] / layer.size, study.options.pattern)
        tensors[layer.name] = layer.layout.to_tensor(w_GOI * mask)
    return study.judged(SetWeights(tensors)(study.model.clone()).model)


def table(bench: Bench, net: str, mode: str, criteria: list[str], columns: tuple[str, ...]) -> None:
    """Print one table, row by row."""
    ratios = RATIOS[mode]
    print(f"\n| {net}, {mode}: {TARGET[mode]} | criterion | {' | '.join(columns)} | seconds |")
    print("|---" * (len(columns) + 3) + "|", flush=True)
    for criterion in criteria:
        start = time.perf_counter()
        study = bench.study(mode, criterion)
        if criterion == "obs":
            first = Round.of(study, None, None) if mode == "channels" else None
            found = {ratio: ["-"] * len(columns) for ratio in ratios}
            for ratio in ratios:
                best = cut(first, ratio) if first else study.find(Targets(sparsity=ratio), 1)
                found[ratio][-1] = f"**{100 * (bench.dense - best.drop):.2f}**"
        else:
            found = {ratio: [] for ratio in ratios}
            for _, way in ways(study, mode, columns):
                for ratio in ratios:
                    found[ratio].append(f"{100 * (bench.dense - way(ratio).drop):.2f}")
        seconds = time.perf_counter() - start
        for ratio in ratios:
            cells = [f"{100 * ratio:.0f}%", criterion, *found[ratio], f"{seconds:.0f}"]
            print(f"| {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("nets", nargs="*", metavar="NET", help=", ".join(NETS))
    parser.add_argument("--samples", type=int, default=1024, help="labelled training images")
    parser.add_argument("--tested", type=int, default=5000, help="images that top-1 is measured on")
    parser.add_argument("--effort", choices=list(EFFORTS), default="normal", help="of measured damage")
    parser.add_argument("--mode", action="append", choices=list(RATIOS), help="instead of both")
    parser.add_argument("--criterion", action="append", choices=CRITERIA, help="instead of all; repeatable")
    parser.add_argument("--column", action="append", choices=COLUMNS, help="instead of all; repeatable")
    args = parser.parse_args()
    if "OBS_ONNX_DATA" not in os.environ:
        sys.exit("set OBS_ONNX_DATA to a folder with data/ and models/")
    root = Path(os.environ["OBS_ONNX_DATA"]).resolve()
    print(f"{args.samples} labelled training images; top-1 in % on {args.tested} others; no retraining")
    for net in args.nets or NETS:
        bench = Bench(root, net, args.samples, args.tested, args.effort)
        for mode in args.mode or RATIOS:
            table(bench, net, mode, args.criterion or list(CRITERIA), tuple(args.column or COLUMNS))
            print(f"\n{net} dense: {100 * bench.dense:.2f}", flush=True)


if __name__ == "__main__":
    main()
