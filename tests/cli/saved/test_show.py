"""Pages that are made again, and runs that are compared."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import run

QUICK = ["--effort", "quick", "--threads", "1", "--no-latency", "-q"]

pytestmark = pytest.mark.usefixtures("folder")


def test_the_page_is_the_one_that_the_run_wrote() -> None:
    written = ["--json", "r.json", "--report", "r.html"]
    assert run("prune", "digits_mlp.onnx", "s.onnx", *written, *QUICK).exit_code == 0
    result = run("report", "r.json", "again.html")
    assert result.exit_code == 0, result.output
    assert Path("again.html").read_bytes() == Path("r.html").read_bytes()
    assert "fc1.weight" in result.stdout
    assert "written: again.html" in result.stdout
    result = run("report", "r.json", "--summary")
    assert result.stdout.startswith("digits_mlp.onnx -> s.onnx: MACs 50,200 -> ")
    assert Path("r.html").read_bytes() == Path("again.html").read_bytes()
    result = run("compare", "r.json", "r.json")
    assert result.exit_code == 0, result.output
    assert "x 1" in result.stdout
    assert "one and the same file" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["report", "none.json"], "none.json cannot be read"),
        (["report", "digits_mlp.onnx"], "digits_mlp.onnx cannot be read"),
        (["report", "r.json", "r.json"], "r.json is the result itself: choose another --output"),
        (["report", "r.json"], "r.json is no report of a run"),
        (["report", "r.json", "-o", "none/r.html"], "cannot write none/r.html"),
        (["compare", "r.json"], "1 results are given: give the JSON of two runs"),
        (["compare", "r.json", "digits_mlp.onnx"], "r.json is no report of a run"),
    ],
)
def test_what_is_wrong_is_one_line(arguments: list[str], words: str) -> None:
    Path("r.json").write_text('{"schema": 1}')
    before = {path: path.read_bytes() for path in Path().iterdir()}
    result = run(*arguments)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert words in line
    assert before == {path: path.read_bytes() for path in Path().iterdir()}
