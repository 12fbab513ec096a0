"""What a model costs as a function of how many channels each group keeps, not of which ones.

The size of an axis is a polynomial of the kept counts (:mod:`obs_onnx.passes.costs.sizes`), and that of an
initializer the product of its axes. Multiply-accumulates come from the operators' own rules: the rule of each
node is evaluated at several sizes of the axes that can shrink and interpolated in exact integers, as a
polynomial with exponents from -1 to 2 for each axis.

Channels of a group are alike, so that counts determine sizes, up to elements that stand for several channels
of one group; the selection that is made in the end is worth counting exactly
(:class:`obs_onnx.passes.costs.macs.MacCounter` with
:meth:`obs_onnx.passes.channels.coupling.Coupling.shapes`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Protocol

import numpy as np
import onnx_ir as ir
from numpy.typing import ArrayLike, NDArray

from obs_onnx.passes.canonical.plainer.factors import output_axis, pairs
from obs_onnx.passes.channels.coupling import Coupling
from obs_onnx.passes.costs.factors import MergedPolynomial, surplus
from obs_onnx.passes.costs.interpolate import interpolate
from obs_onnx.passes.costs.macs import MacCounter
from obs_onnx.passes.costs.polynomials import Terms, add, multiply, power
from obs_onnx.passes.costs.sizes import Sizes
from obs_onnx.passes.layers.parameters import integer_forms, parameters
from obs_onnx.passes.traits.linear import Integers

__all__ = ["Cost", "Costs"]


class Cost(Protocol):
    """Anything a model costs that follows from the kept counts of its groups (missing: all are kept)."""

    def value(self, counts: Mapping[int, int]) -> float:
        """The cost of the whole model."""

    def saving(self, counts: Mapping[int, int], group: int, fewer: ArrayLike) -> NDArray[np.float64]:
        """What is saved when ``group`` alone keeps ``fewer`` channels: an array like ``fewer``."""

    def coupled(self, group: int) -> frozenset[int]:
        """Groups whose savings depend on the count of ``group``, itself included."""


class Costs:
    """Costs of one model.

    Attributes:
        full: number of channels of each group.
        macs: multiply-accumulates of one run at the concrete sizes of the coupling, batch included: of use
            relative to the dense model.
        params: elements of all floating-point constants, and of integers that stand for such numbers.
        bytes: size of all initializers in bytes; what removal adds to follow sizes is not known before.
        approximate: names of nodes whose multiply-accumulates are no polynomial and count as when dense.
    """

    def __init__(self, coupling: Coupling) -> None:
        self._coupling, self._sizes = coupling, Sizes(coupling)
        self.full = self._sizes.full
        self.approximate: list[str] = []
        held = [v for v in coupling.model.graph.initializers.values() if v.const_value is not None]
        params: Terms = {(): sum(one.size for one in parameters(coupling.model))}
        forms = integer_forms(coupling.model)
        stored: Terms = {}
        shares = _shares(forms)
        for value in held:
            tensor, elements = value.const_value, self._elements(value)
            assert tensor is not None
            share = shares.get(str(value.name), 1.0)
            add(stored, elements, share * tensor.nbytes / tensor.size if tensor.size else 0)
            if tensor.dtype.is_floating_point():
                add(params, elements, share)
                params[()] -= tensor.size
            elif (form := forms.get(str(value.name))) is not None and tensor.size:
                add(params, elements, math.prod(form.shape) / tensor.size)
                params[()] -= math.prod(form.shape)
        macs: Terms = {}
        by_node: dict[ir.Node, Terms] = {}
        for node in coupling.model.graph:
            counter = MacCounter([node])
            if counter.values:
                by_node[node] = self._macs(node, counter)
                add(macs, by_node[node])
        weights, runs = self._surpluses(by_node)
        width = [(terms, value.dtype.itemsize if value.dtype else 0) for terms, value in weights]
        self.params = MergedPolynomial(params, self.full, [terms for terms, _ in weights])
        self.bytes = MergedPolynomial(
            stored, self.full, [multiply([terms, {(): size}]) for terms, size in width]
        )
        self.macs = MergedPolynomial(macs, self.full, runs)

    def _surpluses(self, macs: Mapping[ir.Node, Terms]) -> tuple[list[tuple[Terms, ir.Value]], list[Terms]]:
        """What pairs of factors cost more than the layers they stand for: elements, multiply-accumulates."""
        weights, runs = [], []
        for first, second in pairs(self._coupling.model):
            a, b = first.inputs[1], second.inputs[1]
            if a is None or b is None:
                continue
            axis, mine, theirs = output_axis(first), self._coupling.axes(a), self._coupling.axes(b)
            if mine is None or theirs is None:
                continue
            rank, outputs = self._sizes.axis(mine[axis]), self._sizes.axis(theirs[axis])
            size = surplus(self._elements(a), self._elements(b), rank, outputs)
            run = surplus(macs[first], macs[second], rank, outputs)
            if size is not None and run is not None:
                weights.append((size, a))
                runs.append(run)
        return weights, runs

    def _elements(self, value: ir.Value) -> Terms:
        """Number of elements of an initializer."""
        assert value.const_value is not None
        elements = self._sizes.elements(value) if self._coupling.graph.concrete.holds(value) else None
        return {(): value.const_value.size} if elements is None else elements

    def _macs(self, node: ir.Node, counter: MacCounter) -> Terms:
        """Multiply-accumulates of one node."""
        coupling, concrete = self._coupling, self._coupling.graph.concrete
        axes = {value: coupling.axes(value) for value in counter.values if value in concrete.shapes}
        shrinking = {
            id(labels): labels
            for own in axes.values()
            for labels in own or ()
            if set(self._sizes.axis(labels)) != {()}
        }

        def count(times: Mapping[int, int]) -> int:
            """At the dense sizes times a whole number for each axis that can shrink (by id of its labels)."""
            return counter(
                {
                    value: concrete.shapes[value]
                    if own is None
                    else [len(labels) * times.get(id(labels), 1) for labels in own]
                    for value, own in axes.items()
                }
            )

        dense = count({})
        varied = [axis for axis in shrinking if count({axis: 12}) != dense]
        found = interpolate(lambda times: count(dict(zip(varied, times, strict=True))), len(varied))
        total: Terms = {}
        for exponents, part in (found or {}).items():
            sizes = [self._sizes.axis(shrinking[axis]) for axis in varied]
            factors = [power(size, p) for size, p in zip(sizes, exponents, strict=True)]
            if None in factors:
                found = None
                break
            scale = math.prod(
                Fraction(len(shrinking[axis])) ** p for axis, p in zip(varied, exponents, strict=True)
            )
            add(total, multiply(factor for factor in factors if factor is not None), float(part / scale))
        if found is None:
            self.approximate.append(str(node.name))
            return {(): dense}
        return total


def _shares(forms: Mapping[str, Integers]) -> dict[str, float]:
    """What elements of opened blocks count where they are packed, of what they take up now."""
    found: dict[str, float] = {}
    for form in forms.values():
        if form.run:
            scales, bits = form.names[1:], (form.highest + 1).bit_length() - 1
            found |= {form.q: bits / 8, **dict.fromkeys(scales, 1 / form.run)}
    return found
