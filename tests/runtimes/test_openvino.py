"""OpenVINO behind the protocol: the numbers of onnxruntime, and how it says what it cannot."""

from __future__ import annotations

import builtins
import os
import sys
from importlib.util import find_spec

import ml_dtypes
import nets
import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from obs_onnx.cli import main
from obs_onnx.latency.benchmark import bench
from obs_onnx.passes.errors import DataError, MissingRuntimeError, ModelError, OptionError
from obs_onnx.runtimes import open_runtime
from obs_onnx.runtimes.machine import usable_cores

X = np.array([[-1, 2]], np.float32)


def test_without_openvino(monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name == "openvino":
            raise ModuleNotFoundError("No module named 'openvino'", name="openvino")
        return real(name, *rest)

    with monkeypatch.context() as patch:
        patch.delitem(sys.modules, "openvino", raising=False)
        patch.setattr(builtins, "__import__", without)
        with pytest.raises(MissingRuntimeError, match=r"install obs-onnx\[openvino\]"):
            open_runtime("openvino")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("openvino,speed=1", "the runtime openvino has no option 'speed'; it has precision"),
        ("openvino,precision=f13", "precision=f13 .*: use f32 or f16 or bf16"),
    ],
)
def test_bad_options(spec, message):
    with pytest.raises(OptionError, match=message):
        open_runtime(spec)
    with pytest.raises(OptionError, match="takes no libraries"):
        open_runtime("openvino", custom_ops=["library.so"])
    with pytest.raises(OptionError, match="threads=0"):
        open_runtime("openvino", threads=0)


needs_openvino = pytest.mark.skipif(
    find_spec("openvino") is None, reason="needs the package openvino: install obs-onnx[openvino]"
)


@pytest.fixture(scope="module")
def runtime():
    pytest.importorskip("openvino", reason="needs the package openvino: install obs-onnx[openvino]")
    return open_runtime("openvino:CPU,precision=f32", threads=1)  # to be compared with onnxruntime


def one_node(op: str, kind: int = TensorProto.FLOAT, domain: str = "", inputs: int = 1):
    names = ["x", "z"][:inputs]
    graph = helper.make_graph(
        [helper.make_node(op, names, ["y"], domain=domain)],
        "g",
        [helper.make_tensor_value_info(name, kind, ["N", 2]) for name in names],
        [helper.make_tensor_value_info("y", kind, ["N", 2])],
    )
    opsets = [helper.make_opsetid("", 17), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


@pytest.mark.parametrize("name", ["mlp", "residual", "mobile", "transformer", "concatenated", "grouped"])
def test_numbers_are_those_of_onnxruntime(runtime, name):
    model = getattr(nets, name)()
    local = open_runtime(threads=1).session(model.SerializeToString())
    session = runtime.session(model.SerializeToString())
    shape = local.inputs[0].shape[1:]
    for samples in (5, 2):
        feed = {local.inputs[0].name: nets.data(0, samples, *shape)}
        expected, found = local.run(feed), session.run(feed)
        assert list(found) == list(expected)
        for key in expected:
            np.testing.assert_allclose(found[key], expected[key], rtol=1e-4, atol=1e-4)
            assert found[key].dtype == expected[key].dtype
    assert (session.inputs, session.outputs) == (local.inputs, local.outputs)
    assert len(session.time(feed, 3)) == 3


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        (TensorProto.FLOAT16, np.float16),
        (TensorProto.BFLOAT16, ml_dtypes.bfloat16),
        (TensorProto.DOUBLE, np.float64),
        (TensorProto.INT64, np.int64),
        (TensorProto.UINT8, np.uint8),
        (TensorProto.BOOL, np.bool_),
    ],
)
def test_every_type_goes_in_and_comes_out(runtime, kind, dtype):
    session = runtime.session(one_node("Identity", kind).SerializeToString())
    assert session.inputs[0].dtype == dtype
    x = np.array([[0, 1], [1, 1], [0, 0]]).astype(dtype)
    y = session.run({"x": x})["y"]
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, x)
    assert len(session.time({"x": x}, 3)) == 3


def test_outputs_keep_their_names_and_order_and_do_not_change_later(runtime):
    model = one_node("Relu", inputs=1)
    model.graph.node.append(helper.make_node("Neg", ["x"], ["w"]))
    model.graph.node.append(helper.make_node("Identity", ["w"], ["v"]))
    for name in ("w", "v"):
        model.graph.output.insert(0, helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 2]))
    session = runtime.session(model.SerializeToString())
    found = session.run({"x": X})
    session.run({"x": 5 * X})
    assert list(found) == ["v", "w", "y"]
    assert [found[name].tolist() for name in found] == [[[1, -2]], [[1, -2]], [[0, 2]]]
    assert list(session.run({"x": X}, ["y"])) == ["y"]
    with pytest.raises(DataError, match="no output 'u'"):
        session.run({"x": X}, ["u"])


