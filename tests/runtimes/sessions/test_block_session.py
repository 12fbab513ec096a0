"""Large models run block by block and give what they give at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nets
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from obs_onnx.io.onnx_file import load_model
from obs_onnx.passes.canonical.canonicalize import canonicalize
from obs_onnx.passes.errors import DataError
from obs_onnx.runtimes import open_runtime
from obs_onnx.runtimes.sessions import block_session
from obs_onnx.runtimes.sessions.block_session import BlockSession, is_large
from obs_onnx.runtimes.sessions.partial_run import every_value, open_whole

RUNTIME = open_runtime("onnxruntime", 1)


@pytest.fixture
def _small_limit(monkeypatch) -> None:
    monkeypatch.setattr(block_session, "LARGE_BYTES", 4000)


@dataclass
class Recording:
    """A runtime that keeps the lengths of the messages that it gets."""

    runtime: Any = RUNTIME
    maps: bool = True
    lengths: list[int] = field(default_factory=list)

    def session(self, model: bytes, external_data: str | None = None) -> Any:
        self.lengths.append(len(model))
        return self.runtime.session(model, external_data)


def prepared(name: str) -> tuple[ir.Model, dict[str, np.ndarray]]:
    proto = nets.NETS[name]()
    shape = [dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim[1:]]
    return canonicalize(ir.from_proto(proto)), {"x": nets.data(0, 3, *shape)}


@pytest.mark.usefixtures("_small_limit")
@pytest.mark.parametrize("name", sorted(nets.NETS))
def test_outputs_and_every_value_are_those_of_the_whole_model(name: str, monkeypatch) -> None:
    model, feed = prepared(name)
    found, values = BlockSession(RUNTIME, model).run(feed), every_value(RUNTIME, model, feed)
    monkeypatch.undo()
    whole = open_whole(RUNTIME, model)
    assert [spec.name for spec in BlockSession(RUNTIME, model).inputs] == [s.name for s in whole.inputs]
    for name, y in whole.run(feed).items():
        np.testing.assert_allclose(found[name], y, rtol=1e-5, atol=1e-6)
    for name, y in every_value(RUNTIME, model, feed).items():
        np.testing.assert_allclose(values[name], y, rtol=1e-5, atol=1e-6)


def wide(folder: Path) -> Path:
    """A model with four matrices of 1 MB in external data."""
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal((512, 512), np.float32) / 23 for _ in range(4)]
    nodes = [onnx.helper.make_node("MatMul", [f"h{k}", f"w{k}"], [f"h{k + 1}"]) for k in range(4)]
    names = [onnx.numpy_helper.from_array(w, f"w{k}") for k, w in enumerate(weights)]
    ends = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["N", 512]) for n in ("h0", "h4")]
    graph = onnx.helper.make_graph(nodes, "wide", ends[:1], ends[1:], names)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, folder / "wide.onnx", save_as_external_data=True, location="wide.data")
    return folder / "wide.onnx"


@pytest.mark.parametrize("maps", [True, False])
def test_no_message_holds_the_weights_of_the_whole_model(tmp_path, monkeypatch, maps: bool) -> None:
    monkeypatch.setattr(block_session, "LARGE_BYTES", 3 << 20)
    model, recording = load_model(wide(tmp_path)), Recording(maps=maps)
    assert is_large(model)
    x = nets.data(0, 2, 512)
    found = open_whole(recording, model).run({"h0": x})["h4"]
    expected = RUNTIME.session(tmp_path / "wide.onnx").run({"h0": x})["h4"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert len(recording.lengths) > 1
    assert max(recording.lengths) < (10_000 if maps else 2 << 20)


@pytest.mark.usefixtures("_small_limit")
def test_a_feed_that_does_not_fit_and_times(tmp_path) -> None:
    session = open_whole(RUNTIME, load_model(wide(tmp_path)))
    with pytest.raises(DataError, match="it takes h0, not 'x'"):
        session.run({"h0": nets.data(0, 1, 512), "x": nets.data(0, 1)})
    assert len(session.time({"h0": nets.data(0, 1, 512)}, 3)) == 3
