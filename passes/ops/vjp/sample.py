"""GridSample written out, which is how it is differentiated: with respect to the image and to the grid.

A place p between the whole places k of an axis takes ``sum_k max(0, 1 - |p - k|) x[k]``, axis by axis.
Outside of the image x is zero, that of the border, or that of the place reflected at the border.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product

import onnx_ir as ir

from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.ops.vjp.composite import composite
from obs_onnx.passes.traits.vjp import Vjp

__all__ = ["RULES"]


def _sample(v: Vjp, inputs: Sequence[ir.Value | None]) -> list[ir.Value | None]:
    """Image (N, C, *L), grid (N, *P, D) of places from -1 to 1, the last axis of the image first."""
    x, grid = inputs[:2]
    assert x is not None
    assert grid is not None
    mode = node_facts.text_attribute(v.node, "mode", "linear")
    if mode not in ("linear", "bilinear", "nearest"):
        v.refuse(f"its mode is {mode}")
    rank = v.rank(x) - 2
    places_NPD = v.reshape(grid, [0, -1, rank])
    sizes = [v.cast(v.size_of(x, 2 + axis), grid) for axis in range(rank)]
    axes = []
    for axis in range(rank):
        column = rank - 1 - axis
        place = v.squeeze(v.slice(places_NPD, [column], [column + 1], [2]), [2])
        axes.append(_neighbours(v, _unscaled(v, place, sizes[axis]), sizes[axis], mode))
    image = v.reshape(x, [0, 0, -1])
    shape = v.op("Concat", v.size_of(x, 0), v.size_of(x, 1), v.size_of(places_NPD, 1), axis=0)
    total = None
    for corner in product(*axes):
        place, weight = corner[0]
        for (other, share), size in zip(corner[1:], sizes[1:], strict=True):
            place, weight = v.add(v.mul(place, size), other), v.mul(weight, share)
        index = v.op("Expand", v.unsqueeze(v.op("Cast", place, to=int(ir.DataType.INT64)), [1]), shape)
        taken = v.mul(v.op("GatherElements", image, index, axis=2), v.unsqueeze(weight, [1]))
        total = taken if total is None else v.add(total, taken)
    assert total is not None
    outer = v.slice(v.op("Shape", grid), [1], [-1], [0])
    full = v.op("Concat", v.size_of(x, 0), v.size_of(x, 1), outer, axis=0)
    return [v.shaped(v.reshape(total, full), v.y())]


def _unscaled(v: Vjp, place: ir.Value, size: ir.Value) -> ir.Value:
    """From -1 ... 1, the centres of the outer elements or their outer edges, to numbers of elements."""
    half = v.mul(v.add(place, 1.0), 0.5)
    if node_facts.int_attribute(v.node, "align_corners"):
        return v.mul(half, v.sub(size, 1.0))
    return v.sub(v.mul(half, size), 0.5)


def _neighbours(v: Vjp, place: ir.Value, size: ir.Value, mode: str) -> list[tuple[ir.Value, ir.Value]]:
    """Whole places inside the image with their weights."""
    if mode == "nearest":
        low = v.op("Round", place)
        return [_inside(v, low, v.filled(1.0, low), size)]
    low = v.op("Floor", place)
    share = v.sub(place, low)
    return [_inside(v, low, v.sub(1.0, share), size), _inside(v, v.add(low, 1.0), share, size)]


def _inside(v: Vjp, place: ir.Value, weight: ir.Value, size: ir.Value) -> tuple[ir.Value, ir.Value]:
    padding = node_facts.text_attribute(v.node, "padding_mode", "zeros")
    last = v.sub(size, 1.0)
    if padding == "reflection":
        aligned = node_facts.int_attribute(v.node, "align_corners")
        edge, span = (0.0, v.op("Max", last, v.constant(1.0, last))) if aligned else (-0.5, size)
        period, distance = v.mul(span, 2.0), v.sub(place, edge)
        along = v.sub(distance, v.mul(v.op("Floor", v.div(distance, period)), period))
        place = v.add(v.op("Min", along, v.sub(period, along)), edge)
    kept = v.op("Min", v.op("Max", place, v.constant(0.0, place)), last)
    if padding == "zeros":
        weight = v.where(v.op("Equal", kept, place), weight, 0.0)
    return kept, weight


RULES: Mapping[Callable[[Vjp], None], str] = {composite(_sample): "GridSample"}
