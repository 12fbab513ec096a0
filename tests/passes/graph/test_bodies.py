"""Bodies of control flow: copies of them, and nodes that nobody needs."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from decoders import decoder

from obs_onnx.passes.graph.bodies import copy_body, drop_dead_nodes, remove_unused_nodes
from obs_onnx.passes.graph.emitter import Emitter
from obs_onnx.passes.graph.names import Names

NESTED = """g (float[N,4] x, bool c) => (float[N,4] y) {
    h = Relu(x)
    [outer] y = If(c) <
        then_branch = t () => (float[N,4] a) {
            p = Mul(h, w)
            a = If(c) <
                then_branch = u () => (float[N,4] i) { i = Add(p, x) },
                else_branch = v () => (float[N,4] j) { j = Neg(h) }
            >
        },
        else_branch = e () => (float[N,4] b) { b = Exp(x) }
    >
}"""
W = {"w": np.ones(4, np.float32)}


def body(node: ir.Node, name: str) -> ir.Graph:
    return next(one for a in node.attributes.values() if (one := a.as_graph()).name == name)


def test_a_copy_has_names_of_its_own_and_reads_the_same_outer_values(make_model):
    model = make_model(NESTED, W)
    _, outer = model.graph
    then = body(outer, "t")
    copy = copy_body(Emitter(model, Names(model), "near"), then)
    before = {value.name for node in then.all_nodes() for value in node.outputs}
    after = {value.name for node in copy.all_nodes() for value in node.outputs}
    assert len(before) == len(after) == 4
    assert before.isdisjoint(after)
    outside = {value for node in copy.all_nodes() for value in node.inputs if value.graph is model.graph}
    assert {value.name for value in outside} == {"h", "w", "x", "c"}
    assert outside <= {*model.graph.inputs, *model.graph.initializers.values(), model.graph[0].outputs[0]}


def test_nodes_that_no_output_depends_on_go(make_model):
    model = make_model(
        """g (float[4] x, bool c) => (float[4] y) {
            y = If(c) <
                then_branch = t () => (float[4] a) {
                    d = Exp(x)  e = Neg(d)  k = Relu(x)
                    a = If(c) <
                        then_branch = u () => (float[4] i) { i = Abs(k) },
                        else_branch = v () => (float[4] j) { j = Neg(x) }
                    >
                },
                else_branch = e () => (float[4] b) { b = Identity(x) }
            >
        }"""
    )
    then = body(model.graph[0], "t")
    unused = ir.Value(name="unused", const_value=ir.tensor(np.ones(2, np.float32), name="unused"))
    then.register_initializer(unused)
    drop_dead_nodes(then)
    assert [node.op_type for node in then] == ["Relu", "If"]
    assert list(then.initializers) == []


@pytest.mark.parametrize("form", ["packed", "attention"])
def test_an_operator_that_continues_a_state_keeps_where_it_writes_it(form):
    model = ir.from_proto(decoder(form))
    layers = [node for node in model.graph if node.op_type in ("GroupQueryAttention", "Attention")]
    names = [[value.name for value in node.outputs] for node in layers]
    assert layers
    del model.graph.outputs[1:]
    remove_unused_nodes(model)
    assert [[value.name for value in node.outputs] for node in layers] == names
