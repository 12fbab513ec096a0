"""Operators that are differentiated as what they stand for: several simpler operators."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from obs_onnx.passes.traits.vjp import Vjp

__all__ = ["composite"]

Written = Callable[[Vjp, Sequence[ir.Value | None]], Sequence[ir.Value | None]]
"""From a node's inputs, None where absent, nodes for its outputs, None for those without a gradient."""


def composite(write: Written) -> Callable[[Vjp], None]:
    """The ``vjp`` of an operator that ``write`` writes out in simpler ones.

    The outputs are computed again by the simpler operators, which then are differentiated. Copies of the
    inputs keep that from going on beyond the node.
    """

    def rule(v: Vjp) -> None:
        wanted = sorted(v.wanted)
        inputs = [v.x(i) if v.has(i) else None for i in range(len(v.node.inputs))]
        copies = {i: v.shaped(v.op("Identity", v.x(i)), v.x(i)) for i in wanted}
        outputs = write(v, [copies.get(i, x) for i, x in enumerate(inputs)])
        seeds = {}
        for index, grad in v.grads.items():
            output = outputs[index] if index < len(outputs) else None
            if output is None:
                v.refuse(f"its output {index} is used")
            seeds[output] = grad
        v.stop(*wanted)
        grads = v.inner.backpropagate(v, seeds, list(copies.values()))
        for index, grad_of_input in zip(wanted, grads, strict=True):
            if grad_of_input is not None:
                v.give(index, grad_of_input)

    return rule
