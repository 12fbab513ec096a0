"""What a rule may say about axes: ties, broadcasts, regrouping, fixed and mixed elements."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from obs_onnx.passes.shapes.concrete import concretize
from obs_onnx.passes.traits.atoms import Atoms, Labels, fixed
from obs_onnx.passes.traits.relation import Freeze, Graph, Relation


def graph_of(model: ir.Model) -> Graph:
    return Graph(Atoms(), concretize(model), 18)


@pytest.fixture
def relation(make_model) -> Relation:
    """Of a Gather with a table, an index that is an input, and nothing else."""
    text = "g (int64[N,3] i) => (float[N,3,5] y) { y = Gather <axis = 0> (table, i) }"
    model = make_model(text, {"table": np.ones((7, 5), np.float32)})
    return Relation(model.graph[0], graph_of(model))


def same(relation: Relation, a: Labels, b: Labels) -> bool:
    return np.array_equal(relation.atoms.resolve(a), relation.atoms.resolve(b))


def test_elements_of_constants_may_die_and_those_of_inputs_may_not(relation: Relation) -> None:
    rows, columns = relation.axes(0)
    assert (rows.shape, columns.shape) == ((7, 1), (5, 1))
    assert not set(rows.ravel()) & set(columns.ravel())
    assert [labels.shape for labels in relation.axes(1)] == [(3, 0), (3, 0)]
    assert relation.asked == {0, 1}
    assert [relation.has(slot) for slot in range(3)] == [True, True, False]


def test_sizes_constants_and_what_varies(relation: Relation) -> None:
    assert relation.shape() == (3, 3, 5)
    assert [relation.dynamic(1, axis) for axis in (0, 1)] == [True, False]
    assert [relation.out_dynamic(axis) for axis in (0, 1, 2)] == [True, False, False]
    assert relation.constant(0).shape == (7, 5)
    assert relation.constant(1) is None
    assert relation.constant(2) is None
    assert relation.known(1) is None
    array, marks = relation.known(0)
    assert array.shape == marks.shape == (7, 5)
    assert not marks.any()
    assert relation.integer("axis", 3) == 0
    assert relation.integer("none", 3) == 3
    assert relation.integers("none") is None


def test_given_axes_must_have_the_inferred_lengths(relation: Relation) -> None:
    rows, columns = relation.axes(0)
    with pytest.raises(Freeze, match="does not follow"):
        relation.give([fixed(3), columns])
    relation.give([fixed(3), fixed(3), columns])
    assert relation.graph.labels[relation.node.outputs[0]][2] is columns
    relation.give([rows], index=4)  # an output that is not there


class TestBroadcast:
    def test_axes_of_length_one_follow_and_others_are_tied(self, relation: Relation) -> None:
        a, b, c = (relation.atoms.fresh(n) for n in (4, 4, 3))
        found = relation.broadcast([[a, c], [b, fixed(1)], [fixed(1)]])
        assert same(relation, found[0], a)
        assert same(relation, found[1], c)
        assert same(relation, a, b)

    def test_the_shorter_operand_is_aligned_at_its_end(self, relation: Relation) -> None:
        a, b = relation.atoms.fresh(4), relation.atoms.fresh(3)
        found = relation.broadcast([[b], [a, relation.atoms.fresh(3)]])
        assert [len(labels) for labels in found] == [4, 3]
        assert same(relation, found[1], b)
        assert relation.broadcast([]) == []

    def test_lengths_that_do_not_fit(self, relation: Relation) -> None:
        with pytest.raises(Freeze, match="4 and 3 elements meet"):
            relation.broadcast([[relation.atoms.fresh(4)], [relation.atoms.fresh(3)]])


class TestRegroup:
    """An element of the result dies exactly if the element at its place did."""

    @pytest.mark.parametrize(
        ("lengths", "sizes"),
        [
            ((2, 12), (2, 3, 4)),
            ((2, 3, 4), (2, 12)),
            ((6, 4), (6, 4)),
            ((6, 4), (2, 3, 4)),
            ((2, 3, 4), (6, 4)),
            ((4, 1, 3), (4, 3)),
            ((12,), (1, 12, 1)),
        ],
    )
    def test_elements_keep_their_places(self, relation: Relation, lengths: tuple, sizes: tuple) -> None:
        atoms = relation.atoms
        axes = [atoms.fresh(n) for n in lengths]
        found = relation.regroup(axes, sizes)
        assert tuple(len(labels) for labels in found) == sizes
        alive = np.random.default_rng(0).random(atoms.count) < 0.7
        alive[0] = True

        def stays(labels: list[Labels]) -> np.ndarray:
            masks = np.meshgrid(*(alive[atoms.resolve(one)].all(1) for one in labels), indexing="ij")
            return np.logical_and.reduce(masks).reshape(-1)

        np.testing.assert_array_equal(stays(axes), stays(found))
        assert any(atoms.resolve(labels).shape[1] for labels in found)

    @pytest.mark.parametrize("sizes", [(5,), (2, 0), (7, 2)])
    def test_sizes_that_do_not_match(self, relation: Relation, sizes: tuple) -> None:
        with pytest.raises(Freeze, match="do not match"):
            relation.regroup([relation.atoms.fresh(6)], sizes)


def test_what_is_fixed_is_told_only_where_it_could_have_died(relation: Relation) -> None:
    rows, columns = relation.axes(0)
    relation.fix(rows, "reason")
    relation.fix(rows, "again")
    relation.fix([fixed(3)], "nothing to fix")
    relation.fix(columns)  # without a reason nobody is told
    assert relation.graph.frozen == [(relation.node, "reason")]
    assert relation.atoms.resolve(rows).shape == (7, 0)
    assert relation.atoms.resolve(columns).shape == (5, 0)


def test_elements_that_are_combined_along_an_axis_of_varying_size_are_fixed(make_model) -> None:
    text = "g (float[N,4] x) => (float[1,4] y) { c = Mul(x, w)  y = ReduceSum(c, axis) }"
    model = make_model(text, {"w": np.ones(4, np.float32), "axis": np.array([0])})
    graph = graph_of(model)
    multiply, total = (Relation(node, graph) for node in model.graph)
    free = graph.atoms.fresh(3)
    multiply.give([free, multiply.axes(1)[0]])
    total.mix(0, -1, "mean")
    assert graph.frozen == []
    total.mix(0, 0)
    assert graph.frozen == [(total.node, "it combines elements along an axis of varying size")]
    assert [(mix.slot, mix.axis, mix.kind) for mix in graph.mixes] == [(0, 1, "mean"), (0, 0, "sum")]


def test_a_value_of_unknown_shape_freezes(make_model) -> None:
    head = '<ir_version: 8, opset_import: ["" : 18, "com.acme" : 1]>\n'
    model = make_model(head + "g (float[N,4] x) => (float[N,4] y) { a = com.acme.Warp(x)  y = Relu(a) }")
    graph = graph_of(model)
    with pytest.raises(Freeze, match="shape of a is not known"):
        Relation(model.graph[1], graph).axes(0)
    with pytest.raises(Freeze, match="its output is not known"):
        Relation(model.graph[0], graph).shape()
