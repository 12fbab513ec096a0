"""Fresh names, new initializers, and initializers that nothing uses any more."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from obs_onnx.passes.graph.names import Names, add_initializer, chosen, named, remove_if_unused

TEXT = """g (float[4] x, bool c) => (float[4] y) {
    [first] h = Relu(x)
    [branch] y = If(c) <
        then_branch = t () => (float[4] a) { [inner] a = Add(h, w) },
        else_branch = e () => (float[4] b) { b = Identity(x) }
    >
}"""


@pytest.fixture
def model(make_model) -> ir.Model:
    return make_model(TEXT, {"w": np.ones(4, np.float32)})


@pytest.mark.parametrize("taken", ["x", "c", "h", "y", "w", "a", "first", "branch", "inner"])
def test_names_of_values_and_nodes_everywhere_are_taken(model: ir.Model, taken: str) -> None:
    names = Names(model)
    assert names.fresh(taken) == f"{taken}_1"
    assert names.fresh(taken) == f"{taken}_2"


def test_a_free_name_is_given_once(model: ir.Model) -> None:
    names = Names(model)
    assert [names.fresh("new") for _ in range(3)] == ["new", "new_1", "new_2"]


def test_a_new_initializer_shares_the_data_and_has_a_name_of_its_own(model: ir.Model) -> None:
    old = ir.tensor(np.ones(4, np.float32), name="w")
    value = Names(model).initializer("w", old)
    assert value.name == "w_1"
    assert model.graph.initializers["w_1"] is value
    assert value.const_value.name == "w_1"
    assert old.name == "w"
    assert (value.dtype, list(value.shape)) == (ir.DataType.FLOAT, [4])
    assert np.shares_memory(value.const_value.numpy(), old.numpy())


def test_a_tensor_that_has_the_name_already_is_itself() -> None:
    tensor = ir.tensor(np.arange(3), name="t")
    assert named(tensor, "t") is tensor
    strings = ir.StringTensor([b"a"], shape=ir.Shape([1]), name="s")
    assert named(strings, "other") is strings
    np.testing.assert_array_equal(named(tensor, "u").numpy(), [0, 1, 2])


@pytest.mark.parametrize(("ir_version", "inputs"), [(3, ["x", "v"]), (4, ["x"])])
def test_old_files_list_initializers_among_their_inputs(
    make_model, ir_version: int, inputs: list[str]
) -> None:
    model = make_model("g (float[2] x) => (float[2] y) { y = Relu(x) }", opset=7, ir_version=ir_version)
    value = ir.Value(
        name="v", shape=ir.Shape([1]), type=ir.TensorType(ir.DataType.FLOAT), const_value=ir.tensor([1.0])
    )
    add_initializer(model, value)
    assert [one.name for one in model.graph.inputs] == inputs
    remove_if_unused(model, value)
    assert list(model.graph.initializers) == []
    assert [one.name for one in model.graph.inputs] == ["x"]


def test_what_is_used_stays(make_model) -> None:
    text = "g (float[2] x, float[2] v) => (float[2] y, float[2] o) { y = Add(x, w) }"
    tensors = {name: np.ones(2, np.float32) for name in ("v", "w", "o", "u")}
    model = make_model(text, tensors)
    for name in ("v", "w", "o", "u"):  # may be overridden, is used, is an output, is nothing
        remove_if_unused(model, model.graph.initializers[name])
    assert set(model.graph.initializers) == {"v", "w", "o"}
    remove_if_unused(model, None)
    remove_if_unused(model, ir.Value(name="w"))  # of the same name, but another value
    assert set(model.graph.initializers) == {"v", "w", "o"}


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("block[0].w", {"block[0].w"}),  # not block0.w, which the pattern matches
        ("block[1].w", {"block1.w"}),
        ("block*", {"block[0].w", "block0.w", "block1.w"}),
        ("*", {"*"}),
        ("Block*", set()),
        ("head?", {"head2"}),
    ],
)
def test_a_name_counts_before_a_pattern(pattern: str, expected: set[str]) -> None:
    assert chosen(pattern, ["block[0].w", "block0.w", "block1.w", "head2", "*"]) == expected
