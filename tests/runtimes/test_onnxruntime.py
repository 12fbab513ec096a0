"""onnxruntime behind the protocol: what it runs, and how it says what it cannot."""

from __future__ import annotations

import builtins
import sys

import ml_dtypes
import nets
import numpy as np
import onnx
import pytest
from formula_runtime import FormulaRuntime
from onnx import TensorProto, helper, numpy_helper

from obs_onnx.passes.errors import DataError, MissingRuntimeError, ModelError, OptionError
from obs_onnx.runtimes import open_runtime
from obs_onnx.runtimes.machine import usable_cores
from obs_onnx.runtimes.onnxruntime import abreast, first_line


def one_node(op: str, kind: int = TensorProto.FLOAT, domain: str = "", inputs: int = 1) -> onnx.ModelProto:
    names = ["x", "z"][:inputs]
    graph = helper.make_graph(
        [helper.make_node(op, names, ["y"], domain=domain)],
        "g",
        [helper.make_tensor_value_info(name, kind, ["N", 2]) for name in names],
        [helper.make_tensor_value_info("y", kind, ["N", 2])],
    )
    opsets = [helper.make_opsetid("", 17), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


@pytest.fixture
def runtime():
    return open_runtime("onnxruntime", threads=1)


def test_specs_and_run(runtime):
    session = runtime.session(one_node("Add", inputs=2).SerializeToString())
    assert [(spec.name, spec.shape, spec.dtype) for spec in session.inputs] == [
        ("x", ("N", 2), np.float32),
        ("z", ("N", 2), np.float32),
    ]
    assert [spec.name for spec in session.outputs] == ["y"]
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    outputs = session.run({"x": x, "z": x})
    assert list(outputs) == ["y"]
    np.testing.assert_array_equal(outputs["y"], 2 * x)


def test_only_the_outputs_asked_for(runtime):
    model = one_node("Relu")
    model.graph.node.append(helper.make_node("Neg", ["y"], ["w"]))
    model.graph.output.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, ["N", 2]))
    session = runtime.session(model.SerializeToString())
    x = np.array([[1, -1]], np.float32)
    assert list(session.run({"x": x}, ["w"])) == ["w"]
    assert list(session.run({"x": x})) == ["y", "w"]
    np.testing.assert_array_equal(session.run({"x": x}, ["w"])["w"], [[-1, 0]])


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


def test_strings(runtime):
    session = runtime.session(one_node("Identity", TensorProto.STRING).SerializeToString())
    x = np.array([["a", "b"]], object)
    assert session.run({"x": x})["y"].tolist() == [["a", "b"]]


def test_files_and_external_data(runtime, tmp_path):
    weight = np.arange(4, dtype=np.float32).reshape(2, 2)
    model = one_node("MatMul", inputs=2)
    model.graph.input.pop()
    model.graph.initializer.append(numpy_helper.from_array(weight, "z"))
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


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (b"", "cannot load the model: No graph"),
        (b"no model", "cannot load the model: .*protobuf"),
        ("no/such.onnx", r"no/such\.onnx does not exist"),
        (one_node("Foo", domain="bar").SerializeToString(), "bar:Foo.*not a registered.*custom_ops"),
        (one_node("Cos", TensorProto.BFLOAT16).SerializeToString(), "cannot load the model: .*"),
    ],
)
def test_models_that_cannot_be_loaded(runtime, model, message):
    with pytest.raises(ModelError, match=message) as caught:
        runtime.session(model)
    assert "\n" not in str(caught.value)
    assert "ONNXRuntimeError" not in str(caught.value)


def test_feeds_that_do_not_fit(runtime):
    session = runtime.session(one_node("Relu").SerializeToString())
    x = np.ones((1, 2), np.float32)
    for feed in ({}, {"x": x, "w": x}, {"x": x[:, :1]}, {"x": x.astype(np.float64)}):
        with pytest.raises(DataError, match="cannot run the model"):
            session.run(feed)
    with pytest.raises(DataError, match="cannot run the model"):
        session.time({"x": x[:, :1]}, 1)


