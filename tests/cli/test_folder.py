"""Commands over a folder of models and data change what they write and nothing else, not even when killed."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from onnx import helper, numpy_helper

from obs_onnx.cli import main
from obs_onnx.io.atomic_files import write_text
from obs_onnx.io.model_files import files_of
from obs_onnx.io.onnx_file import load_model

QUICK = "--effort quick --threads 1 -q --no-latency"
COMMANDS = {
    "inspect": "inspect {model} --json {one}",
    "gradient": "gradient {model} -o {one} --loss sum_of_squares",
    "eval": "eval {model} --data {data} --against {other} --json {one} --threads 1",
    "score": "score {model} --calib {data} --criterion magnitude --json {one} --threads 1 -q",
    "plot": "score {model} --calib {data} --oracle --criterion l1 --plot {one} --json {two} --threads 1 -q",
    "weights": "prune {model} --calib {data} --mode weights --criterion magnitude --target sparsity=0.5 "
    "-o {one} --json {two} --report {three} " + QUICK,
    "channels": "prune {model} --calib {data} --target macs=0.7 -o {one} --json {two} " + QUICK,
    "beside": "prune {model} --target macs=0.7 --json {two} " + QUICK,
    "int8": "prune {model} --calib {data} --target macs=0.7 --quantize int8 -o {one} " + QUICK,
    "finetune": "finetune {model} --data {data} --steps 2 -o {one} --checkpoint {two} --teacher {other} "
    "--threads 1 -q",
    "pareto": "pareto {model} --calib {data} --cost macs --points 1 --seconds 0.01 --no-plot -o {one} "
    + QUICK,
}
WRITE = ("-o", "--json", "--report", "--plot", "--checkpoint")
NAMES = """m.onnx e.onnx e.bin c.npz d d/1.npz soft.npz hard.npz m.calib.npz note.txt a.onnx a.onnx.data
    a.keep.json a.int8.onnx b.onnx r.json m.pruned.onnx m.pruned.keep.json sub/../c.npz sub/r.json to/c.npz
    no/r.json r.html p.svg out""".split()  # noqa: SIM905
MODELS, DATA = ("m.onnx", "e.onnx", "a.onnx", "b.onnx"), ("c.npz", "d", "soft.npz", "hard.npz")


def tiny() -> onnx.ModelProto:
    rng, shapes = np.random.default_rng(0), {"w": (4, 16), "b": (16,), "v": (16, 3)}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="first"),
        helper.make_node("Add", ["h", "b"], ["i"], name="bias"),
        helper.make_node("Relu", ["i"], ["j"], name="relu"),
        helper.make_node("MatMul", ["j", "v"], ["y"], name="last"),
    ]
    ends = [helper.make_tensor_value_info(name, 1, ["N", size]) for name, size in (("x", 4), ("y", 3))]
    weights = [
        numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
        for name, shape in shapes.items()
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def fill(folder: Path) -> None:
    """Models, data of all kinds, links, and something that has to do with nothing."""
    rng = np.random.default_rng(0)
    x, labels = rng.standard_normal((48, 4)).astype(np.float32), rng.integers(0, 3, 48)
    onnx.save(tiny(), folder / "m.onnx")
    onnx.save(tiny(), folder / "e.onnx", save_as_external_data=True, location="e.bin", size_threshold=0)
    for name in ("c.npz", "m.calib.npz", "linked.npz"):
        np.savez(folder / name, x=x, labels=labels)
    for name in ("d", "sub"):
        (folder / name).mkdir()
    for number in range(3):
        np.savez(folder / "d" / f"{number}.npz", x=x[16 * number :][:16], labels=labels[16 * number :][:16])
    (folder / "soft.npz").symlink_to("linked.npz")
    os.link(folder / "linked.npz", folder / "hard.npz")
    (folder / "to").symlink_to(folder)
    (folder / "note.txt").write_text("mine")


def state(folder: Path) -> dict[str, bytes]:
    """What every file holds, and where every link leads."""
    found = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = os.readlink(path).encode()
        elif path.is_file():
            found[name] = path.read_bytes()
    return found


class Commands(RuleBasedStateMachine):
    """Any commands, one after the other, with files of any role in any place."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(os.path.realpath(tempfile.mkdtemp()))
        self.back = Path.cwd()
        fill(self.folder)
        os.chdir(self.folder)

    def teardown(self) -> None:
        os.chdir(self.back)
        shutil.rmtree(self.folder)

    @rule(
        command=st.sampled_from(sorted(COMMANDS)),
        models=st.tuples(st.sampled_from(MODELS), st.sampled_from(MODELS)),
        data=st.sampled_from(DATA),
        outputs=st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES), st.sampled_from(NAMES)),
    )
    def run(self, command: str, models: tuple[str, str], data: str, outputs: tuple[str, str, str]) -> None:
        before, sources = state(self.folder), read(command, models, data)
        if "e.bin" in outputs and "e.bin" not in sources:
            return  # another model would lose its weights, of which this command knows nothing
        names = dict(zip(("one", "two", "three"), outputs, strict=True))
        given = COMMANDS[command].format(model=models[0], other=models[1], data=data, **names).split()
        result = CliRunner(catch_exceptions=False).invoke(main, given)
        after = state(self.folder)
        changed = {name for name in {*before, *after} if before.get(name) != after.get(name)}
        assert result.exit_code in (0, 2, 3), result.output
        if result.exit_code == 2:
            assert not changed, (given, result.stderr)
            assert result.stderr.count("\n") == 1
            return
        assert changed <= wanted(given, models[0]), given
        assert not changed & sources, given


