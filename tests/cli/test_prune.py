"""The command line as scripts see it: exit codes, files, one line on stderr, the fields of the JSON."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import nets
import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from command_line import commands, run
from decided_nets import detector, images

from obs_onnx.cli import main

DEFAULT = ["--effort", "quick", "--threads", "1", "-q"]


QUICK = ["--mode", "weights", *DEFAULT]


def refused(*arguments: str) -> str:
    """The only line on stderr of a command that ends with exit code 2 and leaves every file as it was."""
    before = {path: path.read_bytes() for path in Path().iterdir() if path.is_file()}
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert {path: path.read_bytes() for path in Path().iterdir() if path.is_file()} == before
    (line,) = result.stderr.splitlines()
    assert line.startswith("obs-onnx: ")
    return line.removeprefix("obs-onnx: ")


@pytest.mark.usefixtures("folder")
class TestPrune:
    def test_report_and_files(self) -> None:
        arguments = ["--target", "sparsity=0.9", "--eval", "digits_mlp.test.npz", "--json", "r.json"]
        result = run("prune", "digits_mlp.onnx", *arguments, "--report", "r.html", *QUICK)
        assert result.exit_code == 0
        assert result.stderr == ""
        assert result.stdout == ""
        assert {path.name for path in Path().iterdir() if not path.name.startswith("digits_mlp.")} == {
            "r.json",
            "r.html",
        }
        report = json.loads(Path("r.json").read_text())
        assert report["schema"] == 1
        assert report["model"] == "digits_mlp.onnx"
        assert report["output"] == "digits_mlp.pruned.onnx"
        assert (report["mode"], report["criterion"], report["met"]) == ("weights", "auto", True)
        assert report["targets"] == {"sparsity": 0.9}
        assert 0 < report["output_error"] < 0.15
        assert report["agreement"] > 0.95
        assert set(report["bound"]) == {"frobenius", "spectral", "blocked_by"}
        assert report["output_error"] <= report["bound"]["spectral"] <= report["bound"]["frobenius"]
        assert report["frozen"] == []
        assert report["seconds"]["total"] > 0
        for figures in (report["before"], report["after"]):
            assert set(figures["latency_ms"]) == {"median", "p10", "p90", "runs"}
            assert figures["runtime"] == "onnxruntime"
            assert figures["accuracy"] > 0.9
            assert figures["macs"] == 64 * 300 + 300 * 100 + 100 * 10
        assert report["before"]["file_bytes"] == Path("digits_mlp.onnx").stat().st_size
        assert report["after"]["file_bytes"] == Path("digits_mlp.pruned.onnx").stat().st_size
        weights = {
            tensor.name: onnx.numpy_helper.to_array(tensor)
            for tensor in onnx.load("digits_mlp.pruned.onnx").graph.initializer
        }
        assert report["after"]["nonzero"] == sum(np.count_nonzero(array) for array in weights.values())
        assert {line["name"] for line in report["layers"]} == {f"fc{n}.weight" for n in (1, 2, 3)}
        for line in report["layers"]:
            assert line["kept"] == pytest.approx(np.count_nonzero(weights[line["name"]]) / line["weights"])
            assert line["measured_error"] > 0

    def test_dry_run_writes_only_the_report(self) -> None:
        before = {path.name for path in Path().iterdir()}
        result = run("prune", "digits_mlp.onnx", "--dry-run", "--json", "r.json", *QUICK)
        assert result.exit_code == 0
        assert {path.name for path in Path().iterdir()} == before | {"r.json"}
        report = json.loads(Path("r.json").read_text())
        assert report["output"] is None
        assert any("measuring 3 layers" in note for note in report["notes"])

    def test_a_target_that_cannot_be_met(self) -> None:
        targets = ["--target", "sparsity=0.98", "--target", "error=0.001"]
        result = run("prune", "digits_mlp.onnx", *targets, "--json", "r.json", *QUICK)
        assert result.exit_code == 3
        (line,) = result.stderr.splitlines()
        assert line.startswith("obs-onnx: target error=0.001 is missed: 0.")
        assert line.endswith("was reached; what sparsity allows loses that much: allow more, or retrain")
        report = json.loads(Path("r.json").read_text())
        assert report["met"] is False
        assert report["output_error"] > 0.001

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["--target", "speed=2"], "target 'speed' is unknown"),
            (["--target", "macs=0.5"], "target macs needs channel removal"),
            (["--target", "sparsity"], "is not KEY=VALUE"),
            (["--target", "sparsity=1.5"], "between 0 and 1"),
            (["--target", "sparsity=0.5", "--target", "sparsity=0.6"], "given twice"),
            (["--target", "drop=1%"], "needs labelled data"),
            (["--pattern", "4:2"], "0 < N < M"),
            (["--pattern", "dense"], "neither N:M"),
            (["--pattern", "2:4", "--target", "sparsity=0.6"], "fixes the sparsity"),
            (["--pattern", "2:4", "--layer-sparsity", "fc1*=0.3"], "fixes the sparsity"),
            (["--layer-sparsity", "fc1.weight"], "not PATTERN=SHARE"),
            (["--layer-sparsity", "fc1.weight=2"], "between 0 and 1"),
            (["--layer-sparsity", "conv*=0.5"], "matches no layer"),
            (["--protect", "conv*"], "--protect 'conv*' matches no layer"),
            (["--protect", "*"], "no layer to prune"),
            (["--runtime", "tvm"], "unknown runtime 'tvm'"),
            (["--runtime", "onnxruntime:tpu"], "no provider 'tpu'"),
            (["--custom-ops", "none.so"], "'none.so' does not exist"),
            (["--memory", "much"], "'much' is not a size"),
            (["--calib", "none.npz"], "none.npz: no such file"),
            (["--calib", "random:0"], "random:0"),
            (["--calib", "random:1"], "a part of them is held out"),
            (["--calib", "no.module:function"], "cannot import"),
            (["--labels", "classes"], "no array 'classes'"),
            (["--eval", "none.npz"], "none.npz"),
            (["-o", "missing/x.onnx"], "cannot write missing/x.onnx: its folder does not exist"),
            (["-o", "."], "is a folder"),
            (["-o", "digits_mlp.onnx"], "is the model itself: choose another --output"),
            (["--json", "missing/r.json"], "cannot write missing/r.json"),
            (["--report", "missing/r.html"], "cannot write missing/r.html"),
            (["--json", "digits_mlp.onnx"], "digits_mlp.onnx is the model itself: choose another --json"),
            (["-o", "a.onnx", "--json", "a.onnx"], "a.onnx is given twice"),
        ],
    )
    def test_usage(self, arguments: list[str], words: str) -> None:
        assert words in refused("prune", "digits_mlp.onnx", *arguments, *QUICK)

    @pytest.mark.parametrize(
        "arguments",
        [
            ["--threads", "0"],
            ["--rounds", "0"],
            ["--seed", "-1"],
            ["--loss", "l1"],
            ["--damping", "-1"],
            ["--nope"],
        ],
    )
    def test_options_that_do_not_parse(self, arguments: list[str]) -> None:
        result = run("prune", "digits_mlp.onnx", *arguments)
        assert result.exit_code == 2
        assert arguments[0] in result.stderr

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda x: {"input": np.where(np.arange(64) == 3, np.nan, x)}, "'input' has NaN"),
            (lambda x: {"image": x}, "no array for input 'input'"),
            (lambda x: {"input": x[:, :50]}, "axis 1 must have size 64"),
            (lambda x: {"input": x.astype(str)}, "'input'"),
        ],
    )
    def test_calibration_data_that_does_not_fit(self, change, words: str) -> None:
        x = np.load("digits_mlp.calib.npz")["input"]
        np.savez("bad.npz", **change(x))
        assert words in refused("prune", "digits_mlp.onnx", "--calib", "bad.npz", *QUICK)

    def test_no_calibration_data(self) -> None:
        Path("digits_mlp.calib.npz").rename("other.npz")
        line = refused("prune", "digits_mlp.onnx", *QUICK)
        assert "--calib" in line
        assert "digits_mlp.calib.npz" in line

    def test_every_option_of_the_contract(self) -> None:
        arguments = [
            "-o",
            "o.onnx",
            "--calib",
            "digits_mlp.calib.npz",
            "--mode",
            "weights",
            "--pattern",
            "1x4",
        ]
        arguments += ["--target", "sparsity=0.5", "--criterion", "magnitude", "--no-compensate"]
        arguments += [
            "--protect",
            "fc3*",
            "--layer-sparsity",
            "fc1*=0.4",
            "--rounds",
            "2",
            "--runtime",
            "onnxruntime",
        ]
        arguments += ["--batch", "4", "--memory", "1MB", "--seed", "3", "--damping", "0.1", "--loss", "error"]
        assert run("prune", "digits_mlp.onnx", *arguments, *QUICK).exit_code == 0
        assert Path("o.onnx").exists()


@pytest.mark.usefixtures("folder")
class TestChannels:
    """The default mode."""

    def test_report_and_files(self) -> None:
        arguments = ["--target", "macs=0.3", "--eval", "digits_mlp.test.npz", "--json", "r.json"]
        result = run("prune", "digits_mlp.onnx", *arguments, "--report", "r.html", *DEFAULT)
        assert result.exit_code == 0
        assert result.stderr == ""
        assert result.stdout == ""
        assert {path.name for path in Path().iterdir()} == {
            *(f"digits_mlp.{end}" for end in ("onnx", "calib.npz", "test.npz")),
            "digits_mlp.pruned.onnx",
            "digits_mlp.pruned.keep.json",
            "r.json",
            "r.html",
        }
        report = json.loads(Path("r.json").read_text())
        assert (report["schema"], report["mode"], report["criterion"]) == (1, "channels", "auto")
        assert report["met"] is True
        assert report["targets"] == {"macs": 0.3}
        shapes = {
            tensor.name: list(tensor.dims) for tensor in onnx.load("digits_mlp.pruned.onnx").graph.initializer
        }
        first, second = shapes["fc1.bias"][0], shapes["fc2.bias"][0]
        assert shapes["fc1.weight"] == [first, 64]
        assert shapes["fc2.weight"] == [second, first]
        assert shapes["fc3.weight"] == [10, second]
        assert report["before"]["macs"] == 64 * 300 + 300 * 100 + 100 * 10
        assert report["after"]["macs"] == 64 * first + first * second + second * 10
        assert report["after"]["macs"] <= 0.3 * report["before"]["macs"]
        assert report["after"]["parameters"] == report["after"]["macs"] + first + second + 10
        assert report["after"]["file_bytes"] == Path("digits_mlp.pruned.onnx").stat().st_size
        assert report["after"]["accuracy"] > report["before"]["accuracy"] - 0.03
        assert 0 < report["output_error"] < 0.2
        keep = json.loads(Path("digits_mlp.pruned.keep.json").read_text())["tensors"]
        assert len(keep["fc1.weight"]["0"]) == len(keep["fc2.weight"]["1"]) == first
        assert len(keep["fc2.weight"]["0"]) == len(keep["fc3.weight"]["1"]) == second

    def test_a_target_that_cannot_be_met(self) -> None:
        targets = ["--target", "macs=0.05", "--target", "error=0.001"]
        result = run("prune", "digits_mlp.onnx", *targets, "--json", "r.json", *DEFAULT)
        assert result.exit_code == 3
        (line,) = result.stderr.splitlines()
        assert line.startswith("obs-onnx: target error=0.001 is missed: 0.")
        report = json.loads(Path("r.json").read_text())
        assert report["met"] is False
        (missed,) = report["missed"]
        assert (missed["target"], missed["wanted"]) == ("error", 0.001)
        assert missed["reached"] == report["output_error"]
        assert report["output_error"] > 0.001

    def test_dry_run_writes_only_the_report(self) -> None:
        before = {path.name for path in Path().iterdir()}
        assert run("prune", "digits_mlp.onnx", "--dry-run", "--json", "r.json", *DEFAULT).exit_code == 0
        assert {path.name for path in Path().iterdir()} == before | {"r.json"}
        notes = json.loads(Path("r.json").read_text())["notes"]
        assert any("measuring 2 groups of channels" in note for note in notes)

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["--target", "sparsity=0.5"], "target sparsity is about single weights: use --mode weights"),
            (["--pattern", "2:4"], "--pattern is about single weights: use --mode weights"),
            (
                ["--layer-sparsity", "fc1*=0.5"],
                "--layer-sparsity is about single weights: use --mode weights",
            ),
            (["--correct"], "--correct is about single weights: use --mode weights"),
            (["--criterion", "entropy"], "criterion 'entropy' does not rank channels"),
            (["--protect", "conv*"], "--protect 'conv*' matches no node or weight"),
            (["--protect", "*"], "no channels that can be removed"),
            (["--target", "size=0KB"], "target size=0KB"),
            (["--target", "latency=4"], "target latency=4: give a share"),
            (["--target", "drop=1%"], "needs labelled data"),
            (["--calib", "none.npz"], "none.npz: no such file"),
            (["-o", "digits_mlp.onnx"], "is the model itself: choose another --output"),
            (["--json", "digits_mlp.pruned.keep.json"], "digits_mlp.pruned.keep.json is given twice"),
            (["-o", "o.onnx", "--json", "o.keep.json"], "o.keep.json is given twice"),
        ],
    )
    def test_usage(self, arguments: list[str], words: str) -> None:
        assert words in refused("prune", "digits_mlp.onnx", *arguments, *DEFAULT)

    def test_no_place_for_the_indices(self) -> None:
        Path("digits_mlp.pruned.keep.json").mkdir()
        line = refused("prune", "digits_mlp.onnx", *DEFAULT)
        assert "cannot write digits_mlp.pruned.keep.json" in line

    def test_every_option_of_the_contract(self) -> None:
        arguments = [
            "-o",
            "o.onnx",
            "--calib",
            "digits_mlp.calib.npz",
            "--mode",
            "channels",
            "--round-to",
            "5",
        ]
        arguments += ["--target", "params=0.5", "--target", "size=100KB", "--criterion", "apoz"]
        arguments += ["--no-compensate", "--protect", "fc3*", "--rounds", "2", "--runtime", "onnxruntime"]
        arguments += ["--batch", "4", "--memory", "1MB", "--seed", "3", "--damping", "0.1", "--loss", "error"]
        assert run("prune", "digits_mlp.onnx", *arguments, *DEFAULT).exit_code == 0
        assert Path("o.onnx").stat().st_size <= 100_000
        keep = json.loads(Path("o.keep.json").read_text())["tensors"]
        assert set(keep) == {"fc1.weight", "fc1.bias", "fc2.weight"}
        assert len(keep["fc1.bias"]["0"]) % 5 == 0


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("command", ["prune", "inspect", "bench", "eval"])
@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "does not exist"), (b"", "is empty"), (b"hello", "is not an ONNX model"), (50_000, "truncated")],
)
def test_models_that_are_none(command: str, content: bytes | int | None, words: str) -> None:
    if isinstance(content, int):
        content = Path("digits_mlp.onnx").read_bytes()[:content]
    if content is not None:
        Path("bad.onnx").write_bytes(content)
    more = ["--data", "digits_mlp.test.npz"] if command == "eval" else []
    line = refused(command, "bad.onnx", *more)
    assert "bad.onnx" in line
    assert words in line


@pytest.mark.usefixtures("folder")
class TestOtherCommands:
    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["inspect", "digits_mlp.onnx", "--json", "missing/i.json"], "missing/i.json"),
            (["inspect", "digits_mlp.onnx", "--json", "digits_mlp.onnx"], "the model itself"),
            (["bench", "digits_mlp.onnx", "--json", "missing/b.json"], "missing/b.json"),
            (["bench", "digits_mlp.onnx", "--runtime", "tvm"], "unknown runtime"),
            (["eval", "digits_mlp.onnx", "--data", "none.npz"], "none.npz"),
            (["eval", "digits_mlp.onnx", "--data", "digits_mlp.test.npz", "--against", "no.onnx"], "no.onnx"),
            (["eval", "digits_mlp.onnx", "--data", "digits_mlp.test.npz", "--json", "."], "folder"),
        ],
    )
    def test_usage(self, arguments: list[str], words: str) -> None:
        assert words in refused(*arguments)


@pytest.mark.parametrize("arguments", [[], *([name] for name in commands())])
def test_help_imports_nothing_heavy(tmp_path: Path, arguments: list[str]) -> None:
    heavy = ["numpy", "scipy", "onnx", "onnx_ir", "onnxruntime"]
    heavy += [] if arguments else ["psutil", "obs_onnx.cli.prune", "obs_onnx.entrypoints"]
    code = (
        "import sys, obs_onnx.cli\n"
        f"try: obs_onnx.cli.main([*{arguments}, '--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"
    if not arguments:
        for command in ("prune", "inspect", "bench", "eval"):
            assert f"  {command} " in result.stdout


def test_pruning_starts_without_what_is_slow_to_load(tmp_path: Path) -> None:
    code = "import sys, obs_onnx.entrypoints.prune; print([m for m in ('scipy.stats',) if m in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert result.stdout == "[]\n"


def test_the_list_of_commands_says_what_they_say_themselves() -> None:
    shown = " ".join(run("--help").stdout.split())
    for name, command in commands().items():
        assert command.name == name
        said = (command.help or "").split("\n\n")[0].split()
        told = shown.partition(f" {name} ")[2].split()
        assert told[:4] == said[:4]


def test_as_a_program(folder: Path) -> None:
    program = [sys.executable, "-c", "from obs_onnx.cli import main; main(prog_name='obs-onnx')"]
    result = subprocess.run([*program, "prune", "none.onnx"], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr == "obs-onnx: none.onnx does not exist; check the path of the model\n"


SLEEPER = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
import obs_onnx.io.onnx_file as files
replace = files.os.replace
def slow(source, target):
    print("writing", flush=True)
    time.sleep(60)
    replace(source, target)
files.os.replace = slow
from obs_onnx.cli import main
main(sys.argv[1:])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_interrupted_while_writing(folder: Path) -> None:
    before = {path.name for path in folder.iterdir()}
    arguments = ["prune", "digits_mlp.onnx", "--target", "sparsity=0.5", "--criterion", "magnitude", *QUICK]
    process = subprocess.Popen(
        [sys.executable, "-c", SLEEPER, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "Traceback" not in errors
    assert {path.name for path in folder.iterdir()} == before


def test_replay(tmp_path: Path) -> None:
    onnx.save(detector(), tmp_path / "m.onnx")
    kept = {"tensors": {name: {"0": [0, 2, 5, 6]} for name in ("w1", "b1")}}
    kept["tensors"]["w2"] = {"1": [0, 2, 5, 6]}
    (tmp_path / "k.json").write_text(json.dumps(kept))
    np.savez(tmp_path / "d.npz", x=images(3))
    arguments = ["replay", str(tmp_path / "k.json"), str(tmp_path / "m.onnx"), "-o", str(tmp_path / "s.onnx")]
    result = run(*arguments, "--calib", str(tmp_path / "d.npz"))
    assert result.exit_code == 0, result.output
    assert "silenced, on the data" in result.stderr
    sizes = {t.name: tuple(t.dims) for t in onnx.load(tmp_path / "s.onnx").graph.initializer}
    assert (sizes["w1"], sizes["b1"], sizes["w2"]) == ((4, 3, 3, 3), (4,), (16, 4, 3, 3))
    (tmp_path / "k.json").write_text("[]")
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stderr.strip().endswith("is no keep.json: give the file that prune writes beside its model")


def test_quantize(tmp_path: Path) -> None:
    onnx.save(nets.mlp(), tmp_path / "m.onnx")
    np.savez(tmp_path / "m.calib.npz", x=nets.data(0, 64, 12))
    arguments = ["quantize", str(tmp_path / "m.onnx"), "--threads", "1", "--no-latency"]
    extra = ["--to", "int4-weights", "--block-size", "16", "--json", str(tmp_path / "r.json")]
    result = CliRunner().invoke(main, [*arguments, *extra])
    assert result.exit_code == 0, result.output
    assert "int4-weights" in result.output
    assert "ms" not in result.output.split()
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["options"]["block_size"] == 16
    assert [row["model"] for row in report["combinations"]] == ["float", "int4-weights"]
    onnx.load(tmp_path / "m.int4-weights.onnx")
    result = CliRunner().invoke(main, [*arguments, "--to", "int2"])
    assert result.exit_code == 2


@pytest.mark.usefixtures("folder")
class TestNames:
    """What the first minutes are made of: names, places and how much is said."""

    def test_the_second_place_is_the_output(self) -> None:
        result = run("prune", "digits_mlp.onnx", "small.onnx", *DEFAULT, "--no-latency")
        assert result.exit_code == 0, result.output
        assert (result.stdout, result.stderr) == ("", "")
        assert Path("small.onnx").exists()
        assert Path("small.keep.json").exists()
        assert not Path("digits_mlp.pruned.onnx").exists()
        line = refused("prune", "digits_mlp.onnx", "a.onnx", "-o", "b.onnx", *DEFAULT)
        assert line == "the output is given twice, as a.onnx and by --output: give one"

    def test_one_line(self) -> None:
        result = run("prune", "digits_mlp.onnx", "-o", "s.onnx", "--summary", *DEFAULT, "--no-latency")
        (line,) = result.stdout.splitlines()
        assert line.startswith("digits_mlp.onnx -> s.onnx: MACs 50,200 -> ")
        assert line.endswith("error=0.05 reached")

    def test_more_is_told_when_asked(self) -> None:
        quick = ["--effort", "quick", "--threads", "1", "--no-latency"]
        result = run("prune", "digits_mlp.onnx", "-o", "s.onnx", "-v", *quick)
        assert "peak memory" in result.stdout
        assert "environment" in result.stdout
        shown = run("prune", "digits_mlp.onnx", "-o", "s.onnx", "--json", "r.json", *quick)
        assert "peak memory" not in shown.stdout
        assert "written: s.onnx, s.keep.json, r.json" in shown.stdout
        assert "target error=0.05: reached, 0.0" in shown.stdout
        assert "criterion auto (obs)" in shown.stdout
        assert "\x1b" not in shown.stdout + shown.stderr

    def test_names_of_earlier_releases_work_with_a_note(self) -> None:
        arguments = ["--mode", "weights", "--target", "error=0.2", "--effort", "quick", "--no-latency"]
        result = run("prune", "digits_mlp.onnx", "--layer", "fc1*=0.4", "--dry-run", *arguments)
        assert result.exit_code == 0, result.output
        assert "obs-onnx: note: --layer is now called --layer-sparsity\n" in result.stderr
        again = run("prune", "digits_mlp.onnx", "--layer_sparsity=fc1*=0.4", "--dry-run", *arguments)
        assert again.exit_code == 2  # names are written with dashes
        quiet = run("prune", "digits_mlp.onnx", "--layer=fc1*=0.4", "--dry-run", "-q", *arguments)
        assert (quiet.stdout, quiet.stderr) == ("", "")

    def test_options_have_the_names_of_python(self) -> None:
        result = run(
            "prune", "digits_mlp.onnx", "--targets", "macs=0.5", "--dry-run", "--json", "r.json", *DEFAULT
        )
        assert result.exit_code == 0, result.output
        assert json.loads(Path("r.json").read_text())["options"]["targets"] == ["macs=0.5"]


@pytest.mark.parametrize("name", commands())
def test_flags_are_the_names_of_python(name: str) -> None:
    """Or their singular where an option may be repeated."""
    for one in commands()[name].params:
        flags = [flag.removeprefix("--").replace("-", "_") for flag in one.opts if flag.startswith("--")]
        known = {
            "json_path": "json",
            "html_path": "report",
            "plot_path": "plot",
            "silent": "quiet",
            "brief": "summary",
        }
        wanted = known.get(str(one.name), str(one.name))
        if flags:
            assert wanted in flags or (one.multiple and wanted.removesuffix("s") in flags), one.name


def test_a_report_says_how_it_was_made(folder: Path) -> None:
    arguments = ["prune", "digits_mlp.onnx", "my small.onnx", "--json", "r.json", *DEFAULT, "--no-latency"]
    assert run(*arguments).exit_code == 0
    report = json.loads(Path("r.json").read_text())
    assert report["command"] == "obs-onnx " + " ".join(arguments).replace("my small.onnx", "'my small.onnx'")
    made = report["environment"]
    assert made["model sha256"] == hashlib.sha256(Path("digits_mlp.onnx").read_bytes()).hexdigest()
    assert {"runtime", "version", "os", "python", "obs-onnx", "date"} <= made.keys()
