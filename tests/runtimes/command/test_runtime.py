"""onnxruntime behind a command: in this Python and, with OBS_ONNX_OTHER_PYTHON, in another one."""

from __future__ import annotations

import gc
import os
import shlex
import subprocess
import sys
import threading
import time

import ml_dtypes
import nets
import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper, numpy_helper

from obs_onnx.latency.benchmark import bench
from obs_onnx.passes.errors import DataError, MissingRuntimeError, ModelError, OptionError
from obs_onnx.runtimes import calibration_runtime, open_runtime
from obs_onnx.runtimes.command.bundle import library
from obs_onnx.runtimes.command.worker import frames

OTHER = os.environ.get("OBS_ONNX_OTHER_PYTHON")
PYTHONS = [
    pytest.param(sys.executable, id="this"),
    pytest.param(
        OTHER,
        id="other",
        marks=pytest.mark.skipif(
            not OTHER, reason="set OBS_ONNX_OTHER_PYTHON to a Python that has another onnxruntime"
        ),
    ),
]
ODD = """
import os, signal, sys, time
from obs_onnx_worker import server

class Odd(server.Worker):
{body}

server.main(Odd)
"""
RAW = """
import os, sys, time
GREETING = {greeting!r}
def say(data):
    os.write(1, data)
def hear():
    return os.read(0, 10**6)
{body}
time.sleep(600)
"""


@pytest.fixture(scope="module", params=PYTHONS)
def python(request):
    return request.param


@pytest.fixture(scope="module")
def runtime(python):
    """One that no test breaks."""
    with open_runtime(f"command:{python}", threads=1) as opened:
        yield opened


@pytest.fixture
def script(tmp_path):
    """``script(text, python)`` -> a command that runs it."""

    def write(text: str, python: str = sys.executable) -> str:
        path = tmp_path / "worker.py"
        path.write_text(text, encoding="utf-8")
        return shlex.join([python, str(path)])

    return write


@pytest.fixture
def odd(script):
    """``odd(body, python)`` -> the command of a worker whose class has ``body`` too."""

    def write(body: str, python: str = sys.executable) -> str:
        body = "\n".join(f"    {line}" for line in body.splitlines())
        return script(library() + ODD.format(body=body), python)

    return write


@pytest.fixture
def raw(script):
    """``raw(body)`` -> the command of something that is no worker."""
    return lambda body: script(RAW.format(greeting=frames.GREETING, body=body))


@pytest.fixture(autouse=True)
def nothing_stays():
    """Every process that a test started has ended and was reaped."""
    before = set(psutil.Process().children(recursive=True))
    yield
    gc.collect()
    left = [one for one in psutil.Process().children(recursive=True) if one not in before]
    assert [one.cmdline() for one in left if one.is_running()] == []


def one_node(op: str, kind: int = TensorProto.FLOAT, domain: str = "", opset: int = 17, ir_version: int = 8):
    graph = helper.make_graph(
        [helper.make_node(op, ["x"], ["y"], domain=domain)],
        "g",
        [helper.make_tensor_value_info("x", kind, ["N", 2])],
        [helper.make_tensor_value_info("y", kind, ["N", 2])],
    )
    opsets = [helper.make_opsetid("", opset), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version).SerializeToString()


RELU = one_node("Relu")
X = np.array([[-1, 2]], np.float32)


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


def test_what_is_printed_over_there_does_not_disturb(odd):
    command = odd(
        "def _run(self, header, payload):\n"
        "    print('x' * 300_000, flush=True)\n"
        "    os.system('echo from a child')\n"
        "    os.write(2, b'y' * 3_000_000)\n"
        "    return super()._run(header, payload)"
    )
    with open_runtime(f"command,timeout=30:{command}", threads=1) as runtime:
        for _ in range(3):
            assert runtime.session(RELU).run({"x": X})["y"].tolist() == [[0, 2]]


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "signal SIGKILL"),
        ("os.write(2, b'\\x1b[31mred\\n'); os._exit(1)", r"exit status 1 .*: +\[31mred"),
        ("os.write(2, b'before\\nit hurts\\n'); os._exit(3)", "exit status 3 .*: it hurts"),
        ("os._exit(0)", "exit status 0"),
        ("os.write(9, b'')", "Bad file descriptor"),
    ],
)
def test_a_worker_that_dies_is_started_again(odd, tmp_path, body, what):
    mark = tmp_path / "once"
    command = odd(
        "def _run(self, header, payload):\n"
        f"    if not os.path.exists({str(mark)!r}):\n"
        f"        open({str(mark)!r}, 'w').close()\n"
        f"        {body}\n"
        "    return super()._run(header, payload)"
    )
    with open_runtime(f"command,timeout=20:{command}", threads=1) as runtime:
        session = runtime.session(RELU)
        with pytest.raises(ModelError, match=what) as caught:
            session.run({"x": X})
        assert "\n" not in str(caught.value)
        assert session.run({"x": X})["y"].tolist() == [[0, 2]]
        assert len(session.time({"x": X}, 2)) == 2


def test_killed_from_outside_and_between_requests():
    with open_runtime(f"command:{sys.executable}", threads=1) as runtime:
        session = runtime.session(RELU)
        runtime.link._child._process.kill()
        gone = time.monotonic() + 20
        while runtime.link._child.alive and time.monotonic() < gone:
            time.sleep(0.01)
        assert session.run({"x": X})["y"].tolist() == [[0, 2]]


