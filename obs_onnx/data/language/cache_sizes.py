"""Widths of caches that a model names but does not number: they follow from what reads the caches."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from obs_onnx.passes.canonical.canonicalize import plain
from obs_onnx.passes.errors import InputError
from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.graph.inputs import real_inputs
from obs_onnx.passes.ops import key, lookup
from obs_onnx.passes.shapes.concrete import Concrete, concretize

__all__ = ["implied_sizes"]


def implied_sizes(model: ir.Model) -> dict[str, int]:
    """Values of named free sizes of inputs that can have no other value: last axes of caches.

    Args:
        model: as it came in; it is not changed. Nothing is computed where no last axis is free.
    """
    wanted = {
        str(value.shape[-1].value)
        for value in real_inputs(model)
        if value.shape is not None and len(value.shape) >= 4 and not isinstance(value.shape[-1], int)
    }
    if not wanted:
        return {}
    try:
        whole = plain(model)
        concrete = concretize(whole)
    except InputError:  # what cannot be read off a graph is not known
        return {}
    found: dict[str, set[int]] = {}
    for value, width in _widths(whole, concrete):
        assert value.shape is not None
        name = value.shape[-1]
        if not isinstance(name, int) and name.value in wanted:
            found.setdefault(str(name.value), set()).add(width)
    return {name: min(widths) for name, widths in found.items() if len(widths) == 1}


def _widths(model: ir.Model, concrete: Concrete) -> Iterator[tuple[ir.Value, int]]:
    """Inputs with the width that a node that reads them needs."""
    inputs = {value for value in real_inputs(model) if value.shape is not None}
    for node in model.graph:
        for slot, value in enumerate(node.inputs):
            if value in inputs and value is not None and (width := _width(node, slot, value, concrete)):
                yield value, width


def _width(node: ir.Node, slot: int, cache: ir.Value, concrete: Concrete) -> int | None:
    """Of the last axis of ``cache``, which a slot of ``node`` takes."""
    if key(node) == "Concat":
        return next((width for one in node.inputs if (width := _last(one, concrete))), None)
    slots = dict(lookup(node).caches)
    if slot not in slots or len(concrete.shapes.get(cache, ())) != 4:
        return None
    own = node_facts.input_of(node, slots[slot])  # keys and values, which are outputs at the same places
    value = node.inputs[0] if own is None else own
    total = _last(value, concrete)
    if total is None or value is None:
        return None
    if len(concrete.shapes[value]) > 3:  # heads have an axis
        return total
    heads = node_facts.int_attribute(node, "q_num_heads") or node_facts.int_attribute(node, "num_heads")
    shared = node_facts.int_attribute(node, "kv_num_heads") or heads
    count = heads + 2 * shared if own is None else shared
    return total // count if count and total % count == 0 else None


def _last(value: ir.Value | None, concrete: Concrete) -> int | None:
    """Size of the last axis, where it is the same in every run."""
    if value is None or not concrete.shapes.get(value):
        return None
    dynamic = concrete.dynamic.get(value)
    return None if dynamic is None or dynamic[-1] else concrete.shapes[value][-1]
