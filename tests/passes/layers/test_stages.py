"""Stages, live values, skips and parts, against brute force and against the whole model."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from obs_onnx.passes.canonical.canonicalize import canonicalize
from obs_onnx.passes.graph.extract import extract
from obs_onnx.passes.layers.find_layers import find_layers
from obs_onnx.passes.layers.stages import plan_stages

OPERATORS = ("gemm", "matmul", "shared", "relu", "add", "mul", "branch")


def weight(seed: int, *shape: int) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=shape) / 2).astype(np.float32)


def planned(model: ir.Model):
    """Canonical model, its layers by name, its plan."""
    canonical = canonicalize(model)
    layers, _ = find_layers(canonical)
    return canonical, {layer.name: layer for layer in layers}, plan_stages(canonical, layers)


def names(plan) -> list[list[str]]:
    return [[layer.name for layer in stage.layers] for stage in plan.stages]


@st.composite
def graphs(draw) -> onnx.ModelProto:
    """Random graphs of width 4: layers, shared weights, joins, bodies that read outer values."""
    lines, tensors, values = [], {"s": weight(99, 4, 4), "yes": np.array(True)}, ["x", "z"]
    for number in range(draw(st.integers(1, 9))):
        operator = draw(st.sampled_from(OPERATORS))
        a, b = (draw(st.sampled_from(values[-4:])) for _ in range(2))
        name = f"v{number}"
        if operator == "gemm":
            tensors |= {f"w{number}": weight(number, 4, 4), f"b{number}": weight(100 + number, 4)}
            lines.append(f"{name} = Gemm({a}, w{number}, b{number})")
        elif operator == "matmul":
            tensors[f"w{number}"] = weight(number, 4, 4)
            lines.append(f"{name} = MatMul({a}, w{number})")
        elif operator == "shared":
            lines.append(f"{name} = MatMul({a}, s)")
        elif operator == "relu":
            lines.append(f"{name} = Relu({a})")
        elif operator == "branch":
            body = f"{{ t{number} = Add({a}, {b}) }}"
            other = f"{{ e{number} = Neg({a}) }}"
            lines.append(
                f"{name} = If(yes) <then_branch = t () => (float[N,4] t{number}) {body}, "
                f"else_branch = e () => (float[N,4] e{number}) {other}>"
            )
        else:
            lines.append(f"{name} = {operator.capitalize()}({a}, {b})")
        values.append(name)
    ends = {values[-1], *draw(st.lists(st.sampled_from(values[2:]), max_size=2))}
    outputs = ", ".join(f"float[N,4] {end}" for end in sorted(ends))
    head = '<ir_version: 10, opset_import: ["" : 18]>\n'
    text = f"{head}g (float[N,4] x, float[N,4] z) => ({outputs}) {{ {' '.join(lines)} }}"
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(a, n) for n, a in tensors.items())
    return proto


def reads(node: ir.Node, graph: ir.Graph) -> set[ir.Value]:
    found = {value for value in node.inputs if value is not None}
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            for inner in attribute.as_graph():
                found |= {value for value in inner.inputs if value is not None and value.graph is graph}
    return found


def ancestors(graph: ir.Graph) -> dict[ir.Value, set[ir.Node]]:
    """All nodes above each value."""
    above: dict[ir.Value, set[ir.Node]] = {}
    for node in graph:
        nodes = {node}.union(*(above.get(value, set()) for value in reads(node, graph)))
        above |= dict.fromkeys(node.outputs, nodes)
    return above


@given(graphs())
@settings(max_examples=60, deadline=None)
def test_stages_of_random_graphs(proto) -> None:
    model, layers, plan = planned(ir.from_proto(proto))
    graph = model.graph
    above = ancestors(graph)
    living = set().union(*(above.get(output, set()) for output in graph.outputs))
    values = {value.name: value for node in graph for value in node.outputs}
    users = {use.node: layer.name for layer in layers.values() for use in layer.uses}

    def unsolved_above(value: ir.Value, done: set[str]) -> set[str]:
        return {users[node.name] for node in above.get(value, ()) if node.name in users} - done

    stages = names(plan)
    assert sorted(name for stage in stages for name in stage) == sorted(
        {users[n.name] for n in living if n.name in users}
    )
    done: set[str] = set()
    for stage, members in zip(plan.stages, stages, strict=True):
        rest = [n for n in living if any(unsolved_above(value, done) for value in n.outputs)]
        needed = set(graph.outputs).union(*(reads(node, graph) for node in rest))
        expected = {v.name for v in needed if not v.is_initializer() and not unsolved_above(v, done)}
        assert set(stage.live) == expected
        assert len(stage.live) == len(expected)
        for layer in stage.layers:
            assert any(use.x in expected for use in layer.uses)
            for use in layer.uses:
                assert set(stage.skips.get(use.y, ())) <= expected
            xs = [use.x for use in layer.uses]
            assert any(x not in values or not unsolved_above(values[x], done) for x in xs)
        done |= set(members)
    assert plan.boundary(len(stages)) == tuple(output.name for output in graph.outputs)


@given(graphs())
@settings(max_examples=25, deadline=None)
def test_stage_by_stage_gives_what_the_whole_model_gives(run_model, proto) -> None:
    model, _, plan = planned(ir.from_proto(proto))
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    feeds = {"x": weight(7, 3, 4), "z": weight(8, 3, 4)}
    whole = run_model(proto, {spec.name: feeds[spec.name] for spec in proto.graph.input})
    values = dict(feeds)
    for index in range(len(plan.stages) + 1):
        target = plan.boundary(index)
        wanted = [name for name in target if name not in values]
        if wanted:
            part = extract(model, list(values), wanted)
            values |= run_model(part, {str(v.name): values[str(v.name)] for v in part.graph.inputs})
        values = {name: values[name] for name in target}
    for name, y in whole.items():
        np.testing.assert_allclose(values[name], y, rtol=1e-5, atol=1e-6)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_a_residual_block_knows_its_skip_before_its_last_layer(make_model) -> None:
    _, _, plan = planned(
        make_model(
            "g (float[N,4] x) => (float[N,4] y)"
            "{ p = MatMul(x, wp) a = MatMul(x, wa) r = Relu(a) b = MatMul(r, wb) s = Add(b, p) y = Relu(s) }",
            {"wp": weight(0, 4, 4), "wa": weight(1, 4, 4), "wb": weight(2, 4, 4)},
        )
    )
    assert [sorted(stage) for stage in names(plan)] == [["wa", "wp"], ["wb"]]
    assert plan.stages[0].live == ("x",)
    assert set(plan.stages[1].live) == {"r", "p"}
    assert plan.stages[1].skips == {"b": ("p",)}
    assert plan.stages[0].skips == {"p": (), "a": ()}


ONE_LAYER = (
    "g (float[N,4] x, float[N,4] k, float[N,4] m) => (float[N,4] y{more}) {{ a = MatMul(x, w) {body} }}"
)


@pytest.mark.parametrize(
    ("body", "more", "skips"),
    [
        ("y = Add(a, k)", "", ("k",)),
        ("y = Add(k, a)", "", ("k",)),
        ("s = Add(a, k) y = Add(m, s)", "", ("k", "m")),
        ("s = Add(a, k) t = Add(s, c) u = Add(t, m) y = Relu(u)", "", ("k", "m")),
        ("r = Relu(k) y = Add(a, r)", "", ("r",)),
        ("r = Relu(a) y = Add(r, k)", "", ()),  # the sum comes behind a non-linearity
        ("s = Add(a, k) r = Relu(s) y = Add(r, a)", "", ()),  # something else reads the layer
        ("s = Add(a, k) t = Add(s, m) y = Mul(s, t)", "", ("k",)),  # something else reads the first sum
        ("y = Add(a, k)", ", float[N,4] a", ()),  # the layer's own output is wanted
        ("y = Add(a, a)", "", ()),
        ("y = Sub(a, k)", "", ()),
        ("y = Mul(a, k)", "", ()),
    ],
)
def test_skips(make_model, body, more, skips) -> None:
    text = ONE_LAYER.format(body=body, more=more)
    _, _, plan = planned(make_model(text, {"w": weight(0, 4, 4), "c": weight(1, 1)}))
    assert [stage.skips for stage in plan.stages] == [{"a": skips}]


def test_a_sum_inside_a_body_is_no_skip(make_model) -> None:
    text = (
        "g (float[N,4] x, float[N,4] k, bool q) => (float[N,4] y) { a = MatMul(x, w) "
        "y = If(q) <then_branch = t () => (float[N,4] s) { s = Add(a, k) }, "
        "else_branch = e () => (float[N,4] n) { n = Neg(k) }> }"
    )
    _, _, plan = planned(make_model(text, {"w": weight(0, 4, 4)}))
    assert plan.stages[0].skips == {"a": ()}
    assert set(plan.stages[0].live) == {"x", "k", "q"}


def test_bodies_keep_what_they_capture_alive(make_model, run_model) -> None:
    text = (
        "g (float[N,4] x, bool q) => (float[N,4] y) { a = MatMul(x, w) h = Relu(a) b = MatMul(h, v) "
        "y = If(q) <then_branch = t () => (float[N,4] s) { s = Add(b, h) }, "
        "else_branch = e () => (float[N,4] n) { n = Neg(x) }> }"
    )
    model, _, plan = planned(make_model(text, {"w": weight(0, 4, 4), "v": weight(1, 4, 4)}))
    assert names(plan) == [["w"], ["v"]]
    assert set(plan.stages[1].live) == {"h", "x", "q"}
    part = extract(model, plan.stages[1].live, plan.outputs)
    feeds = {"x": weight(2, 3, 4), "h": weight(3, 3, 4), "q": np.array(True)}
    expected = feeds["h"] @ weight(1, 4, 4) + feeds["h"]
    np.testing.assert_allclose(run_model(part, feeds)["y"], expected, rtol=1e-5, atol=1e-6)


def test_a_shared_weight_belongs_to_its_first_use(make_model) -> None:
    siamese = (
        "g (float[N,4] x, float[N,4] z) => (float[N,4] y) "
        "{ a = MatMul(x, s) b = MatMul(z, s) p = Relu(a) q = Relu(b) c = Sub(p, q) y = MatMul(c, w) }"
    )
    _, layers, plan = planned(make_model(siamese, {"s": weight(0, 4, 4), "w": weight(1, 4, 4)}))
    assert names(plan) == [["s"], ["w"]]
    assert len(layers["s"].uses) == 2
    assert plan.stages[1].live == ("c",)
    looped = (
        "g (float[N,4] x) => (float[N,4] y) "
        "{ a = MatMul(x, s) r = Relu(a) b = MatMul(r, w) t = Relu(b) y = MatMul(t, s) }"
    )
    _, _, plan = planned(make_model(looped, {"s": weight(0, 4, 4), "w": weight(1, 4, 4)}))
    assert names(plan) == [["s"], ["w"]]
    assert plan.stages[1].live == ("r",)


def test_layers_that_no_output_needs_are_in_no_stage(make_model) -> None:
    model, layers, plan = planned(
        make_model(
            "g (float[N,4] x) => (float[N,4] y) { d = MatMul(x, v) y = MatMul(x, w) }",
            {"v": weight(0, 4, 4), "w": weight(1, 4, 4)},
        )
    )
    assert set(layers) == {"w"}
    assert names(plan) == [["w"]]
    _, frozen = find_layers(model)
    assert [entry.reason for entry in frozen] == ["no output of the model depends on it"]


def test_outputs_that_need_no_layer_are_live_to_the_end(make_model) -> None:
    _, _, plan = planned(
        make_model(
            "g (float[N,4] x, int64[N] i) => (float[N,4] y, int64[N] j, float[N,4] a)"
            "{ j = Add(i, i) a = MatMul(x, w) y = MatMul(a, v) }",
            {"w": weight(0, 4, 4), "v": weight(1, 4, 4)},
        )
    )
    assert names(plan) == [["w"], ["v"]]
    assert set(plan.stages[0].live) == {"x", "j"}
    assert set(plan.stages[1].live) == {"a", "j"}
    assert plan.boundary(2) == ("y", "j", "a")