def test_inputs_go_by_name_and_views_are_copied(runtime):
    model = one_node("Sub", inputs=2)
    model.graph.input.insert(0, model.graph.input.pop())
    session = runtime.session(model.SerializeToString())
    assert [spec.name for spec in session.inputs] == ["z", "x"]
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    np.testing.assert_array_equal(session.run({"x": x[:, ::2], "z": x[:, 1::2]})["y"], -np.ones((2, 2)))


def test_files_and_external_data(runtime, tmp_path):
    weight = np.arange(4, dtype=np.float32).reshape(2, 2)
    model = one_node("MatMul", inputs=2)
    model.graph.input.pop()
    model.graph.initializer.append(numpy_helper.from_array(weight, "z"))
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    x = np.eye(2, dtype=np.float32)
    for session in (
        runtime.session(path),
        runtime.session(str(path)),
        runtime.session(path.read_bytes(), external_data=tmp_path),
    ):
        np.testing.assert_array_equal(session.run({"x": x})["y"], weight)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (b"", "cannot load the model: it is no ONNX model"),
        (b"no model", "cannot load the model: it is no ONNX model"),
        ("no/such.onnx", r"no/such\.onnx does not exist"),
        (
            one_node("Foo", domain="bar").SerializeToString(),
            r"No conversion rule found .*: bar\.Foo",
        ),
        (one_node("Det").SerializeToString(), "No conversion rule found for operations: Det"),
        (one_node("Identity", TensorProto.STRING).SerializeToString(), "'x' is no tensor of numbers"),
    ],
)
def test_models_that_cannot_be_loaded(runtime, model, message):
    with pytest.raises(ModelError, match=message) as caught:
        runtime.session(model)
    assert "\n" not in str(caught.value)
    assert ".cpp" not in str(caught.value)


def test_feeds_that_do_not_fit(runtime):
    session = runtime.session(one_node("Relu").SerializeToString())
    for feed in ({}, {"x": X, "w": X}, {"x": X[:, :1]}, {"x": X[0]}, {"x": X.astype(np.float64)}):
        with pytest.raises(DataError, match="openvino cannot run the model"):
            session.run(feed)
    with pytest.raises(DataError, match="openvino cannot run the model"):
        session.time({"x": X[:, :1]}, 1)
    assert session.run({"x": X})["y"].tolist() == [[0, 2]]


@needs_openvino
def test_specs_and_environment():
    plain = open_runtime("openvino")
    assert plain.threads == usable_cores()
    environment = plain.environment()
    assert (environment["runtime"], environment["provider"]) == ("openvino", "CPU")
    own = plain._core.get_property("CPU", "INFERENCE_PRECISION_HINT").get_type_name()
    assert (environment["precision"], environment["threads"]) == (own, plain.threads)
    assert environment["version"]
    assert open_runtime("openvino:cpu").environment() == environment
    assert open_runtime("openvino:CPU,precision=f32").environment()["precision"] == "f32"
    half = open_runtime("openvino:CPU,precision=bf16", threads=1)
    assert half.environment()["precision"] == "bf16"
    assert half.session(one_node("Relu").SerializeToString()).run({"x": X})["y"].tolist() == [[0, 2]]
    with pytest.raises(OptionError, match=r"no device 'TPU' here; available: .*CPU"):
        open_runtime("openvino:TPU")


def test_threads_reach_the_model(runtime):
    compiled = runtime._core.compile_model(
        runtime._core.read_model(one_node("Relu").SerializeToString()), "CPU", runtime._properties()
    )
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 1
    assert compiled.get_property("NUM_STREAMS") == 1
    assert compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name() == "f32"


@needs_openvino
def test_bench(tmp_path):
    result = bench([nets.mlp().SerializeToString()] * 2, "openvino", threads=1, seconds=0.05, min_runs=5)
    assert result.environment["runtime"] == "openvino"
    assert all(0 < latency.median < 1000 for latency in result.latencies)
    if hasattr(os, "sched_getaffinity"):
        assert len(result.environment["affinity"]) == 1
    path = tmp_path / "net.onnx"
    onnx.save(nets.mlp(), path)
    done = CliRunner().invoke(main, ["bench", str(path), "--runtime", "openvino", "--seconds", "0.05"])
    assert done.exit_code == 0, done.output
    assert "openvino" in done.output
