"""Where results go and where data comes from, checked before anything costly."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from obs_onnx.io.paths import (
    calibration_beside,
    calibration_of,
    check_new_folder,
    finetuned_path,
    frontier_folder,
    keep_path,
    pruned_path,
    quantized_path,
    same_file,
    side_path,
    tokenizer_beside,
)
from obs_onnx.passes.errors import OptionError


def test_results_lie_beside_the_model(tmp_path: Path) -> None:
    model = tmp_path / "net.v2.onnx"
    assert pruned_path(model) == tmp_path / "net.v2.pruned.onnx"
    assert finetuned_path(model) == tmp_path / "net.v2.finetuned.onnx"


def test_files_beside_a_result(tmp_path: Path) -> None:
    assert keep_path(tmp_path / "net.v2.onnx") == tmp_path / "net.v2.keep.json"
    assert quantized_path(tmp_path / "net.v2.onnx", "int8") == tmp_path / "net.v2.int8.onnx"
    assert side_path(tmp_path / "net.v2.onnx") == tmp_path / "net.v2.onnx.data"
    (tmp_path / "link.onnx").symlink_to("real.onnx")
    assert side_path(tmp_path / "link.onnx") == tmp_path / "real.onnx.data"
    assert frontier_folder(tmp_path / "net.v2.onnx") == tmp_path / "net.v2.pareto"


def test_a_new_folder(tmp_path: Path) -> None:
    check_new_folder(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    (tmp_path / "empty").mkdir()
    check_new_folder(tmp_path / "empty")
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    for output, words in (
        ("file", "exists"),
        ("full", "exists"),
        ("no/new", "does not exist"),
        ("n" * 256, "cannot write .*name too long"),
        ("a\0b", "cannot write .*null"),
    ):
        with pytest.raises(OptionError, match=words):
            check_new_folder(tmp_path / output)


def test_calibration_data_given_or_beside_the_model(tmp_path: Path) -> None:
    model = tmp_path / "net.onnx"
    given = {"x": 1}
    assert calibration_of(given, None) is given
    with pytest.raises(OptionError, match=r"give calib or put net\.calib\.npz beside the model"):
        calibration_of(None, model)
    with pytest.raises(OptionError, match=r"give calib \(random:256"):
        calibration_of(None, None)
    (tmp_path / "net.calib.npz").touch()
    assert calibration_of(None, model) == tmp_path / "net.calib.npz"
    assert calibration_beside(model) == tmp_path / "net.calib.npz"
    assert calibration_beside(tmp_path / "other.onnx") is calibration_beside(None) is None


def test_names_of_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        Path(name).touch()
    Path("sub").mkdir()
    Path("link").symlink_to("a")
    Path("folder").symlink_to("sub")
    os.link("a", "hard")
    for name in ("a", "./a", "sub/../a", "folder/../a", str(tmp_path / "a"), "link", "hard"):
        assert same_file("a", name)
        assert not same_file("b", name)
    assert same_file("sub/new", "folder/new")
    assert not same_file("sub/new", "new")
    assert not same_file(os.devnull, os.devnull)


def test_where_a_tokenizer_is_looked_for(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    assert tokenizer_beside(None, None, tmp_path / "model.onnx") == tmp_path / "tokenizer.json"
    assert tokenizer_beside(str(tmp_path)) == tmp_path / "tokenizer.json"
    assert tokenizer_beside(None, {"x": 1}, tmp_path / "other" / "model.onnx") is None
