"""What a rule says nothing about stays: rules that forget an axis, one kind of forgetting each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from obs_onnx.passes.canonical.own_constants import prepare
from obs_onnx.passes.channels.coupling import couple
from obs_onnx.passes.channels.relate import relate
from obs_onnx.passes.ops import TABLE
from obs_onnx.passes.shapes.concrete import concretize
from obs_onnx.passes.traits.atoms import Atoms, fixed
from obs_onnx.passes.traits.relation import Freeze, Graph, Relation

Rule = Callable[[Relation], None]

X = "g (float[2] x) => (float[] y)"


ADD = f"{X} {{ a = Mul(p, x) b = Mul(q, x) m = Add(a, b) y = ReduceSum <keepdims = 0> (m) }}"


def kept(make_model, monkeypatch, rule: Rule, text: str = ADD) -> dict[str, list[int]]:
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


ALONG = "nothing is known about what Add does along this axis"
FEWER = "nothing is known about how Add gives fewer of them"
WEIGHTS = {"a": np.ones((3, 4), np.float32), "b": np.ones((3, 4), np.float32)}


class Asked:
    """One node whose operator has been asked.

    Attributes:
        node: the first of the model.
        graph: what was said.
    """

    def __init__(self, model: ir.Model) -> None:
        self.node = model.graph[0]
        self.graph = Graph(Atoms(), concretize(model), 18)
        relate(self.node, self.graph)

    def free(self, name: str) -> list[bool]:
        """Of the axes of a value, whether all elements may go; one of which only some may is an error."""
        values = [*(x for x in self.node.inputs if x), *self.node.outputs]
        (value,) = {one for one in values if one.name == name}
        found = [(self.graph.atoms.resolve(axis) != 0).any(1) for axis in self.graph.axes(value)]
        assert all(each.all() == each.any() for each in found)
        return [bool(each.all()) for each in found]

    @property
    def reasons(self) -> list[str]:
        assert all(node is self.node for node, _ in self.graph.frozen)
        return [why for _, why in self.graph.frozen]


@pytest.fixture
def ask(monkeypatch, make_model) -> Callable[..., Asked]:
    """``ask(rule)``: Add of two constants (or of ``inputs``), with ``rule`` for what its table says."""

    def asked(rule: Rule | None, inputs: str = "a, b") -> Asked:
        monkeypatch.setitem(TABLE, "Add", replace(TABLE["Add"], relate=rule))
        text = f"g (float[3,4] x) => (float[3,4] y) {{ c = Add({inputs})  y = Add(c, x) }}"
        return Asked(make_model(text, WEIGHTS))

    return asked


class TestWhatIsSaidStaysFree:
    def test_axes_that_are_passed_on_and_tied(self, ask) -> None:
        def rule(r: Relation) -> None:
            for one, other in zip(r.axes(0), r.axes(1), strict=True):
                r.tie(one, other)
            r.give(r.axes(0))

        found = ask(rule)
        assert found.reasons == []
        assert found.free("a") == found.free("b") == found.free("c") == [True, True]

    def test_new_elements_that_the_node_can_give_fewer_of(self, ask) -> None:
        def rule(r: Relation) -> None:
            r.leave(*r.axes(0), *r.axes(1))
            r.give([r.atoms.fresh(3), r.atoms.fresh(4)])
            r.shrink(lambda shrink: None)

        found = ask(rule)
        assert found.reasons == []
        assert found.free("c") == [True, True]


class TestWhatIsForgottenIsFixed:
    def test_elements_that_the_rule_forgets(self, ask) -> None:
        """Of an axis only the first two are passed on."""

        def rule(r: Relation) -> None:
            r.leave(*r.axes(1))
            rows, columns = r.axes(0)
            r.give([np.concatenate([rows[:2], np.zeros((1, 1), np.int32)]), columns])

        found = ask(rule)
        assert found.reasons == [ALONG]
        (rows, _) = (found.graph.atoms.resolve(axis) for axis in found.graph.axes(found.node.inputs[0]))
        assert (rows != 0).any(1).tolist() == [True, True, False]

    def test_an_input_that_the_rule_does_not_ask_for(self, ask) -> None:
        found = ask(lambda r: r.give(r.axes(0)))
        assert found.reasons == []  # that it stays is what the rule says
        assert found.free("a") == [True, True]
        assert found.free("b") == [False, False]

    def test_new_elements_that_the_node_cannot_give_fewer_of(self, ask) -> None:
        def rule(r: Relation) -> None:
            r.leave(*r.axes(0), *r.axes(1))
            r.give([r.atoms.fresh(3), fixed(4)])

        found = ask(rule)
        assert found.reasons == [FEWER]
        assert found.free("c") == [False, False]
        assert found.free("a") == [True, True]

    def test_an_input_that_hides_behind_another_with_the_same_atoms(self, ask) -> None:
        def forgets(r: Relation) -> None:
            r.axes(1)
            r.give(r.axes(0))

        found = ask(forgets, "a, a")
        assert found.reasons == [ALONG, ALONG]
        assert found.free("a") == found.free("c") == [False, False]

        def ties(r: Relation) -> None:
            r.give(r.broadcast([r.axes(0), r.axes(1)]))

        found = ask(ties, "a, a")
        assert found.reasons == []
        assert found.free("a") == found.free("c") == [True, True]

    def test_what_is_said_apart_from_the_graph_leaves_no_trace_in_it(self, ask) -> None:
        def rule(r: Relation) -> None:
            r.mix(0, 0)
            r.mix(1, 0)
            r.leave(r.axes(0)[1], r.axes(1)[1])
            r.give([fixed(3), fixed(4)])

        found = ask(rule, "a, a")
        assert found.reasons == []
        assert [(mix.slot, mix.axis) for mix in found.graph.mixes] == [(0, 0), (1, 0)]
        assert found.free("a") == [True, True]


class TestWhatIsNotKnownFreezes:
    @pytest.mark.parametrize(
        ("error", "why"),
        [
            (Freeze("it has its reasons"), "it has its reasons"),
            (IndexError("no axis 7"), "it is not what its operator expects (IndexError: no axis 7)"),
        ],
    )
    def test_a_rule_that_fails_leaves_nothing_behind(self, ask, error: Exception, why: str) -> None:
        def rule(r: Relation) -> None:
            r.mix(0, 0)
            r.restate(r.axes(0)[0])
            r.shrink(lambda shrink: None)
            r.give(r.axes(0))
            raise error

        found = ask(rule)
        assert set(found.reasons) == {why}
        assert found.free("a") == found.free("b") == found.free("c") == [False, False]
        graph = found.graph
        assert not graph.mixes
        assert not graph.shrinks
        assert not graph.restated

    def test_an_operator_without_a_rule(self, ask) -> None:
        found = ask(None)
        assert set(found.reasons) == {"nothing is known about how its axes relate"}
        assert found.free("a") == found.free("b") == found.free("c") == [False, False]

    def test_an_operator_without_an_entry(self, make_model) -> None:
        head = '<ir_version: 8, opset_import: ["" : 18, "com.acme" : 1]>\n'
        text = "g (float[3,4] x) => (float[3,4] y) { c = com.acme.Warp(a, x)  y = Add(c, x) }"
        found = Asked(make_model(head + text, WEIGHTS))
        assert found.reasons == ["nothing is known about how its axes relate"]
        assert found.free("a") == [False, False]

    def test_bodies_and_what_they_take_from_outside(self, make_model) -> None:
        model = make_model(
            """g (bool k) => (float[3,4] y) {
                c = If(k) <then_branch = t () => (float[3,4] p) { p = Relu(a) },
                           else_branch = e () => (float[3,4] q) { q = Relu(b) }>
                y = Relu(c)
            }""",
            WEIGHTS,
        )
        found = Asked(model)
        assert set(found.reasons) == {"it holds a body of its own"}
        for name in WEIGHTS:
            axes = found.graph.axes(model.graph.initializers[name])
            assert [found.graph.atoms.resolve(axis).shape[1] for axis in axes] == [0, 0]
