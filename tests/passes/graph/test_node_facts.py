"""What a node says about itself: inputs, constants, shapes, attributes, cones of constants."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from obs_onnx.passes.errors import ModelError
from obs_onnx.passes.graph import node_facts


@pytest.fixture
def clip(make_model) -> ir.Node:
    """Clip with a constant lower bound at input 1, nothing at input 2."""
    text = "g (float[N,4] x) => (float[N,4] y) { y = Clip(x, low) }"
    return make_model(text, {"low": np.float32(0.5)}).graph[0]


def test_inputs_that_are_absent_or_computed_hold_no_constant(clip: ir.Node) -> None:
    assert node_facts.input_of(clip, 0).name == "x"
    assert node_facts.input_of(clip, 2) is None
    assert [node_facts.constant(clip, i) is None for i in range(3)] == [True, False, True]
    assert node_facts.array(clip, 1) == 0.5
    assert node_facts.array(clip, 0) is None


def test_sizes_of_values(clip: ir.Node) -> None:
    x = clip.inputs[0]
    assert node_facts.dims(x) == (None, 4)
    assert node_facts.size(x) == 4
    assert node_facts.dims(clip.inputs[1]) == ()
    assert node_facts.size(clip.inputs[1]) == 1
    assert node_facts.dims(None) is None
    assert node_facts.dims(ir.Value(name="unknown")) is None
    assert node_facts.size(ir.Value(name="unknown")) == 1


def test_what_was_inferred_goes_before_what_is_declared_and_data_before_both() -> None:
    value = ir.Value(name="v", shape=ir.Shape(["N", 3]))
    value.meta[node_facts.INFERRED] = ir.Shape([2, 3])
    assert node_facts.dims(value) == (2, 3)
    value.const_value = ir.tensor(np.zeros((5, 3), np.float32))
    assert node_facts.dims(value) == (5, 3)


def test_attributes_of_each_type_and_their_defaults() -> None:
    node = ir.node(
        "Anything", [], {"i": 3, "f": 0.5, "s": "text", "l": [1, 2], "e": ir.AttrInt64s("e", [])}, name="n"
    )
    assert node_facts.int_attribute(node, "i") == 3
    assert node_facts.float_attribute(node, "f", 1.0) == 0.5
    assert node_facts.text_attribute(node, "s", "") == "text"
    assert node_facts.ints_attribute(node, "l") == (1, 2)
    assert node_facts.ints_attribute(node, "e", (7,)) == (7,)
    assert node_facts.int_attribute(node, "none", 5) == 5
    assert node_facts.float_attribute(node, "none", 2.5) == 2.5
    assert node_facts.text_attribute(node, "none", "so") == "so"
    assert node_facts.ints_attribute(node, "none") == ()
    for question in (node_facts.int_attribute, node_facts.ints_attribute):
        with pytest.raises(ModelError, match=r"attribute 's' of node 'n' \(Anything\) is no int"):
            question(node, "s")


@pytest.mark.parametrize(
    ("nodes", "opset", "expected"),
    [
        ("y = ReduceSum <axes = [0, 2]> (x)", 11, (0, 2)),
        ("y = ReduceSum(x, a)", 18, (1, -1)),
        ("y = ReduceSum(x)", 18, ()),
        ("b = Neg(a)  y = ReduceSum(x, b)", 18, None),
    ],
)
def test_axes_as_attribute_or_input(make_model, nodes: str, opset: int, expected: object) -> None:
    model = make_model(
        f"g (float[2,3,4] x) => (float[A,B,C] y) {{ {nodes} }}", {"a": np.array([1, -1])}, opset=opset
    )
    node = next(node for node in model.graph if node.op_type == "ReduceSum")
    assert node_facts.axes(node) == expected
    assert node_facts.version(node) == opset


def test_floats() -> None:
    kinds = ir.DataType
    tensors = {kind: ir.Tensor(np.ones(2, kind.numpy()), dtype=kind) for kind in node_facts.FLOATS}
    assert all(node_facts.is_float(tensor) for tensor in tensors.values())
    assert set(tensors) == {kinds.FLOAT, kinds.FLOAT16, kinds.BFLOAT16, kinds.DOUBLE}
    assert not node_facts.is_float(ir.tensor(np.ones(2, np.int32)))


class TestConstantCone:
    TEXT = """g (float[4] x) => (float[4] y) {
        a = Transpose(w)  b = Mul(a, a)  c = Add(b, v)  d = CastLike(c, x)  e = Mul(d, x)  y = Relu(e)
    }"""

    @pytest.fixture
    def values(self, make_model) -> dict[str, ir.Value]:
        model = make_model(self.TEXT, {"w": np.ones(4, np.float32), "v": np.ones(4, np.float32)})
        found = {value.name: value for node in model.graph for value in node.outputs}
        return found | dict(model.graph.initializers)

    def test_nodes_that_make_a_value_from_stored_tensors_alone(self, values) -> None:
        cone = node_facts.constant_cone(values["d"])
        assert [node.op_type for node in cone[:2]] == ["CastLike", "Add"]
        assert {node.op_type for node in cone} == {"CastLike", "Add", "Mul", "Transpose"}
        assert len(cone) == 4

    def test_an_initializer_needs_none(self, values) -> None:
        assert node_facts.constant_cone(values["w"]) == []

    def test_what_depends_on_an_input_has_none(self, values) -> None:
        assert node_facts.constant_cone(values["e"]) is None
        assert node_facts.constant_cone(None) is None

    def test_bodies_and_endless_chains_are_no_cones(self, make_model) -> None:
        branch = """g (float[4] x) => (float[4] y) {
            w2 = If(yes) <then_branch = t () => (float[4] a) { a = Neg(w) },
                          else_branch = e () => (float[4] b) { b = Exp(w) }>
            y = Mul(x, w2)
        }"""
        model = make_model(branch, {"w": np.ones(4, np.float32), "yes": np.array(True)})
        assert node_facts.constant_cone(model.graph[0].outputs[0]) is None
        for length, known in ((64, True), (65, False)):
            nodes = " ".join(f"v{i + 1} = Neg(v{i})" for i in range(length))
            text = f"g (float[4] x) => (float[4] y) {{ {nodes} y = Add(x, v{length}) }}"
            model = make_model(text, {"v0": np.ones(4, np.float32)})
            last = model.graph[length - 1].outputs[0]
            assert (node_facts.constant_cone(last) is not None) == known
