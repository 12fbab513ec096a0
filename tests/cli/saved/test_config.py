"""Runs that are done again from what their reports keep, and recipes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from command_line import run

QUICK = ["--effort", "quick", "--threads", "1", "--no-latency"]

pytestmark = pytest.mark.usefixtures("folder")


def options_of(path: str) -> dict[str, object]:
    found = json.loads(Path(path).read_text())["options"]
    assert isinstance(found, dict)
    return found


def test_a_run_is_done_again_and_gives_the_same() -> None:
    first = ["--target", "macs=0.5", "--protect", "fc3*", "--eval", "digits_mlp.test.npz", "--memory", "1GB"]
    assert run("prune", "digits_mlp.onnx", "a.onnx", *first, "--json", "a.json", "-q", *QUICK).exit_code == 0
    again = run("prune", "--config", "a.json", "--json", "b.json", "-q")
    assert again.exit_code == 0, again.output
    one, two = (json.loads(Path(name).read_text()) for name in ("a.json", "b.json"))
    assert one["options"] == two["options"]
    assert one["after"] == two["after"]
    moved = run(
        "prune",
        "--config",
        "a.json",
        "digits_mlp.onnx",
        "c.onnx",
        "--json",
        "c.json",
        "--target",
        "macs=0.8",
        "-q",
    )
    assert moved.exit_code == 0, moved.output
    assert Path("c.onnx").exists()
    assert options_of("c.json") == {**one["options"], "targets": ["macs=0.8"], "output": "c.onnx"}


def test_a_recipe() -> None:
    recipe = {
        "model": "digits_mlp.onnx",
        "mode": "weights",
        "targets": {"error": 0.2},
        "layer": {"fc1*": 0.4},
    }
    Path("r.json").write_text(json.dumps({**recipe, "latency": False, "round-to": None, "output": "s.onnx"}))
    result = run("prune", "--config", "r.json", "--json", "o.json", "--dry-run", "-q", *QUICK)
    assert result.exit_code == 0, result.output
    found = options_of("o.json")
    assert (found["mode"], found["targets"]) == ("weights", ["error=0.2"])
    assert found["layer_sparsity"] == {"fc1*": 0.4}
    assert found["latency"] is False


@pytest.mark.skipif(sys.version_info < (3, 11), reason="no TOML before")
def test_a_recipe_in_toml() -> None:
    Path("r.toml").write_text('model = "digits_mlp.onnx"\nthreads = 1\n[targets]\nmacs = 0.5\n')
    result = run("prune", "--config", "r.toml", "--json", "o.json", "--dry-run", "-q")
    assert result.exit_code == 0, result.output
    assert options_of("o.json")["targets"] == ["macs=0.5"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "none.json cannot be read"),
        ("{", "none.json cannot be read"),
        ("[3]", "none.json holds no options"),
        ('{"round_too": 3}', "'round_too' is no option of prune: leave it out"),
        ('{"model": "digits_mlp.onnx", "rounds": 0}', "--rounds"),
        ('{"model": "digits_mlp.onnx", "memory": "much"}', "'much' is not a size"),
        (
            '{"model": "digits_mlp.onnx", "options": {"calib": "<dict>"}}',
            "--calib was an object in memory: give a file",
        ),
        ('{"threads": 1}', "MODEL"),
    ],
)
def test_what_is_wrong_is_one_line(text: str | None, words: str) -> None:
    if text is not None:
        Path("none.json").write_text(text)
    result = run("prune", "--config", "none.json", "--dry-run")
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert words in line


def test_other_data_takes_the_place_of_what_was_in_memory() -> None:
    Path("r.json").write_text('{"model": "digits_mlp.onnx", "options": {"calib": "<dict>"}}')
    result = run("prune", "--config", "r.json", "--calib", "digits_mlp.calib.npz", "--dry-run", "-q", *QUICK)
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("flag", ["--json", "--report", "-o"])
def test_the_file_is_not_written_over(flag: str) -> None:
    Path("r.json").write_text('{"model": "digits_mlp.onnx"}')
    Path("link.json").symlink_to("r.json")
    for name in ("r.json", "link.json", "./r.json"):
        result = run("prune", "--config", "r.json", flag, name, "-q", *QUICK)
        assert result.exit_code == 2
        (line,) = result.stderr.splitlines()
        assert (
            f"{name} is read for --config: choose another --{'output' if flag == '-o' else flag[2:]}" in line
        )
    assert Path("r.json").read_text() == '{"model": "digits_mlp.onnx"}'
