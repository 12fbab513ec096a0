"""Derivatives of recurrent operators, and the written-out steps against onnxruntime's kernels."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from derivatives import check, operator
from nets import run_proto

from obs_onnx.passes.autodiff.gradient import Gradient
from obs_onnx.passes.canonical.canonicalize import canonicalize
from obs_onnx.passes.errors import GradientError

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def operands(op_type, directions=1, steps=3, batch=2, size=3, hidden=2, layout=0):
    rng = np.random.default_rng(3)
    rows = GATES[op_type] * hidden
    state = (batch, directions, hidden) if layout else (directions, batch, hidden)
    found = [
        rng.standard_normal((batch, steps, size) if layout else (steps, batch, size)),
        rng.standard_normal((directions, rows, size)),
        rng.standard_normal((directions, rows, hidden)),
        rng.standard_normal((directions, 2 * rows)),
        None,
        rng.standard_normal(state),
    ]
    if op_type == "LSTM":
        found += [rng.standard_normal(state), rng.standard_normal((directions, 3 * hidden))]
    return found


CASES = [
    ("LSTM", "forward", {}),
    ("LSTM", "bidirectional", {}),
    ("GRU", "reverse", {"linear_before_reset": 0}),
    ("GRU", "bidirectional", {"linear_before_reset": 1}),
    ("RNN", "bidirectional", {}),
]


@pytest.mark.parametrize("length", ["fixed", "symbolic", "different"])
@pytest.mark.parametrize(("op_type", "direction", "attributes"), CASES)
def test_gradient_on_onnxruntime(op_type, direction, attributes, length):
    """Central differences of onnxruntime's own kernel, in single precision."""
    inputs = operands(op_type, 2 if direction == "bidirectional" else 1)
    wrt = [i for i, x in enumerate(inputs) if x is not None]
    if length == "different":
        inputs[4] = np.array([1, 3], np.int32)
    outputs = ["y0", "y1", "y2"][: 3 if op_type == "LSTM" else 2]
    shape = (3, 2 if direction == "bidirectional" else 1, 2, 2)
    rng = np.random.default_rng(0)
    weights = {name: rng.uniform(0.5, 1.5, shape if name == "y0" else shape[1:]) for name in outputs}
    options = {"hidden_size": 2, "direction": direction, **attributes}
    proto = operator(op_type, inputs, wrt, outputs=outputs, weights=weights, kind=np.float32, **options)
    if length == "symbolic":
        for axis, dim in enumerate(proto.graph.input[0].type.tensor_type.shape.dim[:2]):
            dim.dim_param = "TN"[axis]
    model = canonicalize(ir.from_proto(proto))
    Gradient("loss", [f"x{i}" for i in wrt]).call(model)
    scans = sum(node.op_type == "Scan" for node in model.graph)
    assert scans == (0 if length == "fixed" else 4 if direction == "bidirectional" else 2)
    feeds = {f"x{i}": inputs[i].astype(np.float32) for i in wrt}
    found = run_proto(ir.to_proto(model), feeds)
    for i in wrt:
        v = rng.standard_normal(inputs[i].shape).astype(np.float32)
        moved = [run_proto(proto, {**feeds, f"x{i}": feeds[f"x{i}"] + s * v})["loss"] for s in (1e-2, -1e-2)]
        difference = (float(moved[0]) - float(moved[1])) / 2e-2
        assert float(np.vdot(found[f"x{i}.grad"], v)) == pytest.approx(difference, rel=5e-3, abs=5e-3)


@pytest.mark.parametrize("opset", [11, 14])
def test_second_derivative(opset):
    check("GRU", operands("GRU")[:4], (0, 1, 2, 3), opset=opset, outputs=["", "y1"], hidden_size=2)


def test_second_derivative_of_many_steps():
    """They are a Scan, whose way back is differentiated once more."""
    check("GRU", operands("GRU", steps=17)[:4], (0, 1, 2, 3), outputs=["", "y1"], hidden_size=2)


def test_a_state_of_unknown_size_is_an_error():
    proto = operator(
        "RNN", operands("RNN")[:3], (2,), symbolic=True, weights={"y0": np.ones(())}, hidden_size=2
    )
    model = canonicalize(ir.from_proto(proto))
    with pytest.raises(GradientError, match="size of its state"):
        Gradient("loss", ["x2"]).call(model)
