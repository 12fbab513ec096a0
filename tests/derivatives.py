"""Finite differences in float64 for gradients and Hessian-vector products of one operator."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from float64 import double, evaluator
from nets import run_proto
from onnx import helper, numpy_helper

from obs_onnx.passes.autodiff.gradient import Gradient, HessianVectorProduct
from obs_onnx.passes.canonical.canonicalize import canonicalize
from obs_onnx.passes.canonical.plainer.decompose import Decompose
from obs_onnx.passes.shapes.infer_shapes import InferShapes

__all__ = ["against_differences", "check", "check_model", "first_of", "operator"]


def operator(
    op_type,
    inputs,
    wrt,
    *,
    opset=18,
    outputs=1,
    domain="",
    symbolic=False,
    kind=np.float64,
    weights=None,
    **attributes,
):
    """A model with the loss ``sum of r y^2`` over the outputs y of one node, r random.

    Args:
        op_type: the operator; its inputs are ``x0``, ``x1`` ...
        inputs: one array (or None) for each input.
        wrt: positions of the inputs that stay inputs of the model; the others are initializers.
        opset: of the default domain.
        outputs: how many outputs the node has, or names, of which an empty one is left out.
        domain: of the operator.
        symbolic: whether the axes of the inputs have symbols in place of numbers.
        kind: type of all floats.
        weights: the arrays r.
        attributes: of the node.
    """
    names = [f"x{i}" if x is not None else "" for i, x in enumerate(inputs)]
    dtype = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    results = [f"y{k}" for k in range(outputs)] if isinstance(outputs, int) else outputs
    nodes = [helper.make_node(op_type, names, results, name="node", domain=domain, **attributes)]
    held, terms = [], []
    for name in filter(None, results):
        r = np.asarray(weights[name])
        held.append(_tensor(r, f"r_{name}", kind))
        nodes += [
            helper.make_node("Mul", [name, name], [f"{name}_squared"]),
            helper.make_node("Mul", [f"{name}_squared", f"r_{name}"], [f"{name}_weighted"]),
            helper.make_node("ReduceSum", [f"{name}_weighted"], [f"{name}_sum"], keepdims=0),
        ]
        terms.append(f"{name}_sum")
    nodes.append(helper.make_node("Sum", terms, ["loss"]))
    held += [_tensor(x, f"x{i}", kind) for i, x in enumerate(inputs) if x is not None and i not in wrt]
    shapes = {i: [f"n{i}_{k}" for k in range(inputs[i].ndim)] if symbolic else inputs[i].shape for i in wrt}
    graph = helper.make_graph(
        nodes,
        "one_node",
        [helper.make_tensor_value_info(f"x{i}", dtype, shapes[i]) for i in wrt],
        [helper.make_tensor_value_info("loss", dtype, [])],
        held,
        value_info=[
            helper.make_tensor_value_info(name, dtype, weights[name].shape)
            for name in filter(None, results)
            if domain and not symbolic
        ],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def _tensor(array, name, kind):
    array = np.asarray(array)
    scales = array.dtype == np.float32  # of Resize, in single precision always
    return numpy_helper.from_array(
        array.astype(kind) if array.dtype.kind == "f" and not scales else array, name
    )


def check(op_type, inputs, wrt=(0,), *, seed=0, step=1e-5, tolerance=1e-6, **options):
    """Assert that gradients and Hessian-vector products are those of central differences, H symmetric.

    Args:
        op_type: the operator.
        inputs: one array (or None) for each input, floats in float64.
        wrt: positions of the inputs to differentiate.
        seed: of the directions and of the loss.
        step: of the differences.
        tolerance: largest error, relative to the value or to one.
        options: see :func:`operator`.
    """
    rng = np.random.default_rng(seed)
    results = options.get("outputs", 1)
    results = [f"y{k}" for k in range(results)] if isinstance(results, int) else results
    probe = operator(op_type, inputs, wrt, weights=dict.fromkeys(results, np.array(1.0)), **options)
    feeds = {f"x{i}": np.asarray(inputs[i]) for i in wrt}
    weights = {
        name: rng.uniform(0.5, 1.5, value.shape) for name, value in _run_node(probe, feeds, results).items()
    }
    proto = operator(op_type, inputs, wrt, weights=weights, **options)
    check_model(proto, feeds, [f"x{i}" for i in wrt], rng=rng, step=step, tolerance=tolerance)


def check_model(proto, feeds, names, *, rng=None, step=1e-5, tolerance=1e-6, symmetry=1e-9):
    """The same for a whole model with a scalar output ``loss`` in float64.

    Args:
        proto: the model.
        feeds: all inputs.
        names: of the inputs to differentiate.
        rng: of the directions.
        step: of the differences.
        tolerance: largest error, relative to the value or to one.
        symmetry: the same for u H v = v H u.
    """
    rng = np.random.default_rng(0) if rng is None else rng
    model = canonicalize(ir.from_proto(proto))
    Decompose().call(model)
    InferShapes().call(model)
    HessianVectorProduct("loss", names).call(model)
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto)
    run = evaluator(double(proto))
    keys = [output.name for output in model.graph.outputs]

    def at(point, v):
        directions = {f"{n}.v": a for n, a in v.items()}
        found = dict(zip(keys, run.run(None, {**feeds, **point, **directions}), strict=True))
        grads = {n: found[f"{n}.grad"] for n in names}
        for n in names:
            assert grads[n].shape == found[f"{n}.hvp"].shape == feeds[n].shape
        return found["loss"], grads, {n: found[f"{n}.hvp"] for n in names}

    u, v = ({n: rng.standard_normal(feeds[n].shape) for n in names} for _ in range(2))
    _, grads, products = at(feeds, v)
    _, _, others = at(feeds, u)
    above = at({n: feeds[n] + step * v[n] for n in names}, v)
    below = at({n: feeds[n] - step * v[n] for n in names}, v)
    _close((above[0] - below[0]) / (2 * step), _dot(grads, v), tolerance)
    for n in names:
        _close((above[1][n] - below[1][n]) / (2 * step), products[n], tolerance)
    _close(_dot(products, u), _dot(others, v), symmetry)


def _run_node(probe, feeds, results):
    probe = double(probe)
    del probe.graph.node[1:]
    del probe.graph.output[:]
    probe.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in filter(None, results))
    found = evaluator(probe).run(None, feeds)
    return dict(zip(filter(None, results), found, strict=True))


def _dot(a, b):
    return sum(float(np.vdot(a[name], b[name])) for name in a)


def _close(a, b, tolerance):
    scale = max(1.0, float(np.abs(b).max(initial=0.0)))
    assert np.abs(np.asarray(a) - b).max(initial=0.0) <= tolerance * scale, (a, b)


def against_differences(proto, inputs, wrt):
    """Central differences, extrapolated to a step of zero, of onnxruntime's own kernel in float32."""
    model, rng = canonicalize(ir.from_proto(proto)), np.random.default_rng(5)
    Gradient("loss", [f"x{i}" for i in wrt]).call(model)
    feeds = {f"x{i}": inputs[i].astype(np.float32) for i in wrt}
    found = run_proto(ir.to_proto(model), feeds)
    for i in wrt:
        v = rng.standard_normal(inputs[i].shape).astype(np.float32)
        slopes = []
        for step in (1e-2, 2e-2):
            moved = [run_proto(proto, {**feeds, f"x{i}": feeds[f"x{i}"] + s * v}) for s in (step, -step)]
            slopes.append((float(moved[0]["loss"]) - float(moved[1]["loss"])) / (2 * step))
        difference = (4 * slopes[0] - slopes[1]) / 3
        assert float(np.vdot(found[f"x{i}.grad"], v)) == pytest.approx(difference, rel=5e-3, abs=1e-2)


def first_of(op_type, inputs, wrt, shape, outputs=("y0",), **attributes):
    """A model whose loss is about the first output of a node of onnxruntime alone, of this shape."""
    rng = np.random.default_rng(7)
    weights = {name: rng.uniform(0.5, 1.5, shape if name == "y0" else ()) for name in outputs}
    given = {"domain": "com.microsoft", "kind": np.float32, **attributes}
    proto = operator(op_type, inputs, wrt, weights=weights, outputs=list(outputs), **given)
    total = next(node for node in proto.graph.node if node.op_type == "Sum")
    total.input[:] = ["y0_sum"]
    others = tuple(f"{name}_" for name in outputs[1:])
    kept = [n for n in proto.graph.node if not (others and n.output[0].startswith(others))]
    del proto.graph.node[:], proto.graph.value_info[1:]
    proto.graph.node.extend(kept)
    return proto
