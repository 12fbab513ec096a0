"""What an addition touches: a throw-away one of each kind, written into a copy of the code and used there.

    python tests/touch_counts.py

prints a row for each kind: new files, and lines added to files that were there. Every addition is then used
end to end, by a program that runs on the copy. ``tests/test_touch_counts.py`` holds the counts.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from repository import MODELS, ROOT

__all__ = ["ADDITIONS", "Addition", "Edit", "touched", "use"]


@dataclass(frozen=True)
class Edit:
    """Lines that go into a file behind the line that starts with ``behind``; without it, a new file."""

    file: str
    text: str
    behind: str = ""

    @property
    def lines(self) -> int:
        """Lines added."""
        return len(self.text.strip("\n").splitlines())


@dataclass(frozen=True)
class Addition:
    """Something new of one kind.

    Attributes:
        kind: of thing.
        edits: all that it takes.
        use: a program that uses it, and fails if it does not do what it should.
    """

    kind: str
    edits: tuple[Edit, ...]
    use: str


OPTION = Addition(
    "option",
    (
        Edit(
            "obs_onnx/pruning/options.py",
            '    shout: int = option(0, help="How often to say what is done.", most=3, metavar="N")\n',
            "class EffortOptions",
        ),
        Edit(
            "obs_onnx/entrypoints/prune.py",
            '    options.progress.say("pruning! " * options.shout)\n',
            "    strategy = STRATEGIES[",
        ),
    ),
    """
import inspect, json
from pathlib import Path
from click.testing import CliRunner
from obs_onnx import prune
from obs_onnx.cli import main

runner = CliRunner()
assert "--shout N" in runner.invoke(main, ["prune", "--help"]).output
assert inspect.signature(prune).parameters["shout"].default == 0
assert "shout" in prune.__doc__
refused = runner.invoke(main, ["prune", MODEL, "--shout", "4"])
assert refused.exit_code == 2 and "--shout" in refused.output, refused.output
given = ["prune", MODEL, "-o", "small.onnx", "--shout", "2", "--effort", "quick", "--json", "r.json"]
done = runner.invoke(main, given)
assert done.exit_code == 0, done.output
assert json.loads(Path("r.json").read_text())["options"]["shout"] == 2
said = []
class Heard:
    def stage(self, name, total=None):
        return quiet.stage(name, total)
    def say(self, text):
        said.append(text)
from obs_onnx.progress import quiet
prune(MODEL, dry_run=True, shout=2, progress=Heard())
assert "pruning! pruning! " in said, said
""",
)

TARGET = Addition(
    "target",
    (
        Edit(
            "obs_onnx/allocation/costs.py",
            "TENSORS = ModelCost(lambda one: sum(v.const_value.nbytes for v in "
            "one.model.graph.initializers.values()), lambda one: one.costs.bytes)\n",
            "RAM = ModelCost(",
        ),
        Edit(
            "obs_onnx/allocation/targets.py",
            'TENSORS = Target("tensors", share_or_bytes, "weights", mode="channels", misfit=_COST_ONLY, '
            'cost="obs_onnx.allocation.costs:TENSORS")\n',
            "_COST_ONLY = ",
        ),
        Edit(
            "obs_onnx/allocation/targets.py",
            "        TENSORS,\n",
            "        LATENCY,",
        ),
    ),
    """
import onnx
from obs_onnx import prune

def held(model):
    return sum(onnx.numpy_helper.to_array(t).nbytes for t in model.graph.initializer)

before = held(onnx.load(MODEL))
found = prune(MODEL, "small.onnx", targets={"tensors": 0.5}, effort="quick", latency=False, round_to=1)
after = held(onnx.load("small.onnx"))
assert found.report.met and 0.4 * before < after <= 0.5 * before, (before, after)
assert found.report.targets == {"tensors": 0.5}
""",
)

CRITERION = Addition(
    "criterion",
    (
        Edit(
            "obs_onnx/criteria/channels/backwards.py",
            '"""The last channel is worth least."""\n\nimport numpy as np\n\n\n'
            "def backwards(evidence, group):\n    return -np.arange(float(group.n))\n",
        ),
        Edit(
            "obs_onnx/criteria/channels/registry.py",
            '    "backwards": Criterion(f"{_HERE}.backwards:backwards"),\n',
            "CRITERIA: Mapping[str, Criterion] = {",
        ),
    ),
    """
import json
from pathlib import Path
from obs_onnx import prune, score