def test_sequence_inputs_are_refused(runtime):
    sequence = helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, None)
    graph = helper.make_graph(
        [helper.make_node("SequenceLength", ["x"], ["y"])],
        "g",
        [sequence],
        [helper.make_tensor_value_info("y", TensorProto.INT64, [])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(ModelError, match="input 'x' is a seq"):
        runtime.session(model.SerializeToString())


def test_specs_of_runtimes():
    for spec in ("onnxruntime:CPUExecutionProvider", "onnxruntime:cpu", "onnxruntime:CPU", "onnxruntime"):
        assert open_runtime(spec).environment()["provider"] == "CPUExecutionProvider"
    assert open_runtime("onnxruntime").threads == usable_cores() >= 1
    assert open_runtime("onnxruntime", threads=3).environment()["threads"] == 3


@pytest.mark.parametrize(
    ("spec", "threads", "message"),
    [
        ("onnxruntime:NoProvider", None, r"no provider 'NoProvider' here; available: .*CPUExecutionProvider"),
        ("tensorflow", None, "unknown runtime 'tensorflow'"),
        ("", None, "unknown runtime ''"),
        ("onnxruntime", 0, "threads=0"),
    ],
)  # fmt: skip
def test_bad_specs(spec, threads, message):
    with pytest.raises(OptionError, match=message):
        open_runtime(spec, threads)


def test_bad_custom_op_libraries(tmp_path):
    with pytest.raises(OptionError, match=r"'no/such\.so' does not exist"):
        open_runtime(custom_ops=("no/such.so",))
    library = tmp_path / "broken.so"
    library.write_bytes(b"no library")
    runtime = open_runtime(custom_ops=(str(library),))
    with pytest.raises(OptionError, match=r"cannot load custom operators .*broken\.so"):
        runtime.session(one_node("Relu").SerializeToString())


def test_without_onnxruntime(monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name == "onnxruntime":
            raise ModuleNotFoundError("No module named 'onnxruntime'", name="onnxruntime")
        return real(name, *rest)

    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingRuntimeError, match=r"install obs-onnx\[cpu\]"):
        open_runtime("onnxruntime")


def test_half_an_installation(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", type(sys)("onnxruntime"))
    with pytest.raises(MissingRuntimeError, match="broken"):
        open_runtime("onnxruntime")


def test_first_line():
    assert (
        first_line(RuntimeError("[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : no kernel\nat file.cc"))
        == "no kernel"
    )
    assert first_line(ValueError()) == "ValueError"


def test_two_sessions_give_identical_bits(runtime):
    weight = np.random.default_rng(0).standard_normal((2, 2)).astype(np.float32)
    model = one_node("MatMul", inputs=2)
    model.graph.input.pop()
    model.graph.initializer.append(numpy_helper.from_array(weight, "z"))
    x = np.random.default_rng(1).standard_normal((50, 2)).astype(np.float32)
    first, second = (runtime.session(model.SerializeToString()).run({"x": x})["y"] for _ in range(2))
    assert first.tobytes() == second.tobytes()


def test_outputs_of_other_sizes_in_every_run_are_timed(runtime):
    text = """g (float[N] x) => (int64[1,K] y) {
        r = RandomUniformLike(x)  b = Greater(r, half)  y = NonZero(b) }"""
    session = runtime.session(nets.build_model(text, {"half": np.float32(0.5)}).SerializeToString())
    assert len(session.time({"x": np.zeros(1000, np.float32)}, 20)) == 20


def test_runs_side_by_side_share_the_cores():
    runtime = open_runtime("onnxruntime", threads=5)
    other, count = abreast(runtime)
    assert (count, other.threads, runtime.threads) == (2, 2, 5)
    alone = open_runtime("onnxruntime", threads=1)
    assert abreast(alone) == (alone, 1)
    elsewhere = FormulaRuntime(len)
    assert abreast(elsewhere) == (elsewhere, 1)
