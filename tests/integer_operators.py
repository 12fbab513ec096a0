"""Graphs of one layer that computes in integers, in every form that onnxruntime has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

__all__ = ["CASES", "Case", "graph", "outputs", "reference"]

O, I = 6, 5  # noqa: E741 - outputs, inputs


class Case(NamedTuple):
    """A layer.

    Attributes:
        op_type: its operator.
        domain: of it.
        kind: type of the weight.
        axes: whether each output has a scale of its own.
        bias: whether there is one.
        given: attributes.
    """

    op_type: str
    domain: str = ""
    kind: type = np.int8
    axes: bool = True
    bias: bool = True
    given: Mapping[str, Any] = {}

    def __str__(self) -> str:
        """For the names of tests."""
        parts = (self.domain, self.op_type, self.kind.__name__, self.axes, self.bias, *self.given)
        return "-".join(str(part) for part in parts if part != "")

    @property
    def is_conv(self) -> bool:
        """Whether it slides."""
        return "Conv" in self.op_type


OWN = "com.microsoft"
CASES = [
    Case("QLinearConv"),
    Case("QLinearConv", OWN, axes=False, bias=False),
    Case("QLinearConv", kind=np.uint8, axes=False),
    Case("QLinearConv", kind=np.uint8, given={"pads": [1] * 4}),
    Case("QLinearMatMul", bias=False),
    Case("QLinearMatMul", kind=np.uint8, axes=False, bias=False),
    Case("QGemm", OWN, given={"transB": 1}),
    Case("QGemm", OWN, kind=np.uint8, axes=False, given={"float": 1}),
    Case("QGemm", OWN, bias=False),
    Case("ConvInteger", kind=np.uint8, axes=False),
    Case("ConvInteger", kind=np.uint8),
    Case("ConvInteger", bias=False, axes=False),
    Case("MatMulInteger", kind=np.uint8),
    Case("MatMulInteger", bias=False, axes=False),
    Case("MatMulIntegerToFloat", OWN),
    Case("MatMulIntegerToFloat", OWN, kind=np.uint8, axes=False, bias=False),
    Case("DynamicQuantizeMatMul", OWN, kind=np.uint8),
    Case("DynamicQuantizeMatMul", OWN, bias=False, axes=False),
]


def held(case: Case) -> dict[str, np.ndarray]:
    """Constants: scales and zero points of input (s, z), weight (ws, wz) and result (t, u), weight, bias."""
    rng = np.random.default_rng(7)
    n, info = O if case.axes else 1, np.iinfo(case.kind)
    shape = (O, I, 3, 3) if case.is_conv else (O, I) if case.given.get("transB") else (I, O)
    single = case.op_type == "QLinearConv" and case.kind is np.uint8 and case.axes
    zeros = np.full(n, 120) if single else rng.integers(110, 140, n) if case.kind is np.uint8 else np.zeros(n)
    found = {
        "s": np.float32(0.03), "z": np.uint8(121), "t": np.float32(0.4), "u": np.uint8(100),
        "w": rng.integers(info.min, info.max + 1, shape).astype(case.kind),
        "ws": rng.uniform(0.005, 0.02, n).astype(np.float32),
        "wz": zeros.astype(case.kind),
        "b": rng.integers(-4000, 4000, O).astype(np.int32),
    }  # fmt: skip
    if not case.axes:
        found |= {name: found[name][0] for name in ("ws", "wz")}
    if case.op_type == "ConvInteger" and case.axes:  # the one that onnxruntime takes
        found["wz"] = np.uint8(128)
    if case.op_type not in ("QLinearConv", "QGemm"):
        found["b"] = rng.standard_normal(O).astype(np.float32)
    return found


def graph(case: Case) -> onnx.ModelProto:
    """From ``x`` of numbers to ``y`` of numbers."""
    there, made = held(case), case.op_type
    ranged = "Integer" in made
    nodes = [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"])]
    if ranged:
        nodes = [helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"])]
    given = {name: value for name, value in case.given.items() if name != "float"}
    whole, last = not case.given.get("float"), "e"
    if made in ("QLinearConv", "QLinearMatMul"):
        inputs = ["q", "s", "z", "w", "ws", "wz", "t", "u"] + ["b"] * case.bias
    elif made == "QGemm":
        inputs = ["q", "s", "z", "w", "ws", "wz", "b" if case.bias else "", *(["t", "u"] if whole else [])]
    elif made == "MatMulIntegerToFloat":
        inputs = ["q", "w", "s", "ws", "z", "wz"] + ["b"] * case.bias
    elif made == "DynamicQuantizeMatMul":
        nodes, inputs = [], ["x", "w", "ws", "wz"] + ["b"] * case.bias
    else:
        inputs = ["q", "w", "z", "wz"]
    nodes.append(helper.make_node(made, inputs, [last], name="layer", domain=case.domain, **given))
    if made in ("ConvInteger", "MatMulInteger"):
        there["ws"] = there["ws"].reshape(-1, 1, 1) if case.is_conv and case.axes else there["ws"]
        there["b"] = there["b"].reshape(1, -1, 1, 1) if case.is_conv else there["b"]
        nodes += [
            helper.make_node("Cast", ["e"], ["f"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["s", "ws"], ["m"]),
            helper.make_node("Mul", ["f", "m"], ["g"]),
            *([helper.make_node("Add", ["g", "b"], ["h"])] if case.bias else []),
        ]
        last = "h" if case.bias else "g"
    elif made.startswith("QLinear") or (made == "QGemm" and whole):
        nodes.append(helper.make_node("DequantizeLinear", ["e", "t", "u"], ["d"]))
        last = "d"
    nodes.append(helper.make_node("Relu", [last], ["y"]))
    used = {name for node in nodes for name in node.input}
    dims = (["N", I, 6, 6], ["N", O, None, None]) if case.is_conv else (["N", I], ["N", O])
    body = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, dims[0])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, dims[1])],
        [
            numpy_helper.from_array(np.asarray(array), name)
            for name, array in there.items()
            if name in used and not (ranged and name in ("s", "z"))
        ],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(OWN, 1)]
    return helper.make_model(body, opset_imports=opsets, ir_version=8)


def reference(case: Case) -> tuple[np.ndarray, np.ndarray | None]:
    """The weight and the bias as numbers, by hand."""
    there = held(case)
    axis = 0 if case.is_conv or case.given.get("transB") else 1
    shape = [-1 if k == axis else 1 for k in range(there["w"].ndim)]
    scale, zero = (np.asarray(there[name], np.float64).reshape(-1) for name in ("ws", "wz"))
    w = (there["w"] - zero.reshape(shape)) * scale.reshape(shape)
    if not case.bias:
        return w, None
    b = there["b"].astype(np.float64)
    return w, b * scale * np.float64(there["s"]) if there["b"].dtype == np.int32 else b


def outputs(proto: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    """What onnxruntime gives."""
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]
