"""Runs that are stopped and gone on with: the same bytes, and nothing computed twice."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
import pytest
from nets import data, saved_residual

from obs_onnx import pareto, prune, score
from obs_onnx.io.onnx_file import serialize
from obs_onnx.passes.errors import OptionError
from obs_onnx.training.checkpoint import Checkpoint
from obs_onnx.work.work_folder import Work

FAST = {"effort": "quick", "threads": 1, "latency": False}
HALF = {"macs": 0.5}
TRAINED = {"finetune": 4, "train_batch": 16}
RUNS: dict[str, tuple[int, dict[str, Any]]] = {
    "channels within an error": (7, {"targets": {"error": 0.3}}),
    "channels retrained": (24, {"targets": HALF, "rounds": 2, **TRAINED}),
    "channels by the oracle": (3, {"targets": HALF, "criterion": "oracle"}),
    "weights retrained": (16, {"mode": "weights", "targets": {"sparsity": 0.6}, "rounds": 2, **TRAINED}),
    "weights of a pattern, alone": (4, {"mode": "weights", "pattern": "2:4", "sequential": False}),
}


class Stop(BaseException):
    """In place of the end of a process."""


@dataclass
class Watch:
    """Names of the stages of all pieces that were written, and how many may be."""

    written: list[str] = field(default_factory=list)
    allowed: int | None = None


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A small model with its data."""
    return saved_residual(tmp_path)


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> Watch:
    """What is written, and the end of it."""
    watch, write = Watch(), Work._write

    def watched(self: Work, path: Path, value: object) -> None:
        if len(watch.written) == watch.allowed:
            raise Stop
        write(self, path, value)
        watch.written.append(self.name)

    monkeypatch.setattr(Work, "_write", watched)
    return watch


def pruned(model: Path, **options: Any) -> bytes:
    prune(model, model.with_name("out.onnx"), **FAST, **options)
    keep = model.with_name("out.keep.json")
    return model.with_name("out.onnx").read_bytes() + (keep.read_bytes() if keep.exists() else b"")


def frontier(model: Path, **options: Any) -> bytes:
    found = pareto(
        str(model), model.with_name("m.pareto"), cost="macs", points=3, plot=False, **FAST, **options
    )
    names = sorted(Path(str(found.frontier.output)).glob("*.onnx"))
    content = b"".join(path.read_bytes() for path in names)
    for path in Path(str(found.frontier.output)).iterdir():
        path.unlink()
    return content + b"".join(map(serialize, found.models))


def scored(model: Path, **options: Any) -> bytes:
    found = score(model, threads=1, oracle=True, **options)
    return b"".join(group.raw.tobytes() + group.oracle.tobytes() for group in found.groups)


def check_stopped(run: Callable[..., bytes], model: Path, pieces: Watch, allowed: int) -> None:
    """Stop behind so many pieces, go on, and compare with a run that was not stopped."""
    folder = model.with_name("work")
    plain = run(model)
    assert not pieces.written
    pieces.allowed = allowed
    with pytest.raises(Stop):
        run(model, work=folder)
    pieces.allowed = None
    assert run(model, work=folder, resume=True) == plain
    assert len(pieces.written) == len(list((folder / "pieces").iterdir())) > allowed + 1
    pieces.written.clear()
    assert run(model, work=folder, resume=True) == plain
    assert not pieces.written


@pytest.mark.parametrize("name", RUNS)
def test_a_stopped_prune_goes_on_to_the_same_bytes(name: str, model: Path, pieces: Watch) -> None:
    allowed, own = RUNS[name]

    def run(model: Path, **options: Any) -> bytes:
        return pruned(model, **own, **options)

    check_stopped(run, model, pieces, allowed)


def test_retraining_goes_on_from_the_middle_of_a_round(
    model: Path, pieces: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"targets": HALF, "rounds": 2, **TRAINED}
    plain, save, saved = pruned(model, **options), Checkpoint.save, list[int]()

    def watched(self: Checkpoint, path: Path) -> None:
        save(self, path)
        saved.append(self.step)
        if saved[-2:] == [1, 2]:  # of the last round; the one before is measured at its end alone
            raise Stop

    monkeypatch.setattr(Checkpoint, "save", watched)
    with pytest.raises(Stop):
        pruned(model, work=model.with_name("work"), **options)
    monkeypatch.setattr(Checkpoint, "save", save)
    checkpoints = set(model.with_name("work").glob("pieces/retrain*"))
    assert len(checkpoints) == 2  # a round, and the middle of one
    assert pruned(model, work=model.with_name("work"), resume=True, **options) == plain
    assert len(set(model.with_name("work").glob("pieces/retrain*")) & checkpoints) == 1


def test_a_stopped_frontier_goes_on_to_the_same_bytes(model: Path, pieces: Watch) -> None:
    check_stopped(frontier, model, pieces, 12)


def test_stopped_scores_go_on_to_the_same_numbers(model: Path, pieces: Watch) -> None:
    check_stopped(scored, model, pieces, 3)


def test_a_killed_process_goes_on_to_the_same_bytes(model: Path) -> None:
    command = [sys.executable, "-m", "obs_onnx", "prune", model.name, "--target", "macs=0.5", "--rounds", "2"]
    command += ["--effort", "quick", "--threads", "1", "--no-latency", "-q", "-o", "out.onnx"]
    command += ["--work", "work", "--resume"]
    kept = model.with_name("work") / "pieces"
    with subprocess.Popen(
        command, cwd=model.parent, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        while process.poll() is None and len(list(kept.glob("*.npz"))) < 9:
            time.sleep(0.001)
        process.kill()
    assert process.returncode != 0
    assert not model.with_name("out.onnx").exists()
    same: dict[str, Any] = {"targets": ["macs=0.5"], "rounds": 2}
    assert pruned(model, **same, work=model.with_name("work"), resume=True) == pruned(model, **same)
    assert not [path.name for path in kept.iterdir() if path.suffix != ".npz"]


def test_another_model_data_or_option_is_noticed(model: Path) -> None:
    options: dict[str, Any] = {"targets": HALF, "work": model.with_name("w")}
    pruned(model, **options)
    with pytest.raises(OptionError, match="holds pieces of an earlier run: go on from them with resume"):
        pruned(model, **options)
    with pytest.raises(OptionError, match=r"another option \(damping\): repeat that run"):
        pruned(model, **options, damping=0.1, resume=True)
    with pytest.raises(OptionError, match="another calibration data: "):
        pruned(model, **options, calib=data(6, 64, 3, 8, 8), resume=True)
    proto = onnx.load(model)
    content = bytearray(proto.graph.initializer[0].raw_data)
    content[0] ^= 1
    proto.graph.initializer[0].raw_data = bytes(content)
    onnx.save(proto, model)
    with pytest.raises(OptionError, match="another model: "):
        pruned(model, **options, resume=True)


def test_the_same_data_from_another_place_is_the_same(model: Path, pieces: Watch) -> None:
    options: dict[str, Any] = {"targets": HALF, "work": model.with_name("w")}
    first = pruned(model, **options)
    model.with_name("m.calib.npz").rename(model.with_name("else.npz"))
    pieces.written.clear()
    assert pruned(model, **options, calib=model.with_name("else.npz"), resume=True) == first
    assert not pieces.written


def test_a_dry_run_keeps_nothing(model: Path) -> None:
    prune(model, targets=HALF, dry_run=True, work=model.with_name("w"), **FAST)
    assert not model.with_name("w").exists()
