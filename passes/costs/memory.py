"""Memory that activations take in one run, in the order in which the nodes stand.

A buffer holds a value from the node that produces it to the last one that reads it; inputs of the model are
there from the start, its outputs stay until the end. While a node runs, its inputs, its outputs and all that
a later node still reads are in memory at once:

    M(node) = sum of the bytes of all buffers that live at it,    peak = max over nodes of M(node)

1. Views (Reshape, Flatten, Squeeze, Unsqueeze, Identity) look at their input's buffer and take none of their
   own.
2. Initializers, and what follows from them alone, are weights and not activations.
3. No node writes over its input, and none is fused with another: a runtime that does either needs less. What
   a kernel takes for itself while it runs, and what happens inside the bodies of If, Loop and Scan, is not
   counted.

As a function of kept counts, the size of every value is a polynomial (:mod:`obs_onnx.passes.costs.sizes`),
and so is M of every node. A limit on the peak is a limit on each of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from obs_onnx.passes.channels.coupling import Coupling
from obs_onnx.passes.costs.polynomials import Polynomial, Terms, add
from obs_onnx.passes.costs.sizes import Sizes
from obs_onnx.passes.graph.scopes import reads
from obs_onnx.passes.ops import lookup
from obs_onnx.passes.shapes.concrete import concretize

__all__ = ["Memory", "Peak", "lifetimes", "peak_memory", "static_sizes"]


@dataclass(frozen=True)
class Peak:
    """The most memory that activations take at once.

    Attributes:
        bytes: of all buffers at that moment.
        node: the first node at which they are reached; None for a model without nodes.
    """

    bytes: int
    node: str | None


def lifetimes(graph: ir.Graph) -> dict[ir.Value, tuple[int, int]]:
    """First and last node, by number, at which the buffer of each value is in memory; views have none."""
    owner: dict[ir.Value, ir.Value] = {}
    spans: dict[ir.Value, tuple[int, int]] = {}
    for value in graph.inputs:
        if not value.is_initializer():
            owner[value], spans[value] = value, (0, 0)
    number = -1
    for number, node in enumerate(graph):
        read = [owner[value] for value in reads(node) if value in owner]
        for buffer in read:
            spans[buffer] = spans[buffer][0], number
        if not read and (node.inputs or node.op_type == "Constant"):  # 2.
            continue
        view = lookup(node).view and node.inputs[0] in owner
        for value in node.outputs:
            owner[value] = owner[node.inputs[0]] if view else value  # type: ignore[index]  # 1.
            if not view:
                spans[value] = number, number
    for value in graph.outputs:
        if value in owner:
            spans[owner[value]] = spans[owner[value]][0], max(number, 0)
    return spans


def peak_memory(model: ir.Model, sizes: Mapping[str, int]) -> Peak:
    """The peak of one run of the main graph.

    Args:
        model: any.
        sizes: bytes of each value by name; one that is missing counts as nothing.
    """
    names = [str(node.name) for node in model.graph]
    change = [0] * (len(names) + 2)
    for value, (first, last) in lifetimes(model.graph).items():
        change[first] += sizes.get(str(value.name), 0)
        change[last + 1] -= sizes.get(str(value.name), 0)
    most, where, now = 0, None, 0
    for number, name in enumerate(names or [None]):
        now += change[number]
        if now > most:
            most, where = now, name
    return Peak(most, where)


def static_sizes(model: ir.Model) -> dict[str, int]:
    """Bytes of each value of a canonical model by name, as far as known; free sizes count as one."""
    single = model.clone()
    for value in single.graph.inputs:
        if value.shape is not None:
            value.shape = ir.Shape([dim if isinstance(dim, int) else 1 for dim in value.shape])
    found = concretize(single)
    return {
        str(value.name): math.ceil(math.prod(found.shapes[value]) * dtype.itemsize)
        for value, dtype in found.dtypes.items()
        if value in found.shapes and dtype != ir.DataType.STRING
    }


class Memory:
    """The memory of activations as a function of how many channels each group keeps.

    Args:
        coupling: of the model.
        sizes: bytes of each value in one dense run by name, for example of one sample; the sizes of the
            coupling itself may belong to any number of samples.
    """

    def __init__(self, coupling: Coupling, sizes: Mapping[str, int]) -> None:
        lengths = Sizes(coupling)
        moments: list[Terms] = [{} for _ in coupling.model.graph] or [{}]
        for value, (first, last) in lifetimes(coupling.model.graph).items():
            size = lengths.scaled(value, sizes.get(str(value.name), 0))
            for moment in moments[first : last + 1]:
                add(moment, size)
        self.moments = [Polynomial(terms, lengths.full) for terms in _undominated(moments)]

    def value(self, counts: Mapping[int, int]) -> float:
        """Peak in bytes when each group keeps ``counts`` channels; a group that is missing keeps all."""
        return max(moment.value(counts) for moment in self.moments)

    def limits(self, limit: float) -> Iterator[tuple[Polynomial, float]]:
        """What must hold so that the peak is at most ``limit`` bytes: costs, and the limit of each."""
        for moment in self.moments:
            if moment.value({}) > limit:
                yield moment, limit


def _undominated(moments: list[Terms]) -> list[Terms]:
    """Without those that can never be the largest: no coefficient exceeds that of another one."""
    found: list[Terms] = []
    for terms in sorted(moments, key=lambda terms: -sum(terms.values())):
        if not any(all(other.get(term, 0) >= c for term, c in terms.items()) for other in found):
            found.append(terms)
    return found
