"""Profiles of devices: those that come along, the user's own, and what they do to a run."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import pytest
from nets import data, mlp, residual, transformer
from repository import DOCS

from obs_onnx import prune
from obs_onnx.devices import profiles, read_profile
from obs_onnx.passes.errors import OptionError

FAST = {"effort": "quick", "threads": 1, "latency": False}


def written(folder: Path, *lines: str) -> Path:
    path = folder / "own.toml"
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize("name", profiles())
def test_a_profile_that_comes_along_names_its_sources(name: str) -> None:
    profile = read_profile(name)
    assert profile.title
    assert profile.notes
    assert profile.sources
    assert all(one.startswith("https://") for one in profile.sources)
    assert not profile.targets()
    assert f"`{name}`" in (DOCS / "boards.md").read_text()


def test_budgets_are_counted_in_numbers_of_the_device(tmp_path: Path) -> None:
    lines = ("title = 'x'", "activation_bytes = 1", "weight_bytes = 2", "ram = '10KB'", "size = 3000")
    assert read_profile(written(tmp_path, *lines)).targets() == {"ram": "40000B", "size": "6000B"}
    assert read_profile(written(tmp_path, "title = 'x'", "ram = 500")).targets() == {"ram": "500B"}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("stp = 4", "has 'stp': a profile may have title, sources, step"),
        ("step = 0", "step = 0: give a whole number above 0"),
        ("step = true", "step = True: give a whole number above 0"),
        ("operators = 'Conv'", "operators = 'Conv': give a list of texts"),
        ("static = 1", "static = 1: give true or false"),
        ("ram = 'much'", "target ram=much"),
        ("ram = '50%'", "give bytes, for example 512KB"),
        ("step = ", "cannot be read"),
    ],
)
def test_what_is_no_profile_is_told(tmp_path: Path, line: str, words: str) -> None:
    with pytest.raises(OptionError) as caught:
        read_profile(written(tmp_path, "title = 'x'", line))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_names_that_are_unknown_and_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="is unknown: use one of coreml, cortex-m"):
        read_profile("toaster")
    with pytest.raises(OptionError, match="cannot be read"):
        read_profile(tmp_path / "none.toml")
    with pytest.raises(OptionError, match="has no title"):
        read_profile(written(tmp_path, "step = 4"))
    odd = written(tmp_path, "title = 'x'", "quantize = 'int3'")
    with pytest.raises(OptionError, match="'int3' is unknown"):
        prune(mlp(), device=odd, calib=data(1, 16, 12), **FAST)


def test_operators_that_are_not_listed_are_named() -> None:
    model = ir.from_proto(transformer())
    there = {node.op_type for node in model.graph}
    found = read_profile("esp32-s3").warnings(model, model)
    named = {one.split(" does not list ")[1].split()[0] for one in found}
    assert named == there - {*read_profile("esp32-s3").operators, "Identity"}
    assert named
    assert read_profile("hexagon").warnings(model, model) == []
    assert "needs fixed sizes: fix those of x" in read_profile("openvino-npu").warnings(model, model)[0]


def test_a_run_takes_what_is_not_given(tmp_path: Path) -> None:
    lines = ("title = 'our camera'", "step = 4", "activation_bytes = 1", "ram = '1500B'")
    lines += ("operators = ['Conv', 'Relu']", "notes = ['compile with ourtool']")
    profile, samples = written(tmp_path, *lines), {"x": data(1, 96, 3, 8, 8)}
    report = prune(residual(), calib=samples, device=profile, **FAST).report
    assert report.targets == {"ram": 6000}
    assert report.met
    assert report.after.peak_activation_bytes <= 6000
    assert all(group.kept % 4 == 0 for group in report.groups)
    assert "compile with ourtool" in report.notes
    assert any("our camera does not list" in one for one in report.alerts)
    own = prune(residual(), calib=samples, device=profile, targets={"ram": 0.9}, round_to=1, **FAST).report
    assert own.targets == {"ram": 0.9}
    assert any(group.kept % 4 for group in own.groups)
