"""What a rule says nothing about stays: rules that forget an axis, one kind of forgetting each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from obs_onnx.passes.canonical.own_constants import prepare
from obs_onnx.passes.channels.coupling import couple
from obs_onnx.passes.ops import TABLE
from obs_onnx.passes.traits.atoms import fixed
from obs_onnx.passes.traits.relation import Freeze, Relation

X = "g (float[2] x) => (float[] y)"


ADD = f"{X} {{ a = Mul(p, x) b = Mul(q, x) m = Add(a, b) y = ReduceSum <keepdims = 0> (m) }}"


def kept(make_model, monkeypatch, rule: Callable[[Relation], None], text: str = ADD) -> dict[str, list[int]]:
    """With this rule for Add: axes of p and q, of shape (3, 4, 2), that may lose elements."""
    monkeypatch.setitem(TABLE, "Add", replace(TABLE["Add"], relate=rule))
    weights = {name: np.ones((3, 4, 2), np.float32) for name in ("p", "q") if f"({name}," in text}
    coupling = couple(prepare(make_model(text, weights), canonical=False))
    free: dict[str, list[int]] = {name: [] for name in weights}
    for group in coupling.groups:
        for site in group.sites:
            free[site.initializer].append(site.axis)
    return {name: sorted(axes) for name, axes in free.items()}


def test_an_axis_that_is_asked_for_and_forgotten_is_fixed(make_model, monkeypatch) -> None:
    def rule(r: Relation) -> None:
        a, b = r.axes(0), r.axes(1)
        r.tie(a[0], b[0])
        r.give([r.atoms.resolve(a[0]), a[1], fixed(2)])  # nothing is said of b[1]

    free = kept(make_model, monkeypatch, rule)
    assert free == {"p": [0, 1], "q": [0]}


def test_one_axis_does_not_hide_behind_another_with_the_same_elements(make_model, monkeypatch) -> None:
    """The same value twice: what passes of the first is not said of the second."""

    def rule(r: Relation) -> None:
        a, b = r.axes(0), r.axes(1)
        r.tie(a[0], b[0])
        r.give([r.atoms.resolve(a[0]), a[1], fixed(2)])

    text = f"{X} {{ a = Mul(p, x) m = Add(a, a) y = ReduceSum <keepdims = 0> (m) }}"
    free = kept(make_model, monkeypatch, rule, text)
    assert free == {"p": [0]}


def test_mixed_fixed_and_dispensable_axes_are_accounted_for(make_model, monkeypatch) -> None:
    def rule(r: Relation) -> None:
        a, b = r.axes(0), r.axes(1)
        r.tie(a[0], b[0])
        r.mix(0, 0)
        r.leave(b[1])
        r.give([fixed(3), a[1], fixed(2)])

    free = kept(make_model, monkeypatch, rule)
    assert free == {"p": [0, 1], "q": [0, 1]}


def test_outputs_that_shrink_without_saying_how_are_fixed(make_model, monkeypatch) -> None:
    def rule(r: Relation) -> None:
        a, b = r.axes(0), r.axes(1)
        r.fix([*a, *b])
        r.give([r.atoms.fresh(3), fixed(4), fixed(2)])

    text = ADD.replace("y = ", "n = Mul(m, w) y = ").replace("(m) }", "(n) }")
    monkeypatch.setitem(TABLE, "Add", replace(TABLE["Add"], relate=rule))
    weights = {name: np.ones((3, 4, 2), np.float32) for name in ("p", "q", "w")}
    coupling = couple(prepare(make_model(text, weights), canonical=False))
    assert ("w", 0) not in {site for group in coupling.groups for site in group.sites}
    assert ("w", 1) not in {site for group in coupling.groups for site in group.sites}
    assert any("gives fewer" in frozen.reason for frozen in coupling.frozen)


def test_a_forgotten_axis_is_reported_by_its_operator(make_model, monkeypatch) -> None:
    monkeypatch.setitem(TABLE, "Add", replace(TABLE["Add"], relate=lambda r: (r.axes(0), r.axes(1))))
    weights = {name: np.ones((3, 4, 2), np.float32) for name in ("p", "q")}
    coupling = couple(prepare(make_model(ADD, weights), canonical=False))
    assert not coupling.groups
    assert any(
        frozen.reason == "nothing is known about what Add does along this axis" for frozen in coupling.frozen
    )


@pytest.mark.parametrize("error", [Freeze("because"), IndexError("no such axis"), AssertionError()])
def test_whatever_a_rule_stumbles_over_keeps_all(make_model, monkeypatch, error: Exception) -> None:
    def rule(r: Relation) -> None:
        r.mix(0, 0)
        raise error

    free = kept(make_model, monkeypatch, rule)
    assert free == {"p": [], "q": []}


def test_random_numbers_keep_all(make_model) -> None:
    text = "g (float[2] x) => (float[] y) { a = Mul(p, x) m = Bernoulli(a) y = ReduceSum <keepdims = 0> (m) }"
    coupling = couple(prepare(make_model(text, {"p": np.ones((3, 2), np.float32)}), canonical=False))
    assert not coupling.groups
    assert any("random" in frozen.reason for frozen in coupling.frozen)


def test_the_model_is_as_it_was(make_model) -> None:
    model = prepare(make_model(ADD, {name: np.ones((3, 4, 2), np.float32) for name in ("p", "q")}))
    before = ir.to_proto(model)
    couple(model)
    assert ir.to_proto(model) == before
