"""Where graphs decide on numbers, and where they draw them."""

from __future__ import annotations

import numpy as np
import pytest

from obs_onnx.passes.canonical.own_constants import prepare
from obs_onnx.verification.decisions import Forms, behind, decided_outputs, deciding_nodes, draws, in_all


@pytest.mark.parametrize(
    ("nodes", "op_types"),
    [
        ("y = Round(x)", ["Round"]),
        ("i = Cast <to = 7> (x)  y = Cast <to = 1> (i)", ["Cast"]),
        ("y = Cast <to = 1> (x)", []),
        ("s = Shape(x)  t = Equal(s, s)  u = Cast <to = 1> (t)  v = ReduceMin(u)  y = Mul(x, v)", []),
        ("y = If <then_branch = a () => (e) { e = Floor(x) }, else_branch = b () => (o) { o = Exp(x) }> (c)",
         ["If"]),
        ("y = If <then_branch = a () => (e) { e = Neg(x) }, else_branch = b () => (o) { o = Exp(x) }> (c)",
         []),
        ("y, i = MaxPool <kernel_shape = [1]> (x)", []),
        ("r = RandomNormal <shape = [4]> ()  y = Add(x, r)", ["RandomNormal"]),
        ("y = Dropout(x, half, c)", ["Dropout"]),
        ("y = Dropout(x, half)", []),
    ],
)  # fmt: skip
def test_deciding_nodes(make_model, nodes: str, op_types: list[str]) -> None:
    constants = {"c": np.array(True), "half": np.array(0.5, np.float32)}
    model = prepare(make_model(f"g (float[N,3,4] x) => (float[N,3,4] y) {{ {nodes} }}", constants))
    assert [node.op_type for node in deciding_nodes(model)] == op_types


def test_what_follows_from_decisions(make_model) -> None:
    model = prepare(
        make_model("""g (float[N,6] x) => (float[N,6] a, float[N,6] r, int64[N] i, float[N,6] n) {
            a = Relu(x)  r = Round(a)  i = ArgMax <axis = 1, keepdims = 0> (a)  n = RandomNormalLike(x) }""")
    )
    assert decided_outputs(model) == {"r", "i"}
    nodes = deciding_nodes(model)
    assert [draws(node) for node in nodes] == [False, False, True]
    assert behind(model, nodes) >= {"r", "i", "n"}
    assert behind(model, nodes[:1], cut=nodes[1:]) == {"r"}


def test_a_decision_in_all_forms(make_model) -> None:
    model = prepare(make_model("g (float[N,6] x) => (float[N,6] y) { a = Relu(x)  y = Round(a) }"))
    other = prepare(make_model("g (float[N,6] x) => (float[N,6] y) { a = Relu(x)  y = Floor(a) }"))
    nodes = deciding_nodes(model)
    (decision,) = in_all(nodes, Forms(model, model, model))
    assert decision is not None
    assert (decision.outputs, decision.reads, decision.random) == (("y",), (("a", "a", "a"),), False)
    assert str(decision) == f"node {nodes[0].name} (Round)"
    assert in_all(nodes, Forms(model, model, other)) == [None]


def test_sequences_are_not_fed(make_model) -> None:
    model = prepare(
        make_model(
            """g (float[N,6] x) => (float[N,12] y) {
                q = If <then_branch = a () => (e) { k = Round(x)  e = SequenceConstruct(k, k) },
                        else_branch = b () => (o) { o = SequenceConstruct(x, x) }> (yes)
                y = ConcatFromSequence <axis = 1> (q) }""",
            {"yes": np.array(True)},
        )
    )
    nodes = deciding_nodes(model)
    assert [node.op_type for node in nodes] == ["If"]
    assert in_all(nodes, Forms(model, model, model)) == [None]
