"""What a call reads is never written over, whatever it is called."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from repository import MODELS

import obs_onnx
from obs_onnx.entrypoints.files import check_files, files_read, files_written
from obs_onnx.entrypoints.options.bench import BenchOptions
from obs_onnx.entrypoints.options.finetune import FinetuneOptions
from obs_onnx.entrypoints.options.gradient import GradientOptions
from obs_onnx.entrypoints.options.pareto import ParetoOptions
from obs_onnx.entrypoints.options.prune import PruneOptions
from obs_onnx.io.onnx_file import load_model
from obs_onnx.option import Options
from obs_onnx.passes.errors import OptionError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model whose weights lie beside it, and data of several kinds."""
    monkeypatch.chdir(tmp_path)
    proto = onnx.load(MODELS / "digits_mlp.onnx")
    onnx.save(proto, "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=64)
    for name in ("c.npz", "m.calib.npz"):
        Path(name).write_bytes((MODELS / "digits_mlp.calib.npz").read_bytes())
    Path("data").mkdir()
    for name in ("data/1.npz", "feeds.py", "ops.so", "worker.py"):
        Path(name).write_text(name)
    return tmp_path


def written(options: Options, model: object = "m.onnx") -> set[str]:
    return {os.path.relpath(one.path) for one in files_written(model, options)}


@pytest.mark.usefixtures("folder")
def test_everything_that_is_written() -> None:
    kept = {"m.pruned.onnx", "m.pruned.onnx.data", "m.pruned.keep.json"}
    assert written(PruneOptions()) == set()
    assert written(PruneOptions("m.pruned.onnx")) == kept
    assert written(PruneOptions("m.pruned.onnx", mode="weights")) == kept - {"m.pruned.keep.json"}
    assert written(PruneOptions("o.x", quantize="int8")) == {
        "o.x",
        "o.x.data",
        "o.keep.json",
        "o.int8.onnx",
        "o.int8.onnx.data",
    }
    assert written(PruneOptions(os.devnull)) == {os.path.relpath(os.devnull)}
    assert written(PruneOptions(), load_model("m.onnx")) == set()
    assert written(ParetoOptions()) == set()
    assert written(ParetoOptions("m.pareto")) == {"m.pareto"}
    assert written(GradientOptions("g.onnx")) == {"g.onnx", "g.onnx.data"}
    assert written(GradientOptions()) == set()
    found = written(FinetuneOptions("c.npz", "f.onnx", steps=1, checkpoint="run.npz"))
    assert found == {"f.onnx", "f.onnx.data", "run.npz"}


@pytest.mark.usefixtures("folder")
def test_everything_that_is_read() -> None:
    options = PruneOptions(eval="feeds.py:make", custom_ops=("ops.so",), runtime="command:py 'worker.py'")
    read = {
        one.option: {os.path.relpath(path) for path in one.files} for one in files_read("m.onnx", options)
    }
    assert read == {
        "model": {"m.onnx", "w.bin"},
        "calib": {"m.calib.npz"},
        "eval": {"feeds.py"},
        "custom_ops": {"ops.so"},
        "runtime": {"worker.py"},
    }
    several = [one.value for one in files_read(["m.onnx", "n.onnx"], BenchOptions()) if one.form == "model"]
    assert several == ["m.onnx", "n.onnx"]


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (PruneOptions("m.onnx"), "m.onnx is the model itself: choose another output"),
        (PruneOptions("w.bin"), "w.bin is read with the model"),
        (PruneOptions("c.npz", calib="c.npz"), "c.npz is read for calib: choose another output"),
        (PruneOptions("m.calib.npz"), "m.calib.npz is read for calib"),
        (PruneOptions("data/1.npz", calib="data"), "data/1.npz is read for calib"),
        (PruneOptions("data/2.npz", eval="data"), "data/2.npz is read for eval"),
        (PruneOptions("feeds.py", calib="feeds:make"), "feeds.py is read for calib"),
        (PruneOptions("ops.so", custom_ops=("ops.so",)), "ops.so is read for custom_ops"),
        (PruneOptions("worker.py", runtime="command:python worker.py"), "worker.py is read for runtime"),
        (PruneOptions("a.onnx", calib="a.keep.json"), "a.keep.json is read for calib"),
        (PruneOptions("a.onnx", quantize="int8", calib="a.int8.onnx"), "a.int8.onnx is read for calib"),
        (PruneOptions("a.onnx", calib="a.onnx.data"), "a.onnx.data is read for calib"),
        (FinetuneOptions("c.npz", "a.onnx", steps=1, checkpoint="a.onnx"), "a.onnx is given twice"),
        (FinetuneOptions("c.npz", "a.onnx", steps=1, teacher="a.onnx"), "a.onnx is read for teacher"),
        (PruneOptions("no/a.onnx"), "cannot write no/a.onnx: its folder does not exist"),
        (PruneOptions("."), "cannot write .: it is a folder"),
        (PruneOptions("n" * 250 + ".onnx"), "name too long"),
        (PruneOptions("n" * 245 + ".onnx", quantize="int8"), "int8.onnx.data: File name too long"),
    ],
)
def test_what_is_refused(options: Options, words: str) -> None:
    for name in ("a.keep.json", "a.int8.onnx", "a.onnx.data", "a.onnx"):
        Path(name).write_text(name)
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    with pytest.raises(OptionError) as caught:
        check_files("m.onnx", options)
    assert words in str(caught.value)
    assert before == {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}