def read(command: str, models: tuple[str, str], data: str) -> set[str]:
    """Files that a command reads."""
    text = COMMANDS[command]
    found = {models[0], models[1] if "{other}" in text else models[0]}
    for model in [name for name in found if Path(name).is_file()]:
        found |= {os.path.relpath(path) for path in files_of(model)}
    if "{data}" in text:
        found |= {f"d/{number}.npz" for number in range(3)} if data == "d" else {data}
        links = [
            Path(name) for name in ("soft.npz", "hard.npz", "linked.npz")
        ]  # as long as nothing else is there
        found |= {str(link) for link in links if data != "d" and link.exists() and link.samefile(data)}
    return found | ({"m.calib.npz"} if command == "beside" else set())


def wanted(given: list[str], dense: str) -> set[str]:
    """All that a command may write."""
    named = [given[number + 1] for number, word in enumerate(given) if word in WRITE]
    output = given[given.index("-o") + 1] if "-o" in given else f"{Path(dense).stem}.pruned.onnx"
    stem = os.path.splitext(output)[0]
    for model in (output, f"{stem}.int8.onnx"):
        named += [model, f"{os.path.realpath(model)}.data"]
    named.append(f"{stem}.keep.json")
    places = {os.path.relpath(os.path.realpath(name)) for name in named}
    inside = {str(path) for name in places for path in Path(name).rglob("*")}
    return places | (inside if given[0] == "pareto" else set())


