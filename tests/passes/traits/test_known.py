"""Whether a node is more than what the rules of its operator were written for."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from obs_onnx.passes.traits.known import Known

CAST = Known(13, frozenset({"to"}), 1, 1)


def node(op_type: str, inputs="x", outputs="y", opset=18, domain="", **attributes) -> ir.Node:
    """Of names that are separated by commas; an empty one is left out."""
    made = helper.make_node(op_type, inputs.split(","), outputs.split(","), domain=domain, **attributes)
    graph = helper.make_graph(
        [made],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info(outputs.split(",")[0], TensorProto.FLOAT, None)],
    )
    opsets = [helper.make_opsetid(name, version) for name, version in {"": 18, domain: opset}.items()]
    return ir.from_proto(helper.make_model(graph, opset_imports=opsets, ir_version=8)).graph[0]


def test_older_versions_are_known_and_newer_ones_are_not() -> None:
    for opset in (6, 9, 13, 18):  # versions 6, 9 and 13, which is that of opset 18 as well
        assert CAST.exceeded(node("Cast", opset=opset, to=1)) is None
    found = CAST.exceeded(node("Cast", opset=19, to=1))
    assert found == "its version 19 is not known, only those up to 13"
    newest = onnx.defs.onnx_opset_version()
    assert Known(newest, frozenset({"to"}), 1, 1).exceeded(node("Cast", opset=newest, to=1)) is None
    found = CAST.exceeded(node("Cast", opset=newest + 1, to=1))
    assert found == f"its version of opset {newest + 1} is not known"


def test_of_a_foreign_domain_the_opset_is_the_version() -> None:
    known = Known(1, frozenset(), None, None)
    assert known.exceeded(node("Warp", domain="com.acme", opset=1)) is None
    found = known.exceeded(node("Warp", domain="com.acme", opset=2))
    assert found == "its version 2 is not known, only those up to 1"


def test_an_operator_without_versions_is_known_in_all_opsets() -> None:
    known = Known(None, frozenset(), 1, 1)
    assert known.exceeded(node("Warp", opset=onnx.defs.onnx_opset_version() + 1)) is None
    assert known.exceeded(node("Warp", inputs="x,x")) == "its input 1 is not known"


@pytest.mark.parametrize(
    ("attributes", "found"),
    [
        ({"transA": 0}, None),
        ({"alpha": 1.0, "beta": 1.0}, None),
        ({"transA": 1}, "its attribute 'transA' is not known"),
        ({"alpha": 0.5}, "its attribute 'alpha' is not known"),
        ({"shift": 0}, "its attribute 'shift' is not known"),  # no default is known of it
        ({"transB": 1}, None),
    ],
)
def test_attributes_count_unless_they_have_their_default(attributes: dict, found: str | None) -> None:
    known = Known(13, frozenset({"transB"}), 3, 1)
    assert known.exceeded(node("Gemm", inputs="x,x", **attributes)) == found


@pytest.mark.parametrize(
    ("inputs", "outputs", "found"),
    [
        ("x,x", "y", None),
        ("x,x,,", "y,", None),
        ("x,,x", "y", "its input 2 is not known"),
        ("x,x,,x", "y", "its input 2 is not known"),
        ("x,x", "y,z", "its output 1 is not known"),
    ],
)
def test_inputs_and_outputs_beyond_the_known_ones(inputs: str, outputs: str, found: str | None) -> None:
    one = node("Warp", inputs, outputs, domain="com.acme", opset=1)
    assert Known(1, frozenset(), 2, 1).exceeded(one) == found
    assert Known(1, frozenset(), None, None).exceeded(one) is None
