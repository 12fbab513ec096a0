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
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from one_shot import images

from obs_onnx.allocation.targets import parse_targets
from obs_onnx.calibration.layer_weights import stored
from obs_onnx.data.open_source import open_source, split
from obs_onnx.evaluation.measures.output_damage import choose_measure
from obs_onnx.evaluation.quality import evaluate_sessions
from obs_onnx.evaluation.run_cost import measured
from obs_onnx.io.onnx_file import open_model, serialize
from obs_onnx.passes.graph.set_weights import SetWeights
from obs_onnx.passes.layers.stages import plan_stages
from obs_onnx.progress import quiet
from obs_onnx.pruning.calibrated import Calibrated, CalibrationData, DenseModel
from obs_onnx.pruning.channels.curves import scored_curves
from obs_onnx.pruning.channels.plan import ChannelStrategy
from obs_onnx.pruning.channels.round import Round
from obs_onnx.pruning.channels.task import ChannelTask
from obs_onnx.pruning.effort import EFFORTS, Budget
from obs_onnx.pruning.inputs import Inputs
from obs_onnx.pruning.judgement import Judged, judge
from obs_onnx.pruning.options import DAMAGE, ModeOptions
from obs_onnx.pruning.recorder import Recorder
from obs_onnx.pruning.weights.plan import WeightStrategy
from obs_onnx.pruning.weights.search import search_weights
from obs_onnx.pruning.weights.task import WeightTask, attempt_pruning
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
        runtime = open_runtime("onnxruntime", spinning=False)
        self.inputs = Inputs(original, name, path, runtime, runtime)
        x, y = images(root, net, "train", samples)
        specs = runtime.session(serialize(original)).inputs
        source = open_source({"input": x, "labels": y}, specs, batch_size=128)
        fit, held_out = split(source, 0.125, 0)
        x, y = images(root, net, "val", tested)
        test = open_source({"input": x, "labels": y}, specs, batch_size=128)
        self.data = CalibrationData(fit, held_out, test, 0)
        self.dense = evaluate_sessions(runtime.session(serialize(original)), test).accuracy

    def task(self, mode: str, criterion: str) -> ChannelTask | WeightTask:
        """Where a mode starts with this criterion, which also allocates unless it is the surgeon."""
        default = criterion == "obs"
        options = ModeOptions(
            criterion="auto" if default else criterion,
            compensate=default,
            sequential=default,
            round_to=None if default or mode == "weights" else 1,
            allocation=DAMAGE if default else criterion,
        )
        strategy = WeightStrategy() if mode == "weights" else ChannelStrategy()
        plan = strategy.open(self.inputs, options)
        runtime, data = self.inputs.runtime, self.data
        session = runtime.session(serialize(plan.model))
        stages = plan_stages(plan.model, plan.layers)
        cost = measured(runtime, plan.model, data.sample)
        dense = DenseModel(plan.model, plan.layers, stages, runtime, session, cost, self.dense)
        measure = choose_measure("auto", session.run(data.first))
        calibrated = Calibrated(dense, data, Budget(self.effort, _BUDGET), measure)
        return plan.task(calibrated, Recorder(quiet))


def ways(task: ChannelTask | WeightTask, columns: tuple[str, ...]) -> Iterator[Callable[[float], Judged]]:
    """For each column a function of the ratio that gives an attempt; all share the scores of ``task``."""
    first = Round.of(task, None, None) if isinstance(task, ChannelTask) else None
    for column in columns:
        refit, normalize = column.endswith("refit"), column.startswith("normalised")
        options = replace(task.options, compensate=refit, sequential=refit)
        if first is None:
            allocation = replace(task.allocation, normalize=normalize)
            yield partial(zeroed, replace(task, options=options, allocation=allocation), refit)
            continue
        other = replace(task, options=replace(options, normalize=normalize))
        ranked = scored_curves(other, first.dense_evidence, first.quantum)
        yield partial(cut, replace(first, task=other, ranked=ranked))


def cut(part: Round, ratio: float) -> Judged:
    """An attempt with this share of the multiply-accumulates."""
    return part.reach({"macs": ratio})


def zeroed(task: WeightTask, refit: bool, ratio: float) -> Judged:
    """An attempt with this share of zeros; without a refit the masks alone say everything."""
    counts = task.shares(task.curves(ratio, None), ratio)
    if refit:
        return attempt_pruning(task, counts)
    tensors = {}
    for layer, scores in task.allocation.scores(task.model, task.choice.pruned):
        w_GOI = layer.layout.to_matrix(stored(task.model, layer.name))
        mask = project(scores, counts[layer.name] / layer.size, task.options.pattern)
        tensors[layer.name] = layer.layout.to_tensor(w_GOI * mask)
    pruned = SetWeights(tensors)(task.model.clone()).model
    return judge(pruned, task.calibrated, task.recorder)


def table(bench: Bench, net: str, mode: str, criteria: list[str], columns: tuple[str, ...]) -> None:
    """Print one table, row by row."""
    ratios = RATIOS[mode]
    print(f"\n| {net}, {mode}: {TARGET[mode]} | criterion | {' | '.join(columns)} | seconds |")
    print("|---" * (len(columns) + 3) + "|", flush=True)
    for criterion in criteria:
        start = time.perf_counter()
        task = bench.task(mode, criterion)
        if criterion == "obs":
            first = Round.of(task, None, None) if mode == "channels" else None
            found = {ratio: ["-"] * len(columns) for ratio in ratios}
            for ratio in ratios:
                best = (
                    cut(first, ratio)
                    if first
                    else search_weights(task, parse_targets({"sparsity": ratio}), 1, None)[0]
                )
                found[ratio][-1] = f"**{100 * (bench.dense - best.drop):.2f}**"
        else:
            found = {ratio: [] for ratio in ratios}
            for way in ways(task, columns):
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
