"""Files that are joined, pruned and split again, as a user does it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from command_line import run
from whole_models import FILES, Size

import obs_onnx
from obs_onnx.passes.errors import ModelError, OptionError

SIZE = Size(layers=1)


@pytest.fixture
def paths(tmp_path):
    found = []
    for name, proto in FILES["T5"](SIZE).items():
        onnx.save(proto, tmp_path / f"{name}.onnx")
        found.append(tmp_path / f"{name}.onnx")
    return found


def test_three_files_are_pruned_as_one(paths, tmp_path) -> None:
    joined = obs_onnx.join(paths, tmp_path / "one.onnx")
    rng = np.random.default_rng(0)
    data = {value.name: rng.integers(0, SIZE.words, (32, 6)) for value in joined.graph.inputs}
    data["attention_mask"] = np.ones((32, 6), np.int64)
    data["decoder_with_past_model.input_ids"] = rng.integers(0, SIZE.words, (32, 1))
    options = {"targets": {"params": 0.7}, "mode": "channels", "effort": "quick", "threads": 1}
    found = obs_onnx.prune(tmp_path / "one.onnx", calib=data, output=tmp_path / "small.onnx", **options)
    assert found.report.met
    files = obs_onnx.split(tmp_path / "small.onnx", tmp_path / "out")
    assert list(files) == [path.stem for path in paths]
    written = {path.stem: onnx.load(path) for path in (tmp_path / "out").iterdir()}
    given = {value.name: value for value in written["decoder_model"].graph.output}
    for value in written["decoder_with_past_model"].graph.input:
        if value.name.startswith("past"):
            other = given[value.name.replace("past_key_values", "present")]
            sizes = [[dim.dim_value for dim in one.type.tensor_type.shape.dim] for one in (value, other)]
            assert sizes[0] == sizes[1]
    for path in paths:
        before, after = (
            sum(len(one.raw_data) for one in model.graph.initializer)
            for model in (onnx.load(path), written[path.stem])
        )
        assert after < before


def test_what_is_wrong_with_files_is_said(paths, tmp_path) -> None:
    with pytest.raises(OptionError, match="is one of the files to join"):
        obs_onnx.join(paths, paths[0])
    with pytest.raises(ModelError, match="two of the models are called encoder_model"):
        obs_onnx.join([paths[0], paths[0]])
    with pytest.raises(ModelError, match=r"encoder_model.onnx was not joined of"):
        obs_onnx.split(paths[0])
    obs_onnx.join(paths, tmp_path / "one.onnx")
    with pytest.raises(OptionError, match="choose another folder"):
        obs_onnx.split(tmp_path / "one.onnx", tmp_path)


def test_the_commands(paths, tmp_path) -> None:
    one, folder = tmp_path / "one.onnx", tmp_path / "files"
    told = run("join", *map(str, paths), "-o", str(one))
    assert "attention_mask" in told.output
    told = run("split", str(one), "-o", str(folder))
    assert "encoder_model.onnx" in told.output
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in paths)
