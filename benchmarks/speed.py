"""What pruning takes, stage by stage: CPU seconds and peak memory of real models.

    OBS_ONNX_DATA=<folder with data/, models/, lm/, field/, zoo/> python benchmarks/speed.py [WORK ...]
        [--effort normal] [--memory 2GB] [--samples N] [--list]

Every work has a process of its own. Under its row stands each stage of the run without those inside of it:
seconds, CPU seconds, GB at most, runs and sessions that it asked for; then what was forecast, of the time of
all cores, beside what it took. ``forward`` are the runs themselves, ``sessions`` is loading them. A skeleton
of the zoo is ``zoo/NAME`` (random weights and data).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from one_shot import images
from zoo import load_zoo, write_calibration

from obs_onnx import prune
from obs_onnx.cli.values import Size


class Work(NamedTuple):
    """What is pruned, on what, and how far.

    Attributes:
        model: below the folder.
        samples: of calibration data.
        options: of prune().
    """

    model: str
    samples: int
    options: Mapping[str, Any]


CHANNELS, WEIGHTS = {"mode": "channels"}, {"mode": "weights"}
_IMAGES, _LM, _CLIPS = "models/{}.onnx", "lm/lm.onnx", "field/real/basic_pitch/model.onnx"
WORKS = {
    "basic_pitch": Work(_CLIPS, 64, CHANNELS | {"targets": {"macs": 0.7}}),
    "lenet5-weights": Work(_IMAGES.format("lenet5"), 2048, WEIGHTS | {"targets": {"sparsity": 0.9}}),
    "lm": Work(_LM, 512, CHANNELS | {"targets": {"params": 0.8}}),
    "lm-weights": Work(_LM, 512, WEIGHTS | {"targets": {"sparsity": 0.7}}),
    **{
        net: Work(_IMAGES.format(net), 2048, CHANNELS | {"targets": {"macs": macs}})
        for net, macs in {
            "lenet5": 0.5,
            "resnet32": 0.5,
            "vgg16": 0.5,
            "mobilenetv2": 0.6,
            "vit": 0.6,
        }.items()
    },
    **{
        f"{net}-weights": Work(_IMAGES.format(net), 2048, WEIGHTS | {"targets": {"sparsity": 0.9}})
        for net in ("resnet32", "vgg16")
    },
}


def main() -> int:
    options = parse()
    if options.list:
        print(*WORKS, "zoo/NAME", sep="\n")
        return 0
    if options.root is None:
        sys.exit("set OBS_ONNX_DATA to a folder with data/, models/, lm/, field/ and zoo/, or give --root")
    if options.row:
        print(json.dumps(measure(Path(options.root), options.works[0], options)))
        return 0
    print(f"{'work':24} {'seconds':>8} {'CPU':>8} {'GB':>6} {'runs':>7} {'sessions':>8}")
    for name in options.works or WORKS:
        work = WORKS.get(name)
        if work is not None and not Path(options.root, work.model).exists():
            print(f"{name:24} skipped: no {work.model}", flush=True)
            continue
        show(name, apart(name, options))
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("works", nargs="*", metavar="WORK")
    parser.add_argument("--root", default=os.environ.get("OBS_ONNX_DATA"))
    parser.add_argument("--effort", default="normal")
    parser.add_argument("--memory", default=None, help="as of prune")
    parser.add_argument("--samples", type=int, default=None, help="of calibration data")
    parser.add_argument("--threads", type=int, default=None, help="of the runtime")
    parser.add_argument("--list", action="store_true", help="names of works")
    parser.add_argument("--row", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def apart(name: str, options: argparse.Namespace) -> dict[str, Any] | str:
    """What a work took, in a process of its own; or why it took nothing."""
    given = [word for word in sys.argv[1:] if word not in options.works]
    quiet = {"OPENBLAS_THREAD_TIMEOUT": "20", **os.environ}  # as on the command line, see docs/runtimes.md
    command = [sys.executable, __file__, name, "--row", *given]
    done = subprocess.run(command, capture_output=True, text=True, env=quiet)
    try:
        return json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        return f"the process ended with {done.returncode}: {' '.join(done.stderr.split())[-200:]}"


def measure(root: Path, name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Prune, and report what it took; data is made before."""
    with tempfile.TemporaryDirectory() as folder:
        model, calib, chosen = opened(root, name, options.samples, Path(folder))
        memory = None if options.memory is None else Size().convert(options.memory, None, None)
        start, cpu = time.perf_counter(), time.process_time()
        report = prune(
            model, Path(folder, "out.onnx"), calib=calib, memory=memory, latency=False,
            effort=options.effort, threads=options.threads, **chosen,
        ).report  # fmt: skip
        stages = report.to_json()["stages"]
        peak = max((one["peak_bytes"] or 0 for one in stages), default=0)
        return {
            "seconds": time.perf_counter() - start,
            "cpu_seconds": time.process_time() - cpu,
            "peak_bytes": peak or 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
            "runs": sum(one["runs"] for one in stages),
            "sessions": sum(one["sessions"] for one in stages),
            "error": report.output_error,
            "met": report.met,
            "stages": stages,
            "forecast": report.to_json()["forecast"],
        }


