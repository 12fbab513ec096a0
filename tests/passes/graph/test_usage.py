"""Values that somebody needs: read by a node, in a body, or returned."""

from __future__ import annotations

from obs_onnx.passes.graph.usage import is_used

TEXT = """g (float[N,4] x, float[N,4] unread, bool c) => (float[N,4] y, float[N,4] z) {
    a = Relu(x)  b = Neg(a)  d, rest = Split <axis = 0, num_outputs = 2> (x)
    y = If(c) <then_branch = t () => (float[N,4] p) { p = Abs(b)  dead = Abs(p) },
               else_branch = e () => (float[N,4] q) { q = Abs(d) }>
    z = Abs(y)
}"""


def test_what_is_used(make_model) -> None:
    model = make_model(TEXT)
    (branch,) = (node for node in model.graph if node.op_type == "If")
    bodies = [attribute.as_graph() for attribute in branch.attributes.values()]
    inner = [value for body in bodies for node in body for value in node.outputs]
    values = [*model.graph.inputs, *(y for node in model.graph for y in node.outputs), *inner]
    used = {str(value.name): is_used(value) for value in values}
    assert {name for name, is_there in used.items() if not is_there} == {"unread", "rest", "dead"}
    assert set(used) == set("xcabdyzpq") | {"unread", "rest", "dead"}


def test_a_value_is_no_longer_used_once_its_reader_is_gone(make_model) -> None:
    model = make_model("g (float[N,4] x) => (float[N,4] y) { a = Relu(x)  b = Neg(a)  y = Abs(x) }")
    relu, neg, _ = model.graph
    assert is_used(relu.outputs[0])
    model.graph.remove(neg, safe=True)
    assert not is_used(relu.outputs[0])


def test_outputs_of_the_model_are_used_without_a_reader(make_model) -> None:
    model = make_model("g (float[4] x) => (float[4] y) { a = Neg(x) y = Relu(a) b = Exp(a) }")
    used = {str(value.name): is_used(value) for node in model.graph for value in node.outputs}
    assert used == {"a": True, "y": True, "b": False}
