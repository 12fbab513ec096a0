"""Mixtures of experts: a router chooses the ``k`` best of several small networks for each token.

Weights of all experts are one tensor with the experts in front: first layer (experts, units, width), second
layer (experts, width, units). An expert goes from the router and all weights; a unit goes from all experts,
whose weights one tensor holds; the width is that of input and output.

An expert that is gone is one whose score is the lowest there is: the softmax over all experts gives it zero,
and what is chosen, and by which shares, is what the others alone would give. Where fewer than ``k`` stay, the
rest of the ``k`` had no share before, and ``k`` becomes their number.
"""

from __future__ import annotations

import math

import onnx_ir as ir

from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.traits.atoms import Labels
from obs_onnx.passes.traits.lipschitz import pointwise
from obs_onnx.passes.traits.op import Op, related
from obs_onnx.passes.traits.relation import Freeze, Relation

__all__ = ["TABLE"]

_INTERLEAVED, _IN_A_ROW = 1, 2  # values of swiglu_fusion


def _linear(node: ir.Node) -> str | None:
    held = any(node_facts.constant(node, index) is not None for index in (2, 4, 5))
    return "weights of experts go by whole units and experts alone" if held else None


def _macs(node: ir.Node) -> int:
    """Each token meets the layers of ``k`` experts."""
    chosen = node_facts.int_attribute(node, "k", 1)
    layers = [node_facts.dims(node_facts.input_of(node, index)) for index in (2, 4, 6)]
    each = sum(math.prod(dim or 1 for dim in dims[1:]) for dims in layers if dims)
    dims = node_facts.dims(node.inputs[0]) or (1,)
    return math.prod(dim or 1 for dim in dims[:-1]) * chosen * each


def _choose(r: Relation) -> Labels:
    """The experts, as the router has them; tokens stay."""
    x, router = r.axes(0), r.axes(1)
    r.fix([*x[:-1], *router[:-1]], "each token has a row of its own in the scores of the router")
    if r.integer("use_sparse_mixer"):
        r.fix(router[-1], "its router counts the scores of all experts against each other twice")
    r.mix(1, len(router) - 1, "low")
    r.shrink(lambda s: s.attribute("k", min(r.integer("k", 1), s.count(router[-1]))))
    return router[-1]


def _units(r: Relation, rows: Labels, units: Labels) -> None:
    """Rows of the first layer by hidden units: one, or a gate and what it gates, for each of them."""
    if len(rows) == len(units):
        r.tie(rows, units)
        return
    layout = r.integer("swiglu_fusion")
    if len(rows) != 2 * len(units) or layout not in (_INTERLEAVED, _IN_A_ROW):
        raise Freeze("how the rows of its first layer make its hidden units is not known")
    inside = layout == _INTERLEAVED
    unit, gate = r.atoms.split(rows, [len(units), 2] if inside else [2, len(units)])[:: 1 if inside else -1]
    r.fix(gate)
    r.tie(unit, units)


def _relate(r: Relation) -> None:
    """com.microsoft MoE: first layer, its bias, second, its bias, and a third for gates, in inputs 2 to 7."""
    experts, width = _choose(r), r.axes(0)[-1]
    first, second = r.axes(2), r.axes(4)
    _units(r, first[1], second[2])
    r.tie(first[2], width)
    r.tie(second[1], width)
    if r.has(6):
        r.tie(r.axes(6)[1], second[2])
        r.tie(r.axes(6)[2], width)
        r.mix(6, 2)
    for slot, rows in ((3, first[1]), (5, second[1]), (7, second[2])):
        if r.has(slot):
            r.tie(r.axes(slot)[1], rows)
    for slot in range(2, len(r.node.inputs)):
        if r.has(slot):
            r.tie(r.axes(slot)[0], experts)
    r.mix(2, 2)
    r.mix(4, 2)
    r.give([r.atoms.resolve(labels) for labels in r.axes(0)])


def _relate_quantized(r: Relation) -> None:
    """com.microsoft QMoE: experts go; widths and units are packed in blocks, and stay."""
    if any(r.has(slot) for slot in range(14, len(r.node.inputs))) or r.integer("weights_prepacked") > 0:
        raise Freeze("its shares come from another input, or its weights are laid out for a device")
    experts, x = _choose(r), r.axes(0)
    r.fix(x[-1], "its weights are packed in blocks of several elements")
    for slot in range(2, len(r.node.inputs)):
        if r.has(slot):
            axes = r.axes(slot)
            r.tie(axes[0], experts)
            r.fix(axes[1:], "its weights are packed in blocks of several elements")
    r.give([r.atoms.resolve(labels) for labels in x])


TABLE = related(
    {
        "com.microsoft::MoE": Op(linear=_linear, macs=_macs, lipschitz=pointwise(None)),
        "com.microsoft::QMoE": Op(linear=_linear, lipschitz=pointwise(None), quantizes=True),
    },
    {
        _relate: "com.microsoft::MoE",
        _relate_quantized: "com.microsoft::QMoE",
    },
)
