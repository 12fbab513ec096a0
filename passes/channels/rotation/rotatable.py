"""Groups of channels without a basis of their own: which can be rotated, and what keeps the others.

An orthogonal matrix may stand between all that gives channels of a group and all that reads them, when every
node in between commutes with it: sums of members of the group, moves along other axes, products with what is
the same for all channels, and norms over exactly this axis. Scales per channel between a norm and its readers
go into the readers first. A mean over the channels (LayerNormalization) and what is added to all of them
alike commute with matrices that keep the vector of ones.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from obs_onnx.passes.channels.coupling import Coupling, Group
from obs_onnx.passes.channels.rotation.scan import Fold, Rotatable, Scan, Stays, Treatment
from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.graph.scopes import reads
from obs_onnx.passes.ops import key, linear, lookup
from obs_onnx.passes.traits.linear import Linear

__all__ = ["rotatable"]


def rotatable(coupling: Coupling, group: Group) -> Rotatable:
    """How a group can be rotated.

    Raises:
        Stays: it cannot.
    """
    scan = Scan(coupling, group)
    for node in coupling.model.graph:
        _visit(scan, node)
    return scan.found()


def _visit(scan: Scan, node: ir.Node) -> None:
    """Take in what a node does.

    Raises:
        Stays: it does not commute with a rotation.
    """
    touched = [value for value in (*reads(node), *node.outputs) if scan.axes(value)]
    if not touched and not any(value in scan.squares for value in reads(node)):
        if any(value in scan.lengths for value in reads(node)):
            scan.lengths.update(node.outputs)
        return
    for value in touched:
        scan.check(node, value)
    op = lookup(node)
    if op.shape_only:
        return
    rule = _RULES.get(key(node), _alike if op.view or op.additive else None)
    if rule is not _reduced and any(value in scan.squares for value in reads(node)):
        raise Stays(f"{node.name} ({key(node)}) reads squares of single channels")
    if found := linear(node):
        _layer(scan, node, found)
        return
    if rule is None:
        raise Stays(f"{node.name} ({key(node)}) does not treat all of its channels alike")
    rule(scan, node)


def _over(fold: Fold) -> Fold:
    return tuple((name, -power) for name, power in fold)


def _layer(scan: Scan, node: ir.Node, found: Linear) -> None:
    """A constant weight: it gives the group, reads it, or leaves it alone."""
    weight, x = node.inputs[found.weight_input], node.inputs[found.data_input]
    assert weight is not None
    assert x is not None
    if found.layout.goi[0] > 1:
        raise Stays(f"{node.name} ({key(node)}) treats groups of channels by themselves")
    if found.integers is not None:
        raise Stays(f"{weight.name} is stored as integers")
    data, constants, others = scan.parted(node)
    summed = {mix.axis for mix in scan.mixes.get(node, []) if node.inputs[mix.slot] is weight}
    made = False
    for axis in scan.axes(weight):
        if axis in summed:
            scan.treat(weight, axis, Treatment(scan.scale(x)))
            scan.readers[str(weight.name)] = x in scan.normed
        else:
            scan.treat(weight, axis, Treatment())
            made = True
    outside = [value for value in data if value is not x]
    passes = not made and any(map(scan.axes, node.outputs))
    if passes and (outside or [value for value in others if value is not weight]):
        scan.lean(node, x, *outside)
    scan.plain(node, *outside)
    if passes and len(constants) > (weight in constants):
        scan.plain(node, x)
    for value in constants:
        if value is not weight:
            scan.turn(value)
    if passes:
        scan.give(node, scan.scale(x))


def _product(scan: Scan, node: ir.Node) -> None:
    """Activations multiplied by each other: over the channels of both, or of one by what is no channel."""
    data, constants, _ = scan.parted(node)
    if constants or len(data) > 2 or len(node.inputs) > 2:
        raise Stays(f"{node.name} ({key(node)}) is no product of two activations")
    if scan.mixes.get(node):
        scan.plain(node, *data)
        if len(data) != 2 or any(map(scan.axes, node.outputs)):
            raise Stays(f"{node.name} ({key(node)}) sums its channels")
    elif len(data) != 1:
        raise Stays(f"{node.name} ({key(node)}) multiplies its channels by each other")
    else:
        scan.give(node, scan.scale(data[0]))


def _alike(scan: Scan, node: ir.Node) -> None:
    """Linear in all that goes in, in the same way for all channels."""
    data, constants, others = scan.parted(node)
    if scan.mixes.get(node):
        raise Stays(f"{node.name} ({key(node)}) sums its channels")
    folds = {scan.scale(value) for value in data}
    if len(folds) > 1:
        raise Stays(f"{node.name} ({key(node)}) meets values of different scales per channel")
    fold = next(iter(folds), ())
    if others and lookup(node).additive and len(node.inputs) > 1:
        scan.lean(node, *data)
    for value in constants:
        scan.turn(value, _over(fold))
    scan.give(node, fold)


def _cast(scan: Scan, node: ir.Node) -> None:
    """Numbers of another precision."""
    if not scan.is_number(node.outputs[0]):
        raise Stays(f"{node.name} (Cast) does not treat all of its channels alike")
    _alike(scan, node)


def _scaled(scan: Scan, node: ir.Node) -> None:
    """Mul and Div: by what is the same for all channels, by a constant for each, or a square."""
    data, constants, _ = scan.parted(node)
    if len(data) == 2 and data[0] is data[1] and key(node) == "Mul":
        _square(scan, node)
        return
    if len(data) != 1 or (key(node) == "Div" and node.inputs[0] is not data[0]):
        raise Stays(f"{node.name} ({key(node)}) is not linear in its channels")
    fold = scan.scale(data[0])
    for value in constants:
        fold += scan.factor(node, value, 1 if key(node) == "Mul" else -1)
    scan.give(node, fold)


def _square(scan: Scan, node: ir.Node) -> None:
    """Squares whose sum or mean over all channels is all that is read."""
    data, _, _ = scan.parted(node)
    if key(node) == "Pow":
        power = node_facts.array(node, 1)
        if len(data) != 1 or data[0] is not node.inputs[0] or power is None or (power != 2).any():
            raise Stays(f"{node.name} (Pow) is not linear in its channels")
    scan.plain(node, *data)
    scan.squares.update(node.outputs)


def _reduced(scan: Scan, node: ir.Node) -> None:
    """A sum or mean: over other axes, of squares, or over the channels."""
    x = node.inputs[0]
    assert x is not None
    if not scan.mixes.get(node) and x in scan.squares:
        raise Stays(f"{node.name} ({key(node)}) reads squares of single channels")
    if not scan.mixes.get(node):
        _alike(scan, node)
    elif x in scan.squares:
        scan.lengths.update(node.outputs)
    else:
        if not scan.fits(x, scan.axes(x)[0]):
            raise Stays(f"{node.name} ({key(node)}) sums its channels with others")
        scan.lean(node, x)


def _length(scan: Scan, node: ir.Node) -> None:
    """The length of the vector of channels, or that vector over its length."""
    data, _, _ = scan.parted(node)
    if not scan.mixes.get(node) or node.attributes.get_int("p", 2) != 2:
        raise Stays(f"{node.name} ({key(node)}) is not linear in its channels")
    scan.plain(node, *data)
    scan.lengths.update(node.outputs)
    scan.give(node)
    scan.normed.update(node.outputs)


def _normed(scale: int, shift: int | None) -> Callable[[Scan, ir.Node], None]:
    """A norm over the channels, whose inputs have these positions."""

    def rule(scan: Scan, node: ir.Node) -> None:
        data, constants, _ = scan.parted(node)
        mixes = scan.mixes.get(node, [])
        if not mixes or not scan.fits(data[0], scan.axes(data[0])[0]):
            raise Stays(f"{node.name} ({key(node)}) normalises other axes than its channels")
        scan.plain(node, *data)
        scan.keeps_ones |= any(mix.kind == "normalize" for mix in mixes)
        by_slot = {slot: value for slot, value in enumerate(node.inputs) if value in constants}
        if scale not in by_slot:
            raise Stays(f"{node.name} ({key(node)}) has a scale that is computed")
        fold = scan.factor(node, by_slot.pop(scale), 1)
        for slot, value in by_slot.items():
            scan.turn(value, _over(fold) if slot == shift else ())
        scan.give(node)
        scan.scales[node.outputs[0]] = fold
        scan.normed.add(node.outputs[0])

    return rule


def _picked(scan: Scan, node: ir.Node) -> None:
    """Gather: rows of a table whose columns are channels, or places."""
    data, constants, _ = scan.parted(node)
    table = node.inputs[0]
    if scan.mixes.get(node) or table not in [*data, *constants]:
        raise Stays(f"{node.name} ({key(node)}) picks channels")
    if data:
        scan.give(node, scan.scale(data[0]))
        return
    scan.turn(constants[0])
    scan.give(node)


_RULES: dict[str, Callable[[Scan, ir.Node], None]] = {
    **dict.fromkeys(("MatMul", "Gemm", "com.microsoft::FusedMatMul"), _product),
    **dict.fromkeys(("Slice", "Expand", "Tile", "Neg"), _alike),
    "Cast": _cast,
    **dict.fromkeys(("Mul", "Div"), _scaled),
    "Pow": _square,
    **dict.fromkeys(("ReduceMean", "ReduceSum"), _reduced),
    **dict.fromkeys(("ReduceL2", "ReduceSumSquare", "LpNormalization"), _length),
    "Gather": _picked,
    "LayerNormalization": _normed(1, 2),
    **dict.fromkeys(("RMSNormalization", "SimplifiedLayerNormalization"), _normed(1, None)),
    "com.microsoft::SkipLayerNormalization": _normed(2, 3),
    "com.microsoft::SkipSimplifiedLayerNormalization": _normed(2, None),
}