def test_no_command_changes_what_it_does_not_write() -> None:
    run_state_machine_as_test(
        Commands,
        settings=settings(
            max_examples=8,
            stateful_step_count=12,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize("command", sorted(COMMANDS))
@pytest.mark.parametrize("model", ["m.onnx", "e.onnx"])
def test_every_command_does_its_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, model: str
) -> None:
    if (command, model) == ("beside", "e.onnx"):
        pytest.skip("has no data beside it")
    fill(tmp_path)
    monkeypatch.chdir(tmp_path)
    names = {"one": "p.svg" if command == "plot" else "out", "two": "two.json", "three": "r.html"}
    given = COMMANDS[command].format(model=model, other="m.onnx", data="c.npz", **names).split()
    result = CliRunner(catch_exceptions=False).invoke(main, given)
    assert result.exit_code == 0, result.output
    for name in names.values():
        assert Path(name).exists() == (name in given)


LIMITED = """
import resource, sys
from obs_onnx.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))
main(sys.argv[1:])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits")
@pytest.mark.parametrize("command", ["gradient", "channels"])
def test_no_room_for_the_files(tmp_path: Path, command: str) -> None:
    fill(tmp_path)
    given = COMMANDS[command].format(model="e.onnx", data="c.npz", one="note.txt", two="new.json").split()
    before = state(tmp_path)
    program = [sys.executable, "-c", LIMITED, *given]
    result = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr.endswith(": File too large\n")
    assert result.stderr.count("\n") == 1
    assert state(tmp_path) == before


@pytest.mark.skipif(sys.platform == "win32", reason="devices")
def test_a_report_that_fails_leaves_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = state(tmp_path)
    given = COMMANDS["channels"].format(model="m.onnx", data="c.npz", one="a.onnx", two="/dev/full").split()
    result = CliRunner(catch_exceptions=False).invoke(main, [*given, "--report", "r.html"])
    assert result.exit_code == 4
    assert result.stderr.endswith("/dev/full: No space left on device; a.onnx is complete and written\n")
    assert set(state(tmp_path)) == {*before, "a.onnx", "a.keep.json", "r.html"}


@pytest.mark.skipif(sys.platform == "win32", reason="devices")
@pytest.mark.parametrize("command", ["gradient", "weights", "channels", "int8", "finetune"])
def test_a_device_gets_the_model_and_nothing_lies_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    fill(tmp_path)
    monkeypatch.chdir(tmp_path)
    Path("null").symlink_to(os.devnull)
    before = state(tmp_path)
    names = {"one": "null", "two": "two.json", "three": "r.html"}
    given = COMMANDS[command].format(model="e.onnx", other="m.onnx", data="c.npz", **names).split()
    result = CliRunner(catch_exceptions=False).invoke(main, given)
    assert result.exit_code == 0, result.output
    assert set(state(tmp_path)) - set(before) <= {"two.json", "r.html"}
    assert Path(os.devnull).is_char_device()


WRITER = """
import json, os, random, sys, time
import numpy as np, onnx_ir as ir
from obs_onnx.io.atomic_files import together
from obs_onnx.io.json_file import write_json
from obs_onnx.io.onnx_file import load_model, save_model
replace, rng = os.replace, random.Random()
def slow(source, target):
    time.sleep(rng.choice((0, 0, 0.002)))
    replace(source, target)
os.replace = slow
print("ready", flush=True)
for number in range(int(sys.argv[1]), 10**6):
    model = load_model("source.onnx")
    for value in model.graph.initializers.values():
        value.const_value = ir.tensor(np.full(value.shape.numpy(), number, np.float32), name=value.name)
    model.metadata_props["number"] = str(number)
    with together() as files:
        save_model(model, "m.onnx", lambda written: load_model(written), files)
        write_json("m.keep.json", {"number": number}, files)
        save_model(model, "m.int8.onnx", files=files)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_killed_at_any_moment(tmp_path: Path) -> None:
    big = helper.make_tensor_value_info("y", 1, [600])
    weight = numpy_helper.from_array(np.zeros(600, np.float32), "w")
    graph = helper.make_graph([helper.make_node("Relu", ["w"], ["y"])], "g", [], [big], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(model, tmp_path / "source.onnx", save_as_external_data=True, location="w.bin")
    chance, last = random.Random(0), 0
    for _ in range(8):
        program = [sys.executable, "-c", WRITER, str(last + 1)]
        with subprocess.Popen(program, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            time.sleep(chance.uniform(0.05, 0.3))
            process.send_signal(signal.SIGKILL)
        for name in ("m.onnx", "m.int8.onnx"):
            if (tmp_path / name).exists():
                onnx.load(tmp_path / name, load_external_data=False)  # no file is ever half there
        write_text(tmp_path / "next.txt", "the next run")
        last = check_together(tmp_path, last)
    assert last > 3


def check_together(folder: Path, least: int) -> int:
    """The number that all files of a result agree on; there is nothing else in the folder."""
    names = {path.name for path in folder.iterdir()}
    written = {f"m.{end}" for end in ("onnx", "onnx.data", "keep.json", "int8.onnx", "int8.onnx.data")}
    assert names in ({"source.onnx", "w.bin", "next.txt"}, {"source.onnx", "w.bin", "next.txt", *written})
    if "m.onnx" not in names:
        return least
    number = json.loads((folder / "m.keep.json").read_text())["number"]
    for name in ("m.onnx", "m.int8.onnx"):
        model = load_model(folder / name)
        assert model.metadata_props["number"] == str(number)
        weight = model.graph.initializers["w"].const_value
        assert weight is not None
        assert (weight.numpy() == number).all()
    assert number >= least
    return int(number)
