"""What bodies take from outside: read by a node, read deeper inside, or returned as it is."""

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from obs_onnx.io.onnx_file import from_proto
from obs_onnx.passes.graph.extract import extract
from obs_onnx.passes.graph.scopes import captured, reads
from obs_onnx.passes.layers.find_layers import find_layers
from obs_onnx.passes.layers.stages import plan_stages
from obs_onnx.verification.error_bound import network_bound

RETURNED = """
<ir_version: 8, opset_import: ["": 17]>
g (float[2, 2] x, bool c) => (float[2, 2] y)
<float[2, 2] k = {1, 2, 3, 4}, float[2, 2] m = {5, 6, 7, 8}>
{
    [mul_k] w = MatMul(x, k)
    [mul_m] u = MatMul(x, m)
    [if] y = If(c) <
        then_branch = inner () => (float[2, 2] b) {
            b = If(c) <
                then_branch = deep () => (float[2, 2] d) { d = Neg(u) },
                else_branch = deep_direct () => (float[2, 2] u) {}
            >
        },
        else_branch = direct () => (float[2, 2] w) {}
    >
}
"""


def net() -> tuple[onnx.ModelProto, ir.Model]:
    proto = onnx.parser.parse_model(RETURNED)
    return proto, from_proto(onnx.parser.parse_model(RETURNED))


def the_if(model: ir.Model) -> ir.Node:
    return next(node for node in model.graph if node.op_type == "If")


def names(values: list[ir.Value]) -> list[str | None]:
    return [value.name for value in values]


def test_a_value_that_a_body_returns_as_it_is_counts_as_read() -> None:
    _, model = net()
    assert sorted(map(str, names(captured(the_if(model))))) == ["c", "u", "w"]
    assert names(reads(the_if(model)))[0] == "c"


def test_an_output_that_is_the_outer_value_itself_counts_as_read() -> None:
    x = ir.Value(name="x")
    relu = ir.node("Relu", [x])
    body = ir.Graph([], [relu.outputs[0]], nodes=[], name="body")
    branch = ir.node("If", [ir.Value(name="c")], {"then_branch": body, "else_branch": body})
    ir.Graph([x], [branch.outputs[0]], nodes=[relu, branch], name="main")
    assert captured(branch) == [relu.outputs[0]]


def test_values_of_a_body_itself_are_not_captured() -> None:
    _, model = net()
    (inner,) = the_if(model).attributes["then_branch"].as_graph()
    assert sorted(map(str, names(captured(inner)))) == ["u"]


def test_a_model_that_returns_an_outer_value_by_name_computes_the_same_with_a_copy() -> None:
    proto, model = net()
    onnx.checker.check_model(ir.to_proto(model))
    x = np.array([[1.0, -2.0], [3.0, 0.5]], np.float32)
    for choice in (True, False):
        feed = {"x": x, "c": np.array(choice)}
        (expected,) = ReferenceEvaluator(proto).run(None, feed)
        (found,) = ReferenceEvaluator(ir.to_proto(model)).run(None, feed)
        assert np.array_equal(found, expected)


def test_a_part_is_cut_with_what_its_bodies_return() -> None:
    _, model = net()
    part = extract(model, ["w", "u", "c"], ["y"])
    assert sorted(map(str, names(list(part.graph.inputs)))) == ["c", "u", "w"]


def test_layers_in_front_of_a_body_are_live_until_it_has_run() -> None:
    _, model = net()
    layers, _ = find_layers(model)
    assert [layer.name for layer in layers] == ["k", "m"]
    plan = plan_stages(model, layers)
    assert [layer.name for stage in plan.stages for layer in stage.layers] == ["k", "m"]


def test_a_changed_value_that_a_body_returns_ends_the_proof() -> None:
    _, model = net()
    layers, _ = find_layers(model)
    bound = network_bound(model, layers, {"k": 1.0}, {}, {"y": 1.0})
    assert bound.blocked_by == (("if", "If"),)
