"""Costs that a command tells: its words, what it may print, and runs with targets on them."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import onnx
import pytest
from nets import data, mlp, residual

from obs_onnx import prune
from obs_onnx.passes.errors import OptionError
from obs_onnx.runtimes import open_runtime
from obs_onnx.runtimes.tool import Tool, ToolCosts, ToolRuntime

FAST = {"effort": "quick", "threads": 1}

SCALE = """
import json, math, sys
import onnx
model = onnx.load(sys.argv[sys.argv.index("--model") + 1])
count = sum(math.prod(one.dims) for one in model.graph.initializer)
widest = max((one.dims[0] for one in model.graph.initializer if len(one.dims) > 1), default=1)
print("analysing ...")
found = {"latency_ms": 1 + count / 1000, "ram_bytes": 4096 + 100 * widest, "flash_bytes": 2000 + count}
print(json.dumps(found))
"""
"""A tool that counts: a byte for each weight, and 1 ms for every thousand."""


def tool(folder: Path, text: str) -> str:
    path = folder / "my tool.py"
    path.write_text(text)
    return f"command:'{sys.executable}' '{path}' --model {{model}}"


def says(folder: Path, printed: str) -> str:
    return tool(folder, f"print({printed!r})")


def count(proto: onnx.ModelProto) -> int:
    return sum(math.prod(one.dims) for one in proto.graph.initializer)


@pytest.mark.parametrize(
    ("printed", "wanted"),
    [
        ('{"latency_ms": 1.5}', ToolCosts(latency_ms=1.5)),
        ('{"ram_bytes": 100, "latency_ms": null, "other": "x"}', ToolCosts(ram_bytes=100)),
        ('log\n\n{"latency_ms": 2, "flash_bytes": 9}\n', ToolCosts(2, None, 9)),
        ('{\n "latency_ms": 2\n}\n', ToolCosts(2)),
    ],
)
def test_what_is_printed_is_read(tmp_path: Path, printed: str, wanted: ToolCosts) -> None:
    assert Tool(says(tmp_path, printed)).costs(b"") == wanted


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("print('done')", "printed 'done' and no JSON object: let it print some of latency_ms"),
        ("", "printed '' and no JSON object"),
        ("print('[1]')", "no JSON object"),
        ("print('{}')", "without any of latency_ms, ram_bytes, flash_bytes"),
        ('print(\'{"latency_ms": "1 ms"}\')', "printed latency_ms '1 ms': let it print a number above 0"),
        ("print('{\"latency_ms\": NaN}')", "latency_ms nan"),
        ("print('{\"latency_ms\": true}')", "latency_ms True"),
        ("print('{\"ram_bytes\": -1}')", "ram_bytes -1"),
        ("raise SystemExit('no licence')", "failed with exit code 1: no licence"),
        ("import time; time.sleep(60)", "did not end within 0.5 s"),
    ],
)
def test_what_fails_is_told_in_a_sentence(tmp_path: Path, text: str, words: str) -> None:
    spec = tool(tmp_path, text)
    if "sleep" in text:
        spec = spec.replace("command:", "command,timeout=0.5:")
    with pytest.raises(OptionError) as caught:
        Tool(spec).costs(b"x")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("mytool --model {model}", "write command: and what tells costs"),
        ("command:", "has no command"),
        ("command:'x", "cannot be read: No closing quotation"),
        ("command,timeout=no:x", "cannot be read"),
        ("command,timeout=0:x", "timeout of more than 0 seconds"),
        ("command,speed=1:x", "has no option 'speed'"),
        ("command:no-such-tool-anywhere", "does not exist: check its path"),
    ],
)
def test_what_is_no_command_is_told(spec: str, words: str) -> None:
    with pytest.raises(OptionError) as caught:
        Tool(spec).costs(b"x")
    assert words in str(caught.value)


def test_no_shell_sees_the_words(tmp_path: Path) -> None:
    spec = tool(tmp_path, "import json, sys; open('args.json', 'w').write(json.dumps(sys.argv)); print('{}')")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        with pytest.raises(OptionError):
            Tool(f"{spec} '$HOME; ls' *").costs(b"x")
    assert json.loads((tmp_path / "args.json").read_text())[3:] == ["$HOME; ls", "*"]


def test_a_model_is_asked_about_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    asked = Tool(tool(tmp_path, f"open({str(log)!r}, 'a').write('x'); print('{{\"latency_ms\": 3}}')"))
    runtime = ToolRuntime(open_runtime(), asked)
    session = runtime.session(mlp().SerializeToString())
    assert session.time({}, 3) == [0.003] * 3
    assert session.time({}, 1) == [0.003]
    assert log.read_text() == "x"
    assert runtime.spec == asked.spec == runtime.environment()["cost"]
    assert not runtime.in_process
    assert runtime.machine()["load_average"] is None


@pytest.mark.parametrize(
    ("target", "share"),
    [("latency=0.5", 0.5), ("ram=0.7", 0.7), ("size=0.5", 0.5), ("size=4KB", None)],
)
def test_targets_are_what_the_tool_says(tmp_path: Path, target: str, share: float | None) -> None:
    asked = Tool(tool(tmp_path, SCALE))
    net, output = mlp((12, 64, 48, 5)), tmp_path / "out.onnx"
    dense = asked.costs(net.SerializeToString())
    report = prune(
        net, output, calib=data(1, 128, 12), targets=[target], cost=asked.spec, round_to=1, **FAST
    ).report
    assert report.met
    found = asked.costs(output.read_bytes())
    name = {"latency": "latency_ms", "ram": "ram_bytes", "size": "flash_bytes"}[target.partition("=")[0]]
    limit = 4000 if share is None else share * getattr(dense, name)
    assert 0.6 * limit < getattr(found, name) <= 1.03 * limit
    if name == "latency_ms":
        assert report.after.latency_ms.median == pytest.approx(found.latency_ms)
        assert report.before.latency_ms.median == pytest.approx(dense.latency_ms)


def test_what_it_does_not_tell_is_measured_here(tmp_path: Path) -> None:
    spec = says(tmp_path, '{"ram_bytes": 1000}')
    report = prune(
        residual(), calib={"x": data(1, 64, 3, 8, 8)}, targets={"macs": 0.6}, cost=spec, **FAST
    ).report
    assert report.met
    assert report.after.runtime.startswith("onnxruntime")