prune(MODEL, "small.onnx", criterion="backwards", targets={"macs": 0.5}, effort="quick", latency=False)
kept = json.loads(Path("small.keep.json").read_text())["tensors"]
indices = [index for axes in kept.values() for index in axes.values()]
assert indices and all(index == list(range(len(index))) for index in indices), kept
assert score(MODEL, criterion="backwards").groups[0].raw[1] == -1
""",
)

RUNTIME = Addition(
    "runtime",
    (
        Edit(
            "obs_onnx/runtimes/twice.py",
            '"""onnxruntime under another name."""\n\n'
            "from obs_onnx.runtimes.onnxruntime import OrtRuntime\n\n\n"
            "def open_twice(where, threads, custom_ops, *, options, spinning):\n"
            "    return OrtRuntime(where or None, threads, custom_ops, options=options, spinning=spinning)\n",
        ),
        Edit(
            "obs_onnx/runtimes/registry.py",
            '    "twice": Entry("obs_onnx.runtimes.twice:open_twice", "twice", extras=("twice",)),\n',
            "RUNTIMES: Mapping[str, Entry] = {",
        ),
        Edit("pyproject.toml", 'twice = ["onnxruntime>=1.17"]\n', "[project.optional-dependencies]"),
    ),
    """
from obs_onnx import bench, prune
from obs_onnx.passes.errors import OptionError

report = prune(MODEL, "small.onnx", runtime="twice", targets={"macs": 0.5}, effort="quick").report
assert report.after.latency_ms.median > 0
try:
    prune(MODEL, runtime="thrice")
except OptionError as error:
    assert "twice" in str(error), error
else:
    raise AssertionError
""",
)

OPERATOR = Addition(
    "operator",
    (
        Edit(
            "passes/ops/elementwise.py",
            '        "BitCast": Op(lipschitz=pointwise(None), relate=_relate),\n',
            '        "Softsign": ',
        ),
        Edit(
            "passes/traits/known_versions.py",
            '        26: "BitCast",\n',
            '        4: "ai.onnx.ml::LabelEncoder",',
        ),
    ),
    """
import numpy as np, onnx, onnx_ir as ir
from obs_onnx.passes import couple, prepare

proto = onnx.parser.parse_model(
    '<ir_version: 13, opset_import: ["" : 26]> g (float[2, 4] x) => (float[2, 4] z) {'
    ' a = MatMul(x, w)  b = BitCast <to = 1> (a)  z = MatMul(b, v) }'
)
for name, shape in (("w", (4, 6)), ("v", (6, 4))):
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(shape, np.float32), name))
found = couple(prepare(ir.from_proto(proto)))
assert [group.n for group in found.groups] == [6], found.frozen
""",
)

ADDITIONS = (OPTION, TARGET, CRITERION, RUNTIME, OPERATOR)


def touched(addition: Addition) -> tuple[int, int]:
    """New files, and lines added to files that were there."""
    lines = sum(edit.lines for edit in addition.edits if edit.behind)
    return sum(not edit.behind for edit in addition.edits), lines


def use(addition: Addition, folder: Path) -> None:
    """Write an addition into a copy of the code and run its program there.

    Raises:
        ValueError: a line behind which something goes is not there once.
        RuntimeError: the program failed.
    """
    code = folder / "code"
    shutil.copytree(ROOT / "obs_onnx", code / "obs_onnx")
    shutil.copytree(ROOT / "passes", code / "obs_onnx" / "passes")
    shutil.copy(ROOT / "pyproject.toml", code)
    for edit in addition.edits:
        path = code / edit.file.replace(
            "passes/", "obs_onnx/passes/", 1 if edit.file.startswith("passes/") else 0
        )
        path.write_text(_edited(path, edit), encoding="utf-8")
    program = folder / "use.py"
    program.write_text(f"MODEL = {str(MODELS / 'digits_mlp.onnx')!r}\n{addition.use}", encoding="utf-8")
    environment = {
        **os.environ,
        "PYTHONPATH": str(code),
        "PYTHONSAFEPATH": "1",
        "OBS_ONNX_CACHE": str(folder),
    }
    command = [sys.executable, str(program)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the new {addition.kind} does not do what it should:\n{done.stderr}")


def _edited(path: Path, edit: Edit) -> str:
    if not edit.behind:
        return edit.text
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    (place,) = (number for number, line in enumerate(lines) if line.startswith(edit.behind))
    if lines[place].startswith("class "):  # behind the docstring of the class
        place = next(number for number in range(place, len(lines)) if lines[number].rstrip().endswith('"""'))
    return "".join([*lines[: place + 1], edit.text, *lines[place + 1 :]])


def main() -> None:
    """Print the table."""
    print("| a new | new files | lines in files that were there | files touched |")
    print("|---|---|---|---|")
    for addition in ADDITIONS:
        with tempfile.TemporaryDirectory() as folder:
            use(addition, Path(folder))
        files, lines = touched(addition)
        names = ", ".join(dict.fromkeys(edit.file for edit in addition.edits))
        print(f"| {addition.kind} | {files} | {lines} | {names} |", flush=True)


if __name__ == "__main__":
    main()