def test_models_and_data_in_memory_have_files(folder: Path) -> None:
    np.save("x.npy", np.zeros((4, 3)))
    with pytest.raises(OptionError, match=r"w\.bin is read with the model"):
        check_files(load_model("m.onnx"), GradientOptions("w.bin"))
    with pytest.raises(OptionError, match=r"x\.npy is read for calib"):
        check_files("m.onnx", PruneOptions("x.npy", calib={"input": np.load("x.npy", mmap_mode="r")}))


@pytest.mark.usefixtures("folder")
def test_files_of_the_caller() -> None:
    check_files("m.onnx", PruneOptions(), json_path="r.json", html_path=None)
    for path, words in (("c.npz", "choose another json_path"), ("m.pruned.keep.json", "given twice")):
        with pytest.raises(OptionError, match=words):
            check_files("m.onnx", PruneOptions("m.pruned.onnx", calib="c.npz"), json_path=path)
    Path("out").mkdir()
    with pytest.raises(OptionError, match=r"out/r\.json lies in out, which is written"):
        check_files("m.onnx", ParetoOptions("out"), json_path="out/r.json")


@pytest.mark.usefixtures("folder")
def test_what_is_allowed() -> None:
    check_files("m.onnx", PruneOptions("data/small.onnx", calib="data"), json_path="data/r.json")
    check_files("m.onnx", FinetuneOptions("c.npz", "a.onnx", steps=1, checkpoint="run.npz", resume=True))
    check_files("m.onnx", PruneOptions(os.devnull), json_path=os.devnull)
    check_files("none.onnx", PruneOptions())


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("verb", "options"),
    [
        (obs_onnx.prune, {"output": "c.npz", "calib": "c.npz"}),
        (obs_onnx.pareto, {"output": "c.npz", "calib": "c.npz"}),
        (obs_onnx.finetune, {"data": "c.npz", "output": "c.npz", "steps": 1}),
        (obs_onnx.gradient, {"output": "m.onnx"}),
        (obs_onnx.artifacts, {"output": "data"}),
    ],
)
def test_every_function_asks_first(
    verb: Any, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr("obs_onnx.io.onnx_file.load_model", fails)
    with pytest.raises(OptionError, match=r"is read|is the model|exists"):
        verb("m.onnx", **options)
