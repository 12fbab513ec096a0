"""Records of operators: how tables of rules become records."""

from __future__ import annotations

import onnx_ir as ir

from obs_onnx.passes.ops import TABLE, lookup
from obs_onnx.passes.traits.op import Op, differentiable, key, related


def one(_: object) -> None:
    """A rule."""


def other(_: object) -> None:
    """Another rule."""


def test_rules_come_with_the_names_of_their_operators() -> None:
    table = {"A": Op(macs=len), "B": Op(relate=other)}
    found = related(table, {one: "A C", other: "D"})
    assert {name: op.relate for name, op in found.items()} == {"A": one, "B": other, "C": one, "D": other}
    assert found["A"].macs is len
    assert table["B"].relate is other
    found = differentiable(table, {one: "B"})
    assert {name: op.vjp for name, op in found.items()} == {"A": None, "B": one}
    assert found["B"].relate is other


def test_the_key_has_the_domain_outside_the_default_one() -> None:
    for domain, expected in (("", "Relu"), ("ai.onnx", "Relu"), ("com.microsoft", "com.microsoft::Relu")):
        assert key(ir.Node(domain, "Relu", [])) == expected


def test_lookup_of_known_and_unknown_operators() -> None:
    assert lookup(ir.Node("", "Relu", [])) is TABLE["Relu"]
    assert lookup(ir.Node("ai.onnx", "Relu", [])) is TABLE["Relu"]
    assert lookup(ir.Node("com.acme", "Relu", [])) == Op()
    assert lookup(ir.Node("", "NoOperator", [])) == Op()