def opened(root: Path, name: str, samples: int | None, folder: Path) -> tuple[Path, Path, Mapping[str, Any]]:
    """Files of a model and of its data, and the options."""
    calib = folder / "calib.npz"
    if name.startswith("zoo/"):
        zoo, model = load_zoo(root / "zoo"), folder / "model.onnx"
        skeleton = root / "zoo" / "skeletons" / f"{name.removeprefix('zoo/')}.onnx"
        proto = zoo.load(skeleton)
        onnx.save(proto, model)
        calib = write_calibration(zoo, proto, folder, samples or 64)
        return model, calib, CHANNELS | {"targets": {"macs": 0.5}}
    work = WORKS[name]
    model, count = root / work.model, samples or work.samples
    beside = {_LM: ["lm.calib.npz"], _CLIPS: ["calib.npz", "test.npz"]}
    if work.model in beside:
        files = [np.load(model.with_name(file)) for file in beside[work.model]]
        arrays = {key: np.concatenate([file[key] for file in files if key in file]) for key in files[0]}
    else:
        arrays = {"input": images(root, model.stem, "train", count)[0]}
    np.savez(calib, **{key: np.resize(array, (count, *array.shape[1:])) for key, array in arrays.items()})
    return model, calib, work.options


def show(name: str, found: dict[str, Any] | str) -> None:
    if isinstance(found, str):
        print(f"{name:24} {found}", flush=True)
        return
    for label, one in ((name, found), *((f"  {one['name']}", one) for one in found["stages"])):
        peak = "-" if one["peak_bytes"] is None else f"{one['peak_bytes'] / 1e9:.2f}"
        print(
            f"{label:24} {one['seconds']:8.1f} {one['cpu_seconds']:8.1f} {peak:>6} {one['runs']:7} "
            f"{one['sessions']:8}",
            flush=True,
        )
    show_forecast(found["stages"], found["forecast"])
    print(f"  output error {found['error']}, {'met' if found['met'] else 'missed'}", flush=True)


def show_forecast(stages: list[dict[str, Any]], forecast: list[dict[str, Any]]) -> None:
    """CPU seconds and memory as they were expected before the search, beside what it took, stage by stage."""
    took, own = {one["name"]: one for one in stages}, {one["name"] for one in forecast}
    rows = [(one["name"], one, took[one["name"]]) for one in forecast if one["name"] in took]
    known = [one for one in stages if one["name"] in own]
    rows.append(("all of them", summed(forecast), summed(known)))
    print(f"  {'forecast':22} {'CPU':>8} {'took':>8} {'ratio':>6} {'GB':>6} {'took':>6}")
    for name, expected, real in rows:
        ratio = expected["cpu_seconds"] / max(real["cpu_seconds"], 1e-9)
        peaks = " ".join(f"{(one['peak_bytes'] or 0) / 1e9:6.2f}" for one in (expected, real))
        print(f"  {name:22} {expected['cpu_seconds']:8.1f} {real['cpu_seconds']:8.1f} {ratio:6.2f} {peaks}")


def summed(stages: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "cpu_seconds": sum(one["cpu_seconds"] for one in stages),
        "peak_bytes": max((one["peak_bytes"] or 0 for one in stages), default=0),
    }


if __name__ == "__main__":
    sys.exit(main())
