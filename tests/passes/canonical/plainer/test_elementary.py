"""Operators in terms of plainer ones: the same numbers on onnxruntime."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from nets import build_model, run_proto

from obs_onnx.passes.canonical.canonicalize import plain
from obs_onnx.passes.canonical.plainer.elementary import Elementary
from obs_onnx.passes.errors import GradientError
from obs_onnx.passes.shapes.infer_shapes import InferShapes

RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def written_out(text: str, x: np.ndarray, tensors=None, opset: int = 18) -> list[str]:
    """Operators after the pass, which must compute the same."""
    proto = build_model(text, tensors, opset=opset)
    model = plain(ir.from_proto(proto))
    InferShapes().call(model)
    Elementary().call(model)
    found, expected = run_proto(ir.to_proto(model), {"x": x}), run_proto(proto, {"x": x})
    assert set(found) == set(expected)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-5)
    return [node.op_type for node in model.graph]


@given(
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilations=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    pads=st.tuples(*[st.integers(0, 2)] * 4),
    auto_pad=st.sampled_from(["NOTSET", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]),
    counts=st.booleans(),
)
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_average_pooling(kernel, strides, dilations, pads, auto_pad, counts) -> None:
    assume(all(p < k for p, k in zip(pads, [*kernel, *kernel], strict=True)))  # onnxruntime insists on it
    assume(auto_pad == "NOTSET" or dilations == (1, 1))
    where = f"pads = [{','.join(map(str, pads))}]" if auto_pad == "NOTSET" else f'auto_pad = "{auto_pad}"'
    text = f"""g (float[N,3,7,6] x) => (float[N,3,A,B] y) {{
        y = AveragePool <kernel_shape = [{kernel[0]}, {kernel[1]}], strides = [{strides[0]}, {strides[1]}],
            dilations = [{dilations[0]}, {dilations[1]}], {where}, count_include_pad = {int(counts)}> (x)
    }}"""
    assert "AveragePool" not in written_out(text, normal(2, 3, 7, 6), opset=19)


@pytest.mark.parametrize("auto_pad", ["VALID", "SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("op_type", ["Conv", "MaxPool"])
def test_automatic_padding_becomes_numbers(auto_pad: str, stride: int, op_type: str) -> None:
    more = "kernel_shape = [3, 3]," if op_type == "MaxPool" else ""
    call = "MaxPool <{}> (x)" if op_type == "MaxPool" else "Conv <{}> (x, w)"
    attributes = f'{more} auto_pad = "{auto_pad}", strides = [{stride}, {stride}]'
    text = f"g (float[N,3,7,6] x) => (float[N,3,A,B] y) {{ y = {call.format(attributes)} }}"
    tensors = {"w": normal(3, 3, 3, 3)} if op_type == "Conv" else {}
    assert written_out(text, normal(2, 3, 7, 6), tensors) == [op_type]


def test_batch_normalization_with_stored_statistics() -> None:
    text = """g (float[N,3,5] x) => (float[N,3,5] y) {
        y = BatchNormalization <epsilon = 0.1> (x, s, b, m, v)
    }"""
    tensors = {"s": normal(3), "b": normal(3), "m": normal(3), "v": np.abs(normal(3))}
    found = written_out(text, normal(4, 3, 5), tensors)
    assert "BatchNormalization" not in found
    assert set(found) <= {"Sub", "Mul", "Add", "Reshape"}


@pytest.mark.parametrize("shift", ["", ", b"])
@pytest.mark.parametrize("axis", [-1, 1])
def test_layer_normalization_gets_all_its_parts(shift: str, axis: int) -> None:
    shape = (5,) if axis == -1 else (3, 5)
    text = (
        f"g (float[N,3,5] x) => (float[N,3,5] y) {{ y = LayerNormalization <axis = {axis}> (x, s{shift}) }}"
    )
    tensors = {name: normal(*shape) for name in ("s", "b")}
    proto = build_model(text, tensors)
    model = plain(ir.from_proto(proto))
    InferShapes().call(model)
    assert Elementary().call(model).modified
    (node,) = model.graph
    assert (len(node.inputs), len(node.outputs)) == (3, 3)
    assert node.outputs[1].shape == ir.Shape([None, *((3, 1) if axis == -1 else (1, 1))])
    x = normal(2, 3, 5)
    found = run_proto(ir.to_proto(model), {"x": x})["y"]
    np.testing.assert_allclose(found, run_proto(proto, {"x": x})["y"], rtol=1e-5, atol=1e-6)
    assert not Elementary().call(model).modified


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ("y = AveragePool <kernel_shape = [2], ceil_mode = 1> (x)", "ceil_mode"),
        ('y = MaxPool <kernel_shape = [2], strides = [2], auto_pad = "SAME_UPPER"> (x)', "known at run time"),
        ("y = AveragePool <kernel_shape = [3], pads = [1, 1]> (x)", "known at run time"),
        ("n = Neg(m)  y = BatchNormalization (x, m, m, n, m)", "known at run time"),
        ("y, a, b = BatchNormalization <training_mode = 1> (x, m, m, m, m)", "training mode"),
    ],
)
def test_what_has_no_plainer_form_is_named(make_model, node: str, message: str) -> None:
    model = make_model(f"g (float[N,3,L] x) => (float[N,3,M] y) {{ {node} }}", {"m": np.ones(3, np.float32)})
    InferShapes().call(model)
    with pytest.raises(GradientError, match=message):
        Elementary().call(model)
