"""Graphs of one layer whose weight is stored as integers, in every form that runtimes know."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from obs_onnx.passes.traits.linear import packed

__all__ = ["FORMS", "Form", "graph", "quantized"]

O, I, K = 6, 64, 3  # noqa: E741 - outputs, inputs, kernel

_TYPES: dict[str, Any] = {
    "int8": np.int8,
    "uint8": np.uint8,
    "int4": ml_dtypes.int4,
    "uint4": ml_dtypes.uint4,
    "int16": np.int16,
}
_LIMITS = {"int8": (-128, 127), "uint8": (0, 255), "int4": (-8, 7), "uint4": (0, 15), "int16": (-999, 999)}


class Form(NamedTuple):
    """A layer and how its weight is stored.

    Attributes:
        op: Conv, MatMul, Gemm or MatMulNBits.
        kind: type of the integers.
        axis: that scales lie along; None: one for all.
        block: places that share a scale; 0: each has one of its own.
        zeros: whether there are zero points.
        behind: a view between numbers and layer: ``Transpose``, ``Reshape`` or nothing.
        by: how the numbers come from integers: DequantizeLinear, or Cast and Mul.
    """

    op: str
    kind: str
    axis: int | None = None
    block: int = 0
    zeros: bool = False
    behind: str = ""
    by: str = "DequantizeLinear"

    def __str__(self) -> str:
        """For the names of tests."""
        parts = (self.op, self.kind, self.axis, self.block, self.zeros, self.behind, self.by)
        return "-".join(str(part) for part in parts if part not in ("", None))


FORMS = [
    Form("Conv", "int8"),
    Form("Conv", "int8", 0),
    Form("Conv", "uint8", 0, zeros=True),
    Form("Conv", "uint8", None, zeros=True),
    Form("Conv", "int4", 0),
    Form("Conv", "int8", 1, 32),
    Form("Conv", "uint8", 0, zeros=True, by="Cast"),
    Form("MatMul", "int8"),
    Form("MatMul", "int8", 1),
    Form("MatMul", "int8", 0),
    Form("MatMul", "int16", 1),
    Form("MatMul", "uint4", 0, 32, zeros=True),
    Form("MatMul", "int4", 0, 16),
    Form("MatMul", "int8", 0, behind="Transpose"),
    Form("MatMul", "uint4", 1, 32, zeros=True, behind="Transpose"),
    Form("MatMul", "int8", 1, behind="Reshape"),
    Form("MatMul", "int8", 1, by="Cast"),
    Form("MatMul", "int8", 0, behind="Transpose", by="Cast"),
    Form("MatMul", "uint8", 1, zeros=True, by="Cast"),
    Form("Gemm", "int8", 0),
    Form("Gemm", "uint8", 0, zeros=True),
    Form("MatMulNBits", "uint4", 1, 32),
    Form("MatMulNBits", "uint4", 1, 32, zeros=True),
    Form("MatMulNBits", "uint8", 1, 16, zeros=True),
]


def _shape(form: Form) -> tuple[int, ...]:
    if form.op == "Conv":
        return (O, I, K, K)
    outputs_first = form.op in ("Gemm", "MatMulNBits") or form.behind == "Transpose"
    return (O, I) if outputs_first else (I, O)


def _grid(form: Form, shape: tuple[int, ...]) -> tuple[int, ...]:
    if form.axis is None:
        return (1,) * len(shape)
    if not form.block:
        return tuple(n if axis == form.axis else 1 for axis, n in enumerate(shape))
    return tuple(-(-n // form.block) if axis == form.axis else n for axis, n in enumerate(shape))


def graph(form: Form, seed: int = 0) -> onnx.ModelProto:
    """A model with input ``x`` and output ``y``: a layer of 64 inputs and 6 outputs with such a weight."""
    rng = np.random.default_rng(seed)
    shape = _shape(form)
    grid = _grid(form, shape)
    low, high = _LIMITS[form.kind]
    q = rng.integers(low, high + 1, shape)
    scale = rng.uniform(0.01, 0.02, grid).astype(np.float32)
    zero = rng.integers(low // 2, high // 2 + 1, grid) if form.zeros else None
    x = ["N", I, 5, 5] if form.op == "Conv" else ["N", I]
    y = ["N", O, 3, 3] if form.op == "Conv" else ["N", O]
    if form.op == "MatMulNBits":
        nodes, tensors = _bits(form, q, scale, zero)
    else:
        nodes, tensors = _scaled(form, q, scale, zero)
        if form.op == "Gemm":
            nodes.append(
                helper.make_node("Gemm", ["x", "w", "bias"], ["y"], name="layer", transB=1, alpha=0.5)
            )
            tensors["bias"] = rng.standard_normal(O).astype(np.float32)
        else:
            nodes.append(helper.make_node(form.op, ["x", "w"], ["y"], name="layer"))
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, y)],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    domains = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(made, opset_imports=domains, ir_version=10)


def _scaled(
    form: Form, q: np.ndarray, scale: np.ndarray, zero: np.ndarray | None
) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    kind = _TYPES[form.kind]
    tensors: dict[str, np.ndarray] = {"q": q.astype(kind)}
    flat = not form.block
    end = "v" if form.behind else "w"
    if form.by == "DequantizeLinear":
        tensors["s"] = scale.reshape(-1) if flat and form.axis is not None else scale
        if form.axis is None:
            tensors["s"] = scale.reshape(())
        if zero is not None:
            tensors["z"] = zero.astype(kind).reshape(tensors["s"].shape)
        more: Mapping[str, Any] = {} if form.axis is None else {"axis": form.axis}
        if form.block:
            more = {**more, "block_size": form.block}
        inputs = ["q", "s", *(["z"] if zero is not None else [])]
        nodes = [helper.make_node("DequantizeLinear", inputs, [end], name="numbers", **more)]
    else:
        tensors["s"], numbers = scale, "f"
        nodes = [helper.make_node("Cast", ["q"], ["f"], name="cast", to=TensorProto.FLOAT)]
        if zero is not None:
            tensors["z"], numbers = zero.astype(np.float32), "d"
            nodes.append(helper.make_node("Sub", ["f", "z"], ["d"], name="shift"))
        nodes.append(helper.make_node("Mul", [numbers, "s"], [end], name="numbers"))
    if form.behind == "Transpose":
        nodes.append(helper.make_node("Transpose", ["v"], ["w"], name="turn", perm=[1, 0]))
    if form.behind == "Reshape":
        tensors["q"] = tensors["q"].reshape(I // 2, 2, O)
        index = next(i for i, one in enumerate(nodes) if one.name == "numbers")
        nodes[index].attribute[0].i = 2
        tensors["size"] = np.array([I, O])
        nodes.append(helper.make_node("Reshape", ["v", "size"], ["w"], name="turn"))
    return nodes, tensors


def _bits(
    form: Form, q: np.ndarray, scale: np.ndarray, zero: np.ndarray | None
) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    bits = int(form.kind[4:])
    blocks = q.reshape(O, -1, form.block).astype(np.uint8)
    tensors = {"q": packed(blocks, bits), "s": scale}
    if zero is not None:
        tensors["z"] = packed(zero.astype(np.uint8), bits)
    node = helper.make_node(
        "MatMulNBits",
        ["x", *tensors],
        ["y"],
        name="layer",
        domain="com.microsoft",
        K=I,
        N=O,
        bits=bits,
        block_size=form.block,
    )
    return [node], tensors


def quantized(
    proto: onnx.ModelProto,
    x: np.ndarray,
    folder: Path,
    *,
    per_channel: bool = True,
    weight: str = "QInt8",
    symmetric: bool = True,
) -> onnx.ModelProto:
    """``proto`` in QDQ, as onnxruntime writes it, calibrated with ``x`` for its only input."""
    from onnxruntime import quantization

    name = proto.graph.input[0].name

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter([{name: x}])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.left, None)

    source, prepared, written = (folder / f"{stem}.onnx" for stem in ("float", "prepared", "qdq"))
    onnx.save(proto, source)
    quantization.shape_inference.quant_pre_process(source, prepared)
    quantization.quantize_static(
        prepared,
        written,
        Reader(),
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=per_channel,
        weight_type=quantization.QuantType[weight],
        activation_type=quantization.QuantType.QUInt8,
        extra_options={"WeightSymmetric": symmetric},
    )
    return onnx.load(written)
