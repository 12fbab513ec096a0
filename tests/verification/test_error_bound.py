from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from obs_onnx.passes.canonical.canonicalize import canonicalize
from obs_onnx.passes.errors import VerificationError
from obs_onnx.passes.layers.find_layers import find_layers
from obs_onnx.passes.layers.layer import Layer
from obs_onnx.verification.error_bound import Bound, network_bound

ort = pytest.importorskip("onnxruntime")

Floats = NDArray[np.float32]


class Net:
    """A small model under construction: nodes are named after their first output."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, Floats] = {}

    def add(self, op_type: str, inputs: Sequence[str], output: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(op_type, inputs, [output], name=f"node_{output}", **attributes))
        return output

    def weight(self, name: str, *shape: int) -> str:
        scale = 1.0 / np.sqrt(np.prod(shape[1:]))
        self.weights[name] = (self.rng.normal(size=shape) * scale).astype(np.float32)
        return name

    def linear(self, x: str, output: str, inputs: int, outputs: int) -> str:
        parameters = [self.weight(f"{output}.w", outputs, inputs), self.weight(f"{output}.b", outputs)]
        return self.add("Gemm", [x, *parameters], output, transB=1)

    def conv(self, x: str, output: str, inputs: int, outputs: int, **attributes: object) -> str:
        parameters = [self.weight(f"{output}.w", outputs, inputs, 3, 3), self.weight(f"{output}.b", outputs)]
        return self.add("Conv", [x, *parameters], output, pads=[1, 1, 1, 1], **attributes)

    def build(
        self, x_shape: Sequence[int], outputs: Sequence[str], changed: Mapping[str, Floats] | None = None
    ) -> onnx.ModelProto:
        weights = self.weights | dict(changed or {})
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *x_shape])],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
            [numpy_helper.from_array(array, name) for name, array in weights.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        return onnx.shape_inference.infer_shapes(model, strict_mode=True)


def run(model: onnx.ModelProto, x: Floats, outputs: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    values = session.run(list(outputs), {"x": x})
    return {name: value.astype(np.float64) for name, value in zip(outputs, values, strict=True)}


def norm(value: NDArray[np.float64]) -> float:
    return float(np.linalg.norm(value))


def layer_errors(
    net: Net, layers: Sequence[Layer], changed: Mapping[str, Floats], x: Floats
) -> dict[str, float]:
    """Norms of what changes when every changed node gets the dense input of the original."""
    twins = Net(0)
    twins.nodes = list(net.nodes)
    twins.weights = net.weights | {f"{name}'": array for name, array in changed.items()}
    for node in net.nodes:
        if set(node.input) & set(changed):
            renamed = [
                f"{name}'" if name in changed or node.op_type == "Add" else name for name in node.input
            ]
            twins.add(node.op_type, renamed, f"{node.output[0]}'")
            twins.nodes[-1].attribute.extend(node.attribute)
    values = [use.y for layer in layers for use in layer.uses]
    outputs = [*values, *(f"{y}'" for y in values)]
    found = run(twins.build(x.shape[1:], outputs), x, outputs)
    moved = {y: found[f"{y}'"] - found[y] for y in values}
    return {
        layer.name: norm(np.concatenate([moved[use.y].ravel() for use in layer.uses])) for layer in layers
    }


def measure(net: Net, x_shape: Sequence[int], outputs: Sequence[str]) -> tuple[Bound, float]:
    """Change random weights and all biases of all layers; the bound and the relative error really made."""
    x = net.rng.normal(size=(16, *x_shape)).astype(np.float32)
    model = ir.from_proto(net.build(x_shape, outputs))
    layers, _ = find_layers(model)
    changed = {}
    for layer in layers:
        array = net.weights[layer.name]
        changed[layer.name] = np.where(net.rng.random(array.shape) < 0.6, 1.1 * array, 0).astype(np.float32)
        for use in layer.uses:
            if use.bias is not None:
                changed[use.bias] = (net.weights[use.bias] + 0.05).astype(np.float32)
    weights = {layer.name: layer.layout.to_matrix(changed[layer.name]) for layer in layers}
    before = run(net.build(x_shape, outputs), x, outputs)
    after = run(net.build(x_shape, outputs, changed), x, outputs)
    made = {name: norm(after[name] - before[name]) for name in outputs}
    reference = {name: norm(value) for name, value in before.items()}
    bound = network_bound(model, layers, layer_errors(net, layers, changed, x), weights, reference, made)
    return bound, float(np.sqrt(np.mean([(made[name] / reference[name]) ** 2 for name in outputs])))


def mlp(seed: int) -> tuple[Net, tuple[int, ...], list[str]]:
    net = Net(seed)
    value = "x"
    for index, (inputs, outputs) in enumerate([(12, 20), (20, 15), (15, 8), (8, 5)]):
        value = net.linear(value, f"fc{index}", inputs, outputs)
        if index < 3:
            value = net.add("Relu", [value], f"relu{index}")
    return net, (12,), [value]


def convnet(seed: int) -> tuple[Net, tuple[int, ...], list[str]]:
    net = Net(seed)
    value = net.add("Relu", [net.conv("x", "c0", 3, 6)], "r0")
    value = net.add("MaxPool", [value], "p0", kernel_shape=[2, 2], strides=[2, 2])
    value = net.add("Relu", [net.conv(value, "c1", 2, 6, group=3)], "r1")
    value = net.add("Relu", [net.conv(value, "c2", 6, 8, strides=[2, 2])], "r2")
    value = net.add("GlobalAveragePool", [value], "gap")
    value = net.add("Flatten", [value], "flat")
    return net, (3, 8, 8), [net.linear(value, "fc", 8, 5)]


def residual(seed: int) -> tuple[Net, tuple[int, ...], list[str]]:
    net = Net(seed)
    value = net.add("Relu", [net.conv("x", "stem", 2, 4)], "r")
    for block in range(2):
        inner = net.add("Relu", [net.conv(value, f"a{block}", 4, 4)], f"ra{block}")
        added = net.add("Add", [net.conv(inner, f"b{block}", 4, 4), value], f"sum{block}")
        value = net.add("Relu", [added], f"r{block}")
    value = net.add("Flatten", [net.add("GlobalAveragePool", [value], "gap")], "flat")
    return net, (2, 6, 6), [net.linear(value, "head0", 4, 3), net.linear(value, "head1", 4, 2)]


def shared(seed: int) -> tuple[Net, tuple[int, ...], list[str]]:
    net = Net(seed)
    net.weight("w", 6, 6)
    bias = net.weight("bias", 6)
    first = net.add("Relu", [net.add("MatMul", ["x", "w"], "m0")], "r0")
    second = net.add("Add", [net.add("MatMul", [first, "w"], "m1"), bias], "s1")
    return net, (4, 6), [net.add("Relu", [second], "r1")]


@pytest.mark.parametrize("make", [mlp, convnet, residual, shared])
@pytest.mark.parametrize("seed", range(4))
def test_the_error_made_stays_below_the_bound(
    make: Callable[[int], tuple[Net, tuple[int, ...], list[str]]], seed: int
) -> None:
    net, x_shape, outputs = make(seed)
    bound, made = measure(net, x_shape, outputs)
    assert bound.blocked_by == ()
    assert bound.spectral is not None
    assert bound.frobenius is not None
    assert 0.01 < made <= bound.spectral <= bound.frobenius


def lobs_theorem(layer_errors: Sequence[float], weight_norms: Sequence[float]) -> float:
    """Theorem 3.2 for a plain chain: bound of the absolute output error, first layer first."""
    return math.fsum(error * math.prod(weight_norms[index + 1 :]) for index, error in enumerate(layer_errors))


def test_on_a_chain_the_walk_is_the_closed_formula_of_the_paper() -> None:
    net, x_shape, outputs = mlp(5)
    model = ir.from_proto(net.build(x_shape, outputs))
    layers, _ = find_layers(model)
    pruned = {layer.name: 1.1 * layer.layout.to_matrix(net.weights[layer.name]) for layer in layers}
    errors = {layer.name: 0.1 * index + 0.3 for index, layer in enumerate(layers)}
    bound = network_bound(model, layers, errors, pruned, {outputs[0]: 2.0})
    own, w_OI = list(errors.values()), [w_GOI[0] for w_GOI in pruned.values()]
    assert len(own) == 4
    assert bound.frobenius == pytest.approx(lobs_theorem(own, [norm(w) for w in w_OI]) / 2.0, rel=1e-12)
    largest = [float(np.linalg.norm(w, 2)) for w in w_OI]
    assert bound.spectral == pytest.approx(lobs_theorem(own, largest) / 2.0, rel=1e-9)


def test_the_formula_of_the_paper_by_hand() -> None:
    assert lobs_theorem([1.0, 2.0, 3.0], [7.0, 5.0, 4.0]) == 1 * 5 * 4 + 2 * 4 + 3


def test_one_changed_layer_is_bounded_exactly_and_an_unaffected_output_does_not_move() -> None:
    net = Net(0)
    value = net.linear("x", "early", 4, 4)
    outputs = [net.linear(value, "late", 4, 3), value]
    model = ir.from_proto(net.build((4,), outputs))
    layers, _ = find_layers(model)
    norms = {"late": 2.0, "early": 1.0}
    bound = network_bound(model, layers, {"late.w": 0.5}, {}, norms)
    assert bound.spectral == pytest.approx(0.5 / 2.0)
    parts = network_bound(model, layers, {"late.w": 0.5}, {}, norms, scales={"late": 0.1})
    assert parts.spectral == pytest.approx(0.5 / 0.1)
    assert network_bound(model, layers, {"late.w": 0.5}, {}, {"early": 1.0}) == Bound(0.0, 0.0)
    passed_on = network_bound(model, layers, {"early.w": 0.5}, {}, {"late": 1.0})
    assert passed_on.spectral == pytest.approx(0.5 * np.linalg.norm(net.weights["late.w"], 2), rel=1e-6)
    assert passed_on.frobenius == pytest.approx(0.5 * np.linalg.norm(net.weights["late.w"]), rel=1e-6)
    assert network_bound(model, layers, {"late.w": 0.5}, {}, {"late": 0.0}) == Bound(None, None)


def test_an_unknown_operator_ends_the_proof_only_behind_itself() -> None:
    net = Net(0)
    net.add("Reciprocal", ["x"], "before")
    value = net.linear("before", "fc", 4, 4)
    net.add("Relu", [value], "safe")
    net.add("Reciprocal", [net.add("Exp", [value], "exp")], "unsafe")
    model = ir.from_proto(net.build((4,), ["safe", "unsafe"]))
    layers, _ = find_layers(model)
    found = network_bound(model, layers, {"fc.w": 1.0}, {}, {"safe": 2.0, "unsafe": 1.0})
    assert found == Bound(None, None, (("node_exp", "Exp"), ("node_unsafe", "Reciprocal")))
    assert network_bound(model, layers, {"fc.w": 1.0}, {}, {"safe": 2.0}) == Bound(0.5, 0.5)


def test_a_body_that_reads_a_changed_value_ends_the_proof() -> None:
    net = Net(0)
    value = net.linear("x", "fc", 4, 4)
    relu = net.add("Relu", [value], "relu")
    for name, captured in (("uses", relu), ("ignores", "x")):
        branches = {}
        for branch in ("then_branch", "else_branch"):
            output = helper.make_tensor_value_info(f"{name}_{branch}", TensorProto.FLOAT, None)
            inner = helper.make_node("Identity", [captured], [output.name], name=f"{name}_{branch}_node")
            branches[branch] = helper.make_graph([inner], branch, [], [output])
        net.add("If", ["flag"], name, **branches)
    net.weights["flag"] = np.array(True)  # type: ignore[assignment]
    model = ir.from_proto(net.build((4,), ["uses", "ignores"]))
    layers, _ = find_layers(model)
    assert network_bound(model, layers, {"fc.w": 1.0}, {}, {"uses": 1.0}).blocked_by == (("node_uses", "If"),)
    assert network_bound(model, layers, {"fc.w": 1.0}, {}, {"ignores": 1.0}) == Bound(0.0, 0.0)


def test_a_change_beyond_the_bound_is_an_error() -> None:
    net, x_shape, outputs = mlp(0)
    model = ir.from_proto(net.build(x_shape, outputs))
    layers, _ = find_layers(model)
    arguments = (model, layers, {"fc3.w": 0.5}, {}, {outputs[0]: 1.0})
    assert network_bound(*arguments, {outputs[0]: 0.5}).spectral == pytest.approx(0.5)
    with pytest.raises(VerificationError, match=r"changed by 0\.6, more than the 0\.5 that is proven"):
        network_bound(*arguments, {outputs[0]: 0.6})


@pytest.mark.parametrize(
    ("op_type", "inputs", "out"),
    [
        ("Compress", ["x", "chosen"], "float"),  # what is chosen depends on changed values
        ("Shape", ["found"], "int"),  # and so does how much there is of it
        ("RandomNormalLike", ["x"], "float"),
    ],
)
def test_what_changes_in_other_ways_than_by_a_little_has_no_bound(op_type, inputs, out) -> None:
    net = Net(0)
    value = net.linear("x", "fc", 4, 4)
    flat = net.add("ReduceMean", [value], "flat", axes=[0], keepdims=0)
    net.weights["zero"] = np.zeros((), np.float32)
    net.add("Greater", [flat, "zero"], "chosen")
    net.add("NonZero", ["chosen"], "found")
    result = net.add(op_type, inputs, "result", **({"axis": 1} if op_type == "Compress" else {}))
    if out == "int":
        result = net.add("Cast", [result], "cast", to=TensorProto.FLOAT)
    model = canonicalize(ir.from_proto(net.build((4,), [result])))
    layers, _ = find_layers(model)
    assert network_bound(model, layers, {"fc.w": 1.0}, {}, {result: 1.0}).spectral is None
