"""Where results go and where data comes from, checked before anything costly."""

from __future__ import annotations

from pathlib import Path

import pytest

from obs_onnx.io.paths import calibration_of, destination_of, int8_path, keep_path, new_folder
from obs_onnx.passes.errors import OptionError


def test_the_result_lies_beside_the_model_unless_told_otherwise(tmp_path: Path) -> None:
    model = tmp_path / "net.v2.onnx"
    assert destination_of(None, model) == tmp_path / "net.v2.pruned.onnx"
    assert destination_of(None, None) is None
    assert destination_of(str(tmp_path / "small.onnx"), model) == tmp_path / "small.onnx"


def test_files_beside_a_result(tmp_path: Path) -> None:
    assert keep_path(tmp_path / "net.v2.onnx") == tmp_path / "net.v2.keep.json"
    assert int8_path(tmp_path / "net.v2.onnx") == tmp_path / "net.v2.int8.onnx"


def test_destinations_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tmp_path / "net.onnx"
    model.touch()
    (tmp_path / "link.onnx").symlink_to(model)
    monkeypatch.chdir(tmp_path)
    for output, words in (
        (tmp_path / "no" / "small.onnx", "the folder of .*small.onnx does not exist"),
        (tmp_path, "is a folder"),
        (model, "is the model itself"),
        ("net.onnx", "is the model itself"),
        ("link.onnx", "is the model itself"),
    ):
        with pytest.raises(OptionError, match=words):
            destination_of(output, model)


def test_a_new_folder(tmp_path: Path) -> None:
    assert new_folder(tmp_path / "new") == tmp_path / "new"
    assert not (tmp_path / "new").exists()
    (tmp_path / "empty").mkdir()
    assert new_folder(tmp_path / "empty") == tmp_path / "empty"
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    for output, words in (("file", "exists"), ("full", "exists"), ("no/new", "does not exist")):
        with pytest.raises(OptionError, match=words):
            new_folder(tmp_path / output)


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
