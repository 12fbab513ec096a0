"""Parts of a model run by themselves, and every value of a run."""

from __future__ import annotations

import nets
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from nets import run_proto

from obs_onnx.passes.canonical.canonicalize import canonicalize
from obs_onnx.passes.graph.extract import extract
from obs_onnx.runtimes import open_runtime
from obs_onnx.runtimes.sessions.partial_run import every_value, open_part

RUNTIME = open_runtime("onnxruntime", 1)


@pytest.mark.parametrize("name", sorted(nets.NETS))
def test_every_value_is_what_the_whole_model_computes(name: str) -> None:
    proto = nets.NETS[name]()
    model = canonicalize(ir.from_proto(proto))
    shape = [dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim[1:]]
    x = nets.data(0, 3, *shape)
    found = every_value(RUNTIME, model, {"x": x})
    assert set(found) == {"x", *(str(value.name) for node in model.graph for value in node.outputs)}
    np.testing.assert_array_equal(found["x"], x)
    np.testing.assert_allclose(found["y"], run_proto(proto, {"x": x})["y"], rtol=1e-4, atol=1e-5)


def test_activations_are_not_fused_away_and_sequences_are_left_out(make_model) -> None:
    text = """g (float[N,4] x) => (float[N,4] y) {
        h = MatMul(x, w)  r = Relu(h)  s = SequenceConstruct(h, r)  y = SequenceAt(s, one)
    }"""
    w = np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32)
    x = nets.data(0, 3, 4)
    found = every_value(RUNTIME, canonicalize(make_model(text, {"w": w, "one": np.array(1)})), {"x": x})
    assert set(found) == {"x", "h", "r", "y"}
    np.testing.assert_allclose(found["h"], x @ w, rtol=1e-5)
    np.testing.assert_allclose(found["y"], np.maximum(x @ w, 0), rtol=1e-5)


def test_ranks_of_what_is_fed_count_in_place_of_a_batch_from_a_trace(make_model) -> None:
    """The declared shape of h is that of one example."""
    text = "g (float[N,4] x) => (float[N,4] y) <float[1,4] h> { h = Relu(x)  y = Neg(h) }"
    part = extract(make_model(text), ["h"], ["y"])
    feed = {"h": nets.data(0, 5, 4)}
    session = open_part(RUNTIME, part, feed)
    np.testing.assert_array_equal(session.run(feed)["y"], -feed["h"])


def test_sizes_keep_their_number(make_model) -> None:
    """onnxruntime wants to know that a Resize gets as many sizes as there are axes."""
    text = """g (float[N,2,H,W] x, int64[4] s) => (float[a,b,c,d] y) <int64[4] t> {
        t = Neg(s)  y = Resize(x, , , t)
    }"""
    part = extract(make_model(text), ["x", "t"], ["y"])
    feed = {"x": nets.data(0, 1, 2, 3, 3), "t": np.array([1, 2, 6, 6])}
    assert open_part(RUNTIME, part, feed).run(feed)["y"].shape == (1, 2, 6, 6)


def test_types_that_inference_missed_are_those_of_what_is_fed(make_model) -> None:
    text = "g (float[N,4] x) => (float[N,4] y) { h = Relu(x)  y = Neg(h) }"
    part = extract(make_model(text), ["h"], ["y"])
    (h,) = part.graph.inputs
    h.type = None
    feed = {"h": nets.data(0, 5, 4)}
    np.testing.assert_array_equal(open_part(RUNTIME, part, feed).run(feed)["y"], -feed["h"])


def test_tensors_in_files_are_read(make_proto, tmp_path) -> None:
    w = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    proto = make_proto("g (float[N,64] x) => (float[N,64] y) { y = MatMul(x, w) }", {"w": w})
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin")
    model = ir.load(tmp_path / "m.onnx")
    assert isinstance(model.graph.initializers["w"].const_value, ir.ExternalTensor)
    x = nets.data(0, 2, 64)
    np.testing.assert_allclose(open_part(RUNTIME, model).run({"x": x})["y"], x @ w, rtol=1e-4, atol=1e-4)
