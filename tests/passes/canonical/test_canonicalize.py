from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from canonical_forms import operators
from onnx import numpy_helper

from obs_onnx.passes import canonicalize, find_layers
from obs_onnx.passes.canonical.plainer.decompose import Decompose
from obs_onnx.passes.errors import ModelError


class TestFunctions:
    HEAD = '<ir_version: 8, opset_import: ["" : 18, "my" : 1]>\n'
    BODY = """
        <domain: "my", opset_import: ["" : 18, "my" : 1]>
        Block <alpha> (a, w) => (c) { b = MatMul(a, w)  c = my.Act <slope: float = @alpha> (b) }
        <domain: "my", opset_import: ["" : 18]>
        Act <slope> (b) => (c) { k = Constant <value_float: float = @slope> ()
            d = LeakyRelu <alpha: float = @slope> (b)  c = Mul(d, k) }
    """

    def test_nested_functions_are_inlined(self, make_proto, check, rng):
        graph = """g (float[N,4] x) => (float[N,4] y) {
            [first] h = my.Block <alpha = 0.5> (x, w1)
            [second] y = my.Block <alpha = 0.25> (h, w2)
        }"""
        weights = {name: rng.normal(size=(4, 4)).astype(np.float32) for name in ("w1", "w2")}
        model = check(
            make_proto(self.HEAD + graph + self.BODY, weights),
            {"x": rng.normal(size=(3, 4)).astype(np.float32)},
        )
        assert not model.functions
        assert operators(model) == ["MatMul", "LeakyRelu", "Mul"] * 2
        assert [layer.name for layer in find_layers(model)[0]] == ["w1", "w2"]

    def test_circle_is_an_error(self, make_model):
        functions = """
            <domain: "my", opset_import: ["" : 18, "my" : 1]> F (a) => (b) { b = my.G(a) }
            <domain: "my", opset_import: ["" : 18, "my" : 1]> G (a) => (b) { b = my.F(a) }
        """
        model = make_model(self.HEAD + "g (float[4] x) => (float[4] y) { y = my.F(x) }" + functions)
        with pytest.raises(ModelError, match="cannot be inlined"):
            canonicalize(model)


class TestNames:
    def test_nodes_get_names_of_their_own(self, make_proto):
        proto = make_proto("g (float[4] x) => (float[4] y) { a = Relu(x)  b = Relu(a)  y = Neg(b) }")
        proto.graph.node[1].name = proto.graph.node[2].name = "twice"
        model = canonicalize(ir.from_proto(proto))
        assert [node.name for node in model.graph] == ["Relu", "twice", "twice_1"]

    def test_subgraphs_and_their_initializers(self, make_proto, check, rng):
        proto = make_proto(
            """g (bool c, float[N,4] x) => (float[N,4] y) {
                y = If(c) <then_branch = t () => (float[N,4] a) { h = MatMul(x, w)  a = Add(h, big) },
                           else_branch = e () => (float[N,4] b) {
                               k = Constant <value = float[4] {1,2,3,4}> ()  b = Add(x, k) }>
            }""",
            {"w": rng.normal(size=(4, 4)).astype(np.float32)},
        )
        branch = next(a for a in proto.graph.node[0].attribute if a.name == "then_branch").g
        branch.initializer.append(numpy_helper.from_array(rng.normal(size=(1, 4)).astype(np.float32), "big"))
        x = rng.normal(size=(3, 4)).astype(np.float32)
        for condition in (True, False):
            model = check(proto, {"c": np.array(condition), "x": x})
        _, frozen = find_layers(model)
        assert [f.reason for f in frozen] == [
            "weights used inside the body of a control flow operator are not pruned"
        ]


