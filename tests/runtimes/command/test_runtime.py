"""onnxruntime behind a command: in this Python and, with OBS_ONNX_OTHER_PYTHON, in another one."""

from __future__ import annotations

import gc
import os
import subprocess
import sys

import ml_dtypes
import nets
import numpy as np
import onnx
import pytest
from odd_workers import RELU, X, one_node
from onnx import TensorProto, helper, numpy_helper

from obs_onnx.latency.benchmark import bench
from obs_onnx.passes.errors import DataError, MissingRuntimeError, ModelError, OptionError
from obs_onnx.runtimes import calibration_runtime, open_runtime


@pytest.mark.parametrize("name", ["mlp", "residual"])
def test_numbers_are_those_of_onnxruntime_here(runtime, name):
    model = getattr(nets, name)().SerializeToString()
    shape = (12,) if name == "mlp" else (3, 8, 8)
    feed = {"x": nets.data(0, 5, *shape)}
    expected = open_runtime(threads=1).session(model).run(feed)["y"]
    session = runtime.session(model)
    local = open_runtime(threads=1).session(model)
    assert (session.inputs, session.outputs) == (local.inputs, local.outputs)
    np.testing.assert_allclose(session.run(feed)["y"], expected, rtol=1e-4, atol=1e-4)
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
        (TensorProto.STRING, object),
    ],
)
def test_every_type_goes_there_and_back(runtime, kind, dtype):
    x = np.array([[0, 1], [1, 1], [0, 0]]).astype(dtype)
    if dtype is object:
        x = np.array([["ä", ""], ["b\n", "c"]], object)
    session = runtime.session(one_node("Identity", kind))
    assert session.inputs[0].dtype == dtype
    y = session.run({"x": x})["y"]
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, x)
    assert session.run({"x": x[:0]})["y"].shape == (0, 2)
    assert len(session.time({"x": x}, 2)) == 2


