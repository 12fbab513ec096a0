"""Graphs cut into blocks: each value once, few weights in each, and where little crosses."""

from __future__ import annotations

import nets
import numpy as np
import onnx_ir as ir
import pytest

from obs_onnx.passes.canonical.canonicalize import canonicalize
from obs_onnx.passes.layers.blocks import cut_into_blocks


def chain(count: int, width: int, make_model) -> ir.Model:
    """``count`` times a product with a matrix and its sine on top: two values cross in between."""
    lines, weights, x = [], {}, "x"
    for k in range(count):
        lines.append(f"h{k} = MatMul({x}, w{k})  s{k} = Sin(h{k})  y{k} = Add(h{k}, s{k})")
        weights[f"w{k}"], x = np.eye(width, dtype=np.float32), f"y{k}"
    text = f"g (float[N,{width}] x) => (float[N,{width}] {x}) {{ {'  '.join(lines)} }}"
    return make_model(text, weights)


def test_blocks_end_where_one_value_crosses(make_model) -> None:
    blocks = cut_into_blocks(chain(6, 8, make_model).graph, 2 * 8 * 8 * 4)
    assert [block.given for block in blocks] == [("x",), ("y1",), ("y3",)]
    assert [block.results for block in blocks] == [("y1",), ("y3",), ("y5",)]


def test_a_weight_that_is_larger_has_a_block_of_its_own(make_model) -> None:
    blocks = cut_into_blocks(chain(3, 8, make_model).graph, 1)
    assert [name for block in blocks for name in block.results if name.startswith("h")] == ["h0", "h1", "h2"]


def test_a_weight_that_is_read_twice_counts_once(make_model) -> None:
    text = "g (float[N,4] x) => (float[N,4] z) { y = MatMul(x, w)  z = MatMul(y, w) }"
    model = make_model(text, {"w": np.eye(4, dtype=np.float32)})
    assert [block.results for block in cut_into_blocks(model.graph, 64)] == [("z",)]


def test_no_cut_goes_through_a_sequence(make_model) -> None:
    text = """g (float[N,4] x) => (float[N,4] y) {
        h = MatMul(x, w)  s = SequenceConstruct(h)  r = SequenceAt(s, one)  y = MatMul(r, v)
    }"""
    weights = {"w": np.eye(4, dtype=np.float32), "v": np.eye(4, dtype=np.float32), "one": np.array(0)}
    model = canonicalize(make_model(text, weights))
    given = {name for block in cut_into_blocks(model.graph, 1) for name in block.given}
    assert "s" not in given
    assert "r" in given


@pytest.mark.parametrize("name", sorted(nets.NETS))
def test_what_a_block_reads_was_given_before(name: str) -> None:
    model = canonicalize(ir.from_proto(nets.NETS[name]()))
    known = {str(value.name) for value in model.graph.inputs}
    for block in cut_into_blocks(model.graph, 1000):
        assert known >= set(block.given)
        known |= set(block.results)
    assert known >= {str(value.name) for value in model.graph.outputs}
