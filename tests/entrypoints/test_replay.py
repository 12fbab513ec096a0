"""replay(): a keep.json applied to a model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from decided_nets import detector, images, plugin
from nets import mlp, run_proto

import obs_onnx
from obs_onnx.passes.canonical.own_constants import prepare
from obs_onnx.passes.channels.coupling import couple
from obs_onnx.passes.channels.keep_file import keep_file
from obs_onnx.passes.errors import DataError, OptionError


def keep_of(proto: onnx.ModelProto) -> dict[str, object]:
    """Every other channel."""
    model = ir.from_proto(proto)
    coupling = couple(prepare(model))
    return json.loads(
        json.dumps(keep_file(model, coupling, {g.id: np.arange(g.n) % 2 == 0 for g in coupling.groups}))
    )


def test_a_file_is_cut_and_compared(tmp_path: Path) -> None:
    onnx.save(mlp(), tmp_path / "m.onnx")
    (tmp_path / "m.keep.json").write_text(json.dumps(keep_of(mlp())))
    assert obs_onnx.replay(tmp_path / "m.onnx", tmp_path / "m.keep.json").output is None
    given = {"keep": tmp_path / "m.keep.json", "output": tmp_path / "m.pruned.onnx"}
    result = obs_onnx.replay(tmp_path / "m.onnx", **given)
    assert result.output == tmp_path / "m.pruned.onnx"
    small, dense = onnx.load(result.output), mlp()
    onnx.checker.check_model(small, full_check=True)
    kept = {t.name: onnx.numpy_helper.to_array(t) for t in small.graph.initializer}
    full = {t.name: onnx.numpy_helper.to_array(t) for t in dense.graph.initializer}
    for name, axes in keep_of(mlp())["tensors"].items():
        expected = full[name]
        for axis, indices in axes.items():
            expected = expected.take(indices, axis=int(axis))
        np.testing.assert_array_equal(kept[name], expected)
    assert "equal those of the model with the channels silenced, on a random sample" in result.notes[0]


@pytest.mark.parametrize("proto", [detector(), plugin()])
def test_models_that_end_in_decisions_and_plugins(proto: onnx.ModelProto, tmp_path: Path) -> None:
    result = obs_onnx.replay(proto, keep_of(proto), tmp_path / "s.onnx", calib={"x": images(4)})
    assert result.notes[0].startswith("bs, scores_ equal")
    assert result.model.graph.initializers["w1"].shape == (8, 3, 3, 3)
    assert onnx.load(tmp_path / "s.onnx").graph.output == proto.graph.output
    assert len(result.notes) == (2 if proto.graph.output[0].name == "num" else 1)


def test_a_random_sample_that_the_model_does_not_take_is_no_error() -> None:
    proto = detector(nms=False)
    node = onnx.helper.make_node("Gather", ["x", "at"], ["one"], axis=1, name="pick")
    proto.graph.node.insert(0, node)
    proto.graph.node[1].input[0] = "picked"
    proto.graph.node.insert(1, onnx.helper.make_node("Reshape", ["one", "like"], ["picked"], name="like_x"))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1, 3, 8, 8]), "like"))
    proto.graph.input.append(onnx.helper.make_tensor_value_info("at", onnx.TensorProto.INT64, [3]))
    keep = {"tensors": {"w2": {"0": list(range(8))}, "b2": {"0": list(range(8))}}}
    feed = {"x": images(1), "at": np.array([0, 1, 2])}
    result = obs_onnx.replay(proto, keep, calib=[feed])
    assert "equal" in result.notes[0]
    assert run_proto(ir.to_proto(result.model), feed)["boxes_"].shape == (1, 16, 4)
    with pytest.raises(DataError):
        obs_onnx.replay(proto, keep, calib=[{"x": images(1), "at": np.array([0, 1, 99])}])


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ({"tensors": {"other": {"0": [0]}}}, "other is no initializer"),
        ({"tensors": {"w1": {"0": [0, 99]}}}, "99|elements"),
        ({"tensors": {"wb": {"0": [0, 1]}}}, "axis 0 of wb cannot be cut to 2"),
        ({"tensors": {"w1": [0]}}, "is no keep.json"),
        ({"tensors": {"w1": {"0": ["a"]}}}, "is no keep.json"),
        ({"weights": {}}, "is no keep.json"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(keep: object, message: str, tmp_path: Path) -> None:
    (tmp_path / "k.json").write_text(json.dumps(keep))
    with pytest.raises(DataError, match=message) as caught:
        obs_onnx.replay(detector(), tmp_path / "k.json", tmp_path / "s.onnx")
    assert "k.json" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "s.onnx").exists()


def test_neither_file_is_written_over(tmp_path: Path) -> None:
    onnx.save(mlp(), tmp_path / "m.onnx")
    (tmp_path / "k.json").write_text(json.dumps(keep_of(mlp())))
    for name in ("m.onnx", "k.json"):
        with pytest.raises(OptionError, match="choose another output"):
            obs_onnx.replay(tmp_path / "m.onnx", tmp_path / "k.json", tmp_path / name)
