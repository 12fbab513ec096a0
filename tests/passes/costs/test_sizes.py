"""Sizes as polynomials, against the shapes that removal leaves."""

from __future__ import annotations

import nets
import numpy as np
import onnx_ir as ir
import pytest
from channel_helpers import counted, random_keep

from obs_onnx.passes.canonical.own_constants import prepare
from obs_onnx.passes.channels.coupling import couple
from obs_onnx.passes.costs.polynomials import Polynomial
from obs_onnx.passes.costs.sizes import Sizes


@pytest.mark.parametrize("name", sorted(nets.NETS))
def test_elements_of_every_value_are_those_of_the_smaller_model(name: str) -> None:
    coupling = couple(prepare(ir.from_proto(nets.NETS[name]())))
    sizes = Sizes(coupling)
    assert sizes.full == {group.id: group.n for group in coupling.groups}
    for seed in range(3):
        keep = random_keep(coupling, seed)
        counts, shapes = counted(keep), coupling.shapes(keep)
        for value, shape in shapes.items():
            elements = sizes.elements(value)
            assert elements is not None
            assert Polynomial(elements, sizes.full).value(counts) == pytest.approx(np.prod(shape), rel=1e-12)
            scaled = Polynomial(sizes.scaled(value, 1000.0), sizes.full)
            whole = np.prod(coupling.graph.concrete.shapes[value])
            assert scaled.value({}) == pytest.approx(1000)
            assert scaled.value(counts) == pytest.approx(1000 * np.prod(shape) / whole)


def test_heads_times_widths_and_parts_in_a_row() -> None:
    coupling = couple(prepare(ir.from_proto(nets.transformer(tokens=6, width=24, heads=4))))
    sizes = Sizes(coupling)
    value = coupling.model.graph.initializers["v.weight"]
    (heads,) = (group.id for group in coupling.groups if group.n == 4)
    term = sizes.axis(coupling.axes(value)[1])
    (((one, p), (other, q)),) = term
    assert heads in (one, other)
    assert (p, q) == (1, 1)
    assert list(term.values()) == [1]
    chain = couple(prepare(ir.from_proto(nets.concatenated())))
    last = max(chain.model.graph.initializers.values(), key=lambda v: v.name == "head.weight")
    assert sum(Sizes(chain).axis(chain.axes(last)[1]).values()) * 8 == 32


def test_a_value_of_unknown_shape_counts_as_when_dense(make_model) -> None:
    head = '<ir_version: 8, opset_import: ["" : 18, "com.acme" : 1]>\n'
    model = prepare(
        make_model(head + "g (float[N,4] x) => (float[N,4] y) { a = com.acme.Warp(x)  y = Relu(a) }")
    )
    sizes = Sizes(couple(model))
    unknown = model.graph[0].outputs[0]
    assert sizes.elements(unknown) is None
    assert sizes.scaled(unknown, 7.0) == {(): 7.0}
