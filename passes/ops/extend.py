"""Operators that repeat or add elements.

Repeating an element r times has norm sqrt(r); what is added is constant.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.ops.vjp.select import EXTENSIONS
from obs_onnx.passes.ops.vjp.shape import REPEATS
from obs_onnx.passes.traits.atoms import Labels, fixed, joined
from obs_onnx.passes.traits.lipschitz import data_only, most_often, pointwise, stretched
from obs_onnx.passes.traits.op import Op, differentiable, related
from obs_onnx.passes.traits.relation import Freeze, Relation
from obs_onnx.passes.traits.shrink import Shrink

__all__ = ["TABLE"]


def _pad(node: ir.Node) -> float | None:
    """Zeros add nothing; reflected, repeated and wrapped elements occur several times."""
    mode = node_facts.text_attribute(node, "mode", "constant")
    if mode == "constant":
        return 1.0
    shape, pads = (
        node_facts.dims(node.inputs[0]),
        node_facts.ints_attribute(node, "pads") or node_facts.ints_input(node, 1),
    )
    if shape is None or not pads or mode not in ("reflect", "edge", "wrap"):
        return None
    all_axes = node_facts.input_of(node, 3) is None
    axes = tuple(range(len(shape))) if all_axes else node_facts.ints_input(node, 3)
    if axes is None or 2 * len(axes) != len(pads):
        return None
    bound = 1.0
    for i, axis in enumerate(axes):
        length, before, after = shape[axis], pads[i], pads[len(axes) + i]
        if max(before, after) <= 0:
            continue
        if length is None:
            return None
        # what is cut off at one end may go before or after the other end is padded
        lengths = {length, length + min(0, before) + min(0, after)}
        if min(lengths) < 1:
            return None
        amounts = max(0, before), max(0, after)
        bound *= max(most_often(np.pad(np.arange(n), amounts, mode=mode)) for n in lengths)  # type: ignore[call-overload]
    return bound


def _tile(node: ir.Node) -> float | None:
    """Each element as often as the axes are repeated together."""
    repeats = node_facts.ints_input(node, 1)
    return None if repeats is None else math.sqrt(math.prod(repeats))


def _relate_pad(r: Relation) -> None:
    """Added constants may go again; other modes repeat neighbours and need them all."""
    x, y = r.axes(0), r.shape()
    attribute, axes = r.integers("pads"), tuple(range(len(x)))
    if r.has(3) and (given := r.constant(3)) is not None:
        axes = tuple(int(a) % len(x) for a in given)
    known = r.known(1) if attribute is None else (np.array(attribute), np.zeros(len(attribute), bool))
    if known is None or (r.has(3) and r.constant(3) is None):
        raise Freeze("how much it adds is computed at run time")
    pads = known[0].reshape(2, -1)
    varies = np.atleast_1d(known[1].reshape(2, -1).any(0))
    constant = r.node.attributes.get_string("mode", "constant") == "constant"
    out = list(x)
    ends: dict[int, tuple[Labels, Labels]] = {}
    for i, axis in enumerate(axes):
        before, after = (int(n) for n in pads[:, i])
        if not before and not after and not varies[i]:
            continue
        if not constant or before < 0 or after < 0 or varies[i] or r.dynamic(0, axis):
            r.fix(x[axis], "it adds elements that depend on their neighbours, or a varying number")
            out[axis] = fixed(y[axis])
        elif r.atoms.resolve(x[axis]).shape[1]:
            ends[i] = r.atoms.fresh(before), r.atoms.fresh(after)
            out[axis] = joined([ends[i][0], x[axis], ends[i][1]])
        else:
            out[axis] = fixed(y[axis])
    r.give(out)

    def shrink(s: Shrink) -> None:
        now = np.array(pads, np.int64)
        for i, (before, after) in ends.items():
            now[:, i] = s.count(before), s.count(after)
        if attribute is None:
            s.operand(1, now.reshape(-1))
        else:
            s.attribute("pads", now.reshape(-1).tolist())

    if ends:
        r.shrink(shrink)


def _relate_expand(r: Relation) -> None:
    """New elements along an axis are copies, any number of which may go; the shape follows."""
    x, y = r.axes(0), r.shape()
    lead = len(y) - len(x)
    known = r.known(1)
    out: list[Labels] = []
    for i, n in enumerate(y):
        labels = x[i - lead] if i >= lead else fixed(1)
        if len(labels) == n:
            out.append(labels)
        else:
            out.append(fixed(n) if known is None or r.out_dynamic(i) else r.atoms.fresh(n))
    r.give(out)
    if known is None:
        if any(labels.shape[1] for labels in x):
            raise Freeze("its shape is computed at run time")
        return
    target, varies = known
    sizes = out[len(y) - len(target) :]
    for labels in (labels for labels, marked in zip(sizes, varies, strict=True) if marked):
        r.restate(labels)

    def shrink(s: Shrink) -> None:
        after = s.shape(sizes)
        wanted = np.array([1 if d == 1 else n for d, n in zip(target, after, strict=True)])
        s.operand(1, wanted, [r.atoms.resolve(labels) for labels in sizes])

    r.shrink(shrink)


def _relate_tile(r: Relation) -> None:
    """The axis several times over; an axis of one element becomes copies that may go."""
    x, y = r.axes(0), r.shape()
    known = r.known(1)
    out: list[Labels] = []
    made: dict[int, Labels] = {}
    for i, (labels, n) in enumerate(zip(x, y, strict=True)):
        if len(labels) == n:
            out.append(labels)
        elif known is None or known[1][i] or r.dynamic(0, i):
            r.fix(labels, "how often it repeats is computed at run time")
            out.append(fixed(n))
        elif len(labels) == 1:
            made[i] = r.atoms.fresh(n)
            out.append(made[i])
        else:
            out.append(np.tile(labels, (n // len(labels), 1)))
    r.give(out)

    def shrink(s: Shrink) -> None:
        repeats = s.dense(1).copy()
        for i, labels in made.items():
            repeats[i] = s.count(labels)
        s.operand(1, repeats)

    if made:
        r.shrink(shrink)


def _relate_fill(r: Relation) -> None:
    """ConstantOfShape: all elements are alike, any number may go."""
    y = r.shape()
    known = r.known(0)
    free = (
        known is not None
        and r.graph.concrete.values.get(r.node.outputs[0], np.zeros(0)).dtype.kind not in "iu"
    )
    out = [fixed(n) if r.out_dynamic(i) or not free else r.atoms.fresh(n) for i, n in enumerate(y)]
    r.give(out)
    if free:
        r.shrink(lambda s: s.operand(0, np.array(s.shape(out))))


_KNOWN = related(
    {
        "Pad": Op(lipschitz=data_only(_pad)),
        "Expand": Op(lipschitz=data_only(lambda node: stretched(node.inputs[0], node.outputs[0]))),
        "Tile": Op(lipschitz=data_only(_tile)),
        "ConstantOfShape": Op(lipschitz=pointwise(None)),
    },
    {
        _relate_pad: "Pad",
        _relate_expand: "Expand",
        _relate_tile: "Tile",
        _relate_fill: "ConstantOfShape",
    },
)

TABLE = differentiable(_KNOWN, {**EXTENSIONS, **REPEATS})
