"""Agreement of criteria with the exhaustive oracle: Spearman correlations over all convolution channels.

    OBS_ONNX_DATA=<folder with data/ and models/> python benchmarks/criteria.py [NET ...] [--samples N]

The oracle is |change of the loss| when one channel is removed without compensation, on labelled training
images. Prints, for each net and criterion: correlation with raw scores, with scores normalised by layer, the
mean of the correlations within layers, and seconds.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import numpy as np

CRITERIA = (
    "gates",
    "taylor",
    "fisher",
    "obd",
    "oba",
    "oba-second",
    "oba-paper",
    "l2",
    "l1",
    "mean",
    "std",
    "apoz",
    "mutual-information",
    "obs",
)
FLOORS = {
    ("lenet5", "gates"): 0.95,
    ("lenet5", "taylor"): 0.85,
    ("lenet5", "fisher"): 0.78,
    ("cifarnet", "gates"): 0.90,
    ("cifarnet", "taylor"): 0.58,
    ("cifarnet", "fisher"): 0.78,
}


def images(root: Path, net: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Normalised training images and labels, by the loader that lies beside the data."""
    sys.path.insert(0, str(root / "data"))
    import load

    return (load.mnist if net.startswith("lenet") else load.cifar10)("train", count)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("nets", nargs="*", metavar="NET", default=["lenet5", "cifarnet"])
    parser.add_argument("--samples", type=int, default=2048)
    parser.add_argument("--criterion", action="append", help="instead of all; repeatable")
    args = parser.parse_args()
    if "OBS_ONNX_DATA" not in os.environ:
        sys.exit("set OBS_ONNX_DATA to a folder with data/ and models/")
    from obs_onnx.entrypoints.options.score import ScorerOptions
    from obs_onnx.entrypoints.score import Scorer

    root = Path(os.environ["OBS_ONNX_DATA"]).resolve()
    print(
        f"{args.samples} labelled training images; Spearman with |change of loss|, channels of convolutions"
    )
    print("| net | criterion | raw | at least | normalised | mean of layers | seconds |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for net in args.nets:
        x, y = images(root, net, args.samples)
        scorer = Scorer(root / "models" / f"{net}.onnx", ScorerOptions(calib={"input": x, "labels": y}))
        _ = scorer.oracle
        for criterion in args.criterion or CRITERIA:
            start = time.perf_counter()
            found = scorer.scores(criterion, oracle=True).spearman
            floor = FLOORS.get((net, criterion), "")
            print(
                f"| {net} | {criterion} | **{_two(found['convolutions']['raw'])}** | {floor} "
                f"| {_two(found['convolutions']['normalised'])} | {_two(found['per_layer_mean'])} "
                f"| {time.perf_counter() - start:.1f} |",
                flush=True,
            )


def _two(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


if __name__ == "__main__":
    main()