def test_functions_are_counted_before_they_are_written_out(make_proto) -> None:
    """30 levels, each of which calls the next twice, are 2^30 nodes."""
    calls = "".join(
        f'<domain: "own", opset_import: ["" : 18, "own" : 1]> f{i} (a) => (b) '
        f"{{ c = own.f{i + 1}(a)  b = own.f{i + 1}(c) }}"
        for i in range(30)
    )
    text = (
        '<ir_version: 9, opset_import: ["" : 18, "own" : 1]> g (float[N] x) => (float[N] y) { y = own.f0(x) }'
        + calls
        + '<domain: "own", opset_import: ["" : 18]> f30 (a) => (b) { b = Relu(a) }'
    )
    with pytest.raises(ModelError, match="nodes once its functions are inlined"):
        canonicalize(ir.from_proto(make_proto(text)))


def test_functions_that_call_others_often_are_fine(make_proto) -> None:
    body = " ".join(f"v{i + 1} = own.once(v{i})" for i in range(40)).replace("v0", "x").replace("v40", "y")
    text = (
        f'<ir_version: 9, opset_import: ["" : 18, "own" : 1]> g (float[N] x) => (float[N] y) {{ {body} }}'
        '<domain: "own", opset_import: ["" : 18]> once (a) => (b) { b = Relu(a) }'
    )
    assert operators(canonicalize(ir.from_proto(make_proto(text)))) == ["Relu"] * 40


@pytest.mark.parametrize(
    "cone",
    [
        "k = Expand(w, far)",
        "k = Tile(w, far)",
        "k = ConstantOfShape(far)",
        "a = Range(zero, many, one)  b = Cast<to=1>(a)  k = Mul(v, b)",
        "k = Pad(w, far4)",
    ],
)
def test_weights_that_would_be_too_large_stay_unmade(make_model, cone: str) -> None:
    arrays = {
        "w": np.ones((1, 4), np.float32),
        "v": np.ones((4, 1), np.float32),
        "far": np.array([2**40, 4]),
        "far4": np.array([0, 2**40, 0, 0]),
        "zero": np.array(0),
        "many": np.array(2**60),
        "one": np.array(1),
    }
    model = make_model(f"g (float[N, M] x) => (y) {{ {cone}  y = MatMul(x, k) }}", arrays)
    assert operators(canonicalize(model))[-2:-1] == [cone.rsplit("= ", 1)[1].split("(")[0]]


def test_a_node_that_trips_a_pass_up_is_named(make_model) -> None:
    arrays = {"w": np.ones((4, 3, 1, 1), np.float32)}
    model = make_model("g (float[N,3,4,4] x) => (y) { [odd] y = Conv<group=0>(x, w) }", arrays)
    with pytest.raises(ModelError, match=r"node 'odd' \(Conv\) is not what its operator expects"):
        find_layers(model)


@pytest.mark.parametrize(
    ("body", "operator"),
    [
        ("s = SplitToSequence<axis=1>(x, two)  y = SequenceAt(s, five)", "SplitToSequence"),
        ("s = SplitToSequence<axis=1>(x, zero)  y = SequenceAt(s, zero)", "SplitToSequence"),
        ("y = GroupNormalization<num_groups=0>(x, ones, ones)", "GroupNormalization"),
        ("y = GroupNormalization<num_groups=3>(x, ones, ones)", "GroupNormalization"),
    ],
)
def test_what_makes_no_sense_is_not_written_out(make_model, body: str, operator: str) -> None:
    arrays = {
        "two": np.array([2, 2]),
        "five": np.array(5),
        "zero": np.array(0),
        "ones": np.ones(4, np.float32),
    }
    model = make_model(f"g (float[2,4,5,5] x) => (y) {{ {body} }}", arrays)
    Decompose().call(model)
    assert operator in operators(model)


def test_a_constant_of_another_type_is_no_constant(make_model) -> None:
    model = make_model("g () => (int64 y) { n = Constant<value_int=3>()  y = Neg(n) }")
    model.graph[0].attributes["value_int"] = ir.AttrFloat32("value_int", 3.0)
    with pytest.raises(ModelError, match=r"node '.*' .Constant. is not what its operator expects"):
        canonicalize(model)