def test_only_the_outputs_asked_for_and_sequences_in_a_row(runtime):
    nodes = [
        helper.make_node("Neg", ["x"], ["w"]),
        helper.make_node("SequenceConstruct", ["x", "w"], ["s"]),
        helper.make_node("Identity", ["s"], ["t"]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", 1, ["N", 2])],
        [value("w", 1, ["N", 2]), helper.make_tensor_sequence_value_info("t", 1, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = runtime.session(model.SerializeToString())
    assert list(session.run({"x": X}, ["w"])) == ["w"]
    assert session.run({"x": X})["t"].tolist() == [-1, 2, 1, -2]
    with pytest.raises(DataError, match="nothing"):
        session.run({"x": X}, ["nothing"])


def test_files_and_external_data(runtime, tmp_path):
    weight = np.arange(4, dtype=np.float32).reshape(2, 2)
    model = onnx.load_from_string(RELU)
    model.graph.node[0].CopyFrom(helper.make_node("MatMul", ["x", "w"], ["y"]))
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert (tmp_path / "weights.bin").is_file()
    x = np.eye(2, dtype=np.float32)
    for session in (
        runtime.session(path),
        runtime.session(str(path)),
        runtime.session(path.read_bytes(), external_data=tmp_path),
    ):
        np.testing.assert_array_equal(session.run({"x": x})["y"], weight)
    (tmp_path / "weights.bin").rename(tmp_path / "away.bin")
    with pytest.raises(ModelError, match=r"'weights\.bin' of the model is missing"):
        runtime.session(path)


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/passwd", "a/../../b"])
def test_external_data_elsewhere_is_not_sent(runtime, tmp_path, location):
    model = onnx.load_from_string(RELU)
    tensor = numpy_helper.from_array(np.ones(2, np.float32), "w")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    model.graph.initializer.append(tensor)
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="outside"):
        runtime.session(path)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (b"", "cannot use the model: No graph"),
        (b"no model", "cannot use the model: .*protobuf"),
        ("no/such.onnx", r"no/such\.onnx does not exist"),
        (one_node("Foo", domain="bar"), "bar:Foo.*not a registered"),
        (one_node("Cos", TensorProto.BFLOAT16), "cannot use the model: "),
        (one_node("Relu", ir_version=99), "IR version.*onnxruntime .* there is too old for the model"),
        (one_node("Relu", opset=99), "opset.*onnxruntime .* there is too old for the model"),
    ],
)
def test_models_that_cannot_be_loaded(runtime, model, message):
    with pytest.raises(ModelError, match=message) as caught:
        runtime.session(model)
    assert "\n" not in str(caught.value)
    assert "ONNXRuntimeError" not in str(caught.value)
    assert runtime.session(RELU).run({"x": X})["y"].tolist() == [[0, 2]]


def test_feeds_that_do_not_fit(runtime):
    session = runtime.session(RELU)
    for feed in ({}, {"x": X, "w": X}, {"x": X[:, :1]}, {"x": X.astype(np.float64)}):
        with pytest.raises(DataError, match="cannot run the model"):
            session.run(feed)
    with pytest.raises(DataError, match="cannot run the model"):
        session.time({"x": X[:, :1]}, 1)
    with pytest.raises(DataError, match="'x' is complex64"):
        session.run({"x": X.astype(np.complex64)})
    assert session.run({"x": X})["y"].tolist() == [[0, 2]]


def test_environment_and_bench(python):
    version = subprocess.run(
        [python, "-c", "import onnxruntime as o; print(o.__version__)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    spec = f"command,arena=off,optimize=basic:{python}"
    with open_runtime(spec, threads=1) as runtime:
        result = bench([RELU, RELU], runtime, seconds=0.05, min_runs=5)
        assert runtime.spec == spec
        environment = result.environment
        assert (environment["runtime"], environment["version"]) == ("onnxruntime", version)
        assert (environment["provider"], environment["threads"]) == ("CPUExecutionProvider", 1)
        assert environment["options"] == {"arena": "off", "optimize": "basic"}
        assert environment["command"] == python
        assert {"cpu", "cores", "os", "python", "load_average", "frequency_mhz"} <= set(environment)
        assert runtime.environment() == runtime.environment()
        if hasattr(os, "sched_getaffinity"):
            assert len(environment["affinity"]) == 1
        assert all(0 < latency.median < 1000 for latency in result.latencies)


def test_a_feed_to_time_is_sent_once(monkeypatch):
    with open_runtime(f"command:{sys.executable}", threads=1) as runtime:
        session, sent = runtime.session(RELU), []
        real = runtime.link.request
        monkeypatch.setattr(runtime.link, "request", lambda *a: (sent.append((a[0], a[2])), real(*a))[1])
        for feed in (X, X.copy(), X + 1, X):
            session.time({"x": feed}, 1)
        assert sent == [("time", 8), ("time", 0), ("time", 8), ("time", 8)]
        with pytest.raises(DataError):
            session.time({"x": X[:, :1]}, 1)
        session.time({"x": X}, 1)
        assert sent[4:] == [("time", 4), ("time", 8)]


def test_dropped_sessions_are_unloaded(odd):
    command = odd(
        "def _hello(self, header, payload):\n"
        "    answer, parts = super()._hello(header, payload)\n"
        "    return dict(answer, loaded=len(self._models)), parts"
    )
    with open_runtime(f"command:{command}", threads=1) as runtime:

        def loaded():
            return runtime.link.request("hello", {}, 0, tuple, 10, "")[0]["loaded"]

        sessions = [runtime.session(RELU) for _ in range(3)]
        assert loaded() == 3
        del sessions[0]
        gc.collect()
        assert loaded() == 2
        assert sessions[0].run({"x": X})["y"].tolist() == [[0, 2]]


@pytest.mark.parametrize(
    "answer",
    [
        "{}",
        "{'handle': 1, 'inputs': [], 'outputs': 3}",
        "{'handle': [], 'inputs': [], 'outputs': []}",
        "{'handle': 1, 'inputs': [{'name': 'x'}], 'outputs': []}",
    ],
)
def test_answers_that_lack_something(odd, answer):
    command = odd(f"def _load(self, header, payload):\n    payload.all()\n    return {answer}, []")
    with open_runtime(f"command:{command}") as runtime, pytest.raises(ModelError, match="broke the protocol"):
        runtime.session(RELU)


@pytest.mark.parametrize(("name", "what"), [("y", "longer than the payload"), ("z", "outputs other than y")])
def test_outputs_that_lie(odd, name, what):
    command = odd(
        "def _run(self, header, payload):\n"
        "    payload.all()\n"
        f"    size = 8 if {name!r} == 'y' else 4\n"
        f"    array = {{'name': {name!r}, 'type': 'float32', 'shape': [size // 4], 'bytes': size}}\n"
        "    return {'arrays': [array]}, [b'1234']"
    )
    with open_runtime(f"command:{command}") as runtime:
        session = runtime.session(RELU)
        with pytest.raises(ModelError, match=f"broke the protocol: .*{what}"):
            session.run({"x": X})


def test_a_python_without_onnxruntime(odd):
    command = odd("sys.modules['onnxruntime'] = None")
    with pytest.raises(MissingRuntimeError, match=r"onnxruntime cannot be imported: .*install it"):
        open_runtime(f"command:{command}")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("command", "has no command"),
        ("command:", "has no command"),
        ("command:''", "cannot start ''"),
        ("command:'a", "cannot be split"),
        ("command:/no/such/python", "cannot start '/no/such/python'"),
        (
            "command,speed=1:python",
            "no option 'speed'; it has optimize, arena, pattern, spinning, provider",
        ),
        ("command,timeout=soon:python", "timeout=soon"),
        ("command,timeout=-1:python", "timeout=-1"),
        ("command,timeout=nan:python", "timeout=nan"),
        ("command,arena:python", "'arena' .* is not KEY=VALUE"),
        (f"command,provider=cudnn:{sys.executable}", "no provider 'cudnn' over there; available: .*CPU"),
    ],
)
def test_bad_specs(spec, message):
    with pytest.raises(OptionError, match=message):
        open_runtime(spec)


def test_threads_and_providers_over_there():
    with open_runtime(f"command,provider=cpu:{sys.executable}") as runtime:
        assert runtime.threads == open_runtime().threads
        assert runtime.provider == "CPUExecutionProvider"
    local = calibration_runtime(f"command:{sys.executable}", threads=1)
    assert (local.in_process, local.threads) == (True, 1)
    with pytest.raises(OptionError, match="threads=0"):
        open_runtime(f"command:{sys.executable}", 0)


def test_libraries_over_there_that_do_not_exist():
    runtime = open_runtime(f"command:{sys.executable}", custom_ops=["/no/such.so"])
    with pytest.raises(OptionError, match=r"no such options or custom operators: .*such\.so"):
        runtime.session(RELU)