def test_killed_during_a_request(odd):
    command = odd("def _run(self, header, payload):\n    time.sleep(600)")
    with open_runtime(f"command:{command}", threads=1) as runtime:
        session = runtime.session(RELU)
        timer = threading.Timer(0.2, runtime.link._child._process.kill)
        timer.start()
        with pytest.raises(ModelError, match="ended with signal SIGKILL during 'run' for the model"):
            session.run({"x": X})
        timer.join()


@pytest.mark.parametrize("where", ["_run", "_load", "_time"])
def test_a_worker_that_hangs_is_ended_in_time(odd, where):
    command = odd(f"def {where}(self, header, payload):\n    os.write(2, b'stuck')\n    time.sleep(600)")
    with open_runtime(f"command:{command}", threads=1) as runtime:
        runtime.link.timeout = 0.5 if where == "_load" else 10.0
        start, asked = time.monotonic(), f"did not answer '{where[1:]}' for the model within .*: stuck"
        if where == "_load":
            with pytest.raises(ModelError, match=asked):
                runtime.session(RELU)
        else:
            session = runtime.session(RELU)
            runtime.link.timeout = 0.3
            with pytest.raises(ModelError, match=asked):
                session.time({"x": X}, 1) if where == "_time" else session.run({"x": X})
        assert time.monotonic() - start < 20


def test_a_worker_that_does_not_read_is_ended_in_time(odd):
    command = odd("def _run(self, header, payload):\n    time.sleep(600)")
    with open_runtime(f"command:{command}", threads=1) as runtime:
        runtime.session(RELU)
        with pytest.raises(ModelError, match=r"did not answer 'run' for it within 0\.5 s"):
            runtime.link.request("run", {}, 10**7, lambda: [bytes(10**7)], 0.5, "it")


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        ("say(b'Welcome there')", OptionError, "did not start a worker within 1 s: Welcome there"),
        ("say(b'x' * 200_000)", OptionError, "starts no worker: it sends: b'xxx"),
        ("say(GREETING[:-5]); sys.exit('no such file')", OptionError, "exit status 1 .*: no such file"),
        ("say(b'motd' + GREETING + b'not a frame at all.........')", ModelError, "no frame but b'not '"),
        ("say(GREETING + b'OB')", ModelError, "did not answer 'hello'"),
        ("say(GREETING + b'OB'); sys.exit()", ModelError, "ended with exit status 0 during 'hello'"),
        (
            "say(GREETING + b'OBSF' + (5).to_bytes(4, 'big') + (10**13).to_bytes(8, 'big'))",
            ModelError,
            "payload of 10000000000000 bytes",
        ),
        (
            "say(GREETING + b'OBSF' + (5).to_bytes(4, 'big') + bytes(8) + b'[1,2]')",
            ModelError,
            "no JSON object",
        ),
        (
            "say(GREETING + b'OBSF' + (10).to_bytes(4, 'big') + bytes(8) + b'{\"id\": 77}')",
            ModelError,
            "the answer to 77 instead of 1",
        ),
        (
            "say(GREETING + b'OBSF' + (21).to_bytes(4, 'big') + bytes(8) + b'{\"id\": 1, \"ok\": true}')",
            OptionError,
            "another protocol",
        ),
        (
            "say(GREETING + b'OBSF' + (2**24).to_bytes(4, 'big') + bytes(8)); os.close(1)",
            ModelError,
            "ended with its output closed",
        ),
    ],
)
def test_garbage_on_the_pipe(raw, body, error, message):
    with pytest.raises(error, match=message) as caught:
        open_runtime(f"command,timeout=1:{raw(body)}")
    assert "\n" not in str(caught.value)


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


def test_a_python_without_numpy(tmp_path):
    venv = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    with pytest.raises(OptionError, match=r"before it started a worker: .*No module named 'numpy'"):
        open_runtime(f"command:{venv / 'bin' / 'python'}")


@pytest.mark.skipif(os.name != "posix", reason="needs a shell")
def test_a_shell_on_the_way_like_that_of_ssh(tmp_path, python):
    ssh = tmp_path / "ssh"
    ssh.write_text('#!/bin/sh\necho "Welcome to $1"\nshift\nexec sh -c "$*"\n')
    ssh.chmod(0o755)
    with open_runtime(f"command:{ssh} board {python}", threads=1) as runtime:
        assert runtime.session(RELU).run({"x": X})["y"].tolist() == [[0, 2]]


@pytest.mark.skipif(os.name != "posix", reason="needs process groups")
def test_children_of_the_command_end_with_it(tmp_path):
    script = tmp_path / "start"
    script.write_text(f'#!/bin/sh\nsleep 600 &\n{sys.executable} "$@"\n')
    script.chmod(0o755)
    runtime = open_runtime(f"command:{script}", threads=1)
    children = psutil.Process(runtime.link._child.pid).children(recursive=True)
    assert len(children) >= 2
    runtime.close()
    assert [one for one in children if one.is_running() and one.status() != psutil.STATUS_ZOMBIE] == []


def test_a_dropped_runtime_ends_its_worker():
    runtime = open_runtime(f"command:{sys.executable}", threads=1)
    child = psutil.Process(runtime.link._child.pid)
    del runtime
    gc.collect()
    assert not child.is_running()


def test_an_interrupt_does_not_shift_the_answers(monkeypatch):
    with open_runtime(f"command:{sys.executable}", threads=1) as runtime:
        session = runtime.session(RELU)
        with monkeypatch.context() as patch:

            def interrupt(read):
                raise KeyboardInterrupt

            patch.setattr(frames, "decode", interrupt)
            with pytest.raises(KeyboardInterrupt):
                session.run({"x": X + 5})
        assert session.run({"x": X})["y"].tolist() == [[0, 2]]


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
