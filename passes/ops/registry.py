"""The record of everything known about one operator.

Each family file describes its operators by small functions and ends in a table ``TABLE`` that
maps ``op_type`` (or ``domain::op_type`` outside the default domain) to one :class:`Op`.
A field that is None means *not known*: callers report the operator, they never guess.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir

from obs_onnx.passes.layers import Linear

__all__ = ["Op", "key"]


@dataclass(frozen=True)
class Op:
    """What is known about one operator.

    Attributes:
        linear: how the node multiplies its input by a constant weight, or the reason (a string)
            why it is left alone, or None where no input is a constant weight.
        macs: multiply-accumulates of one run, from the static shapes (a symbolic dimension counts as one).
        lipschitz: for each input, an upper bound of the Lipschitz constant (Euclidean norm of the whole
            tensor) of the outputs with respect to it; None for an input without one.
    """

    linear: Callable[[ir.Node], Linear | str | None] | None = None
    macs: Callable[[ir.Node], int] | None = None
    lipschitz: Callable[[ir.Node], tuple[float | None, ...]] | None = None


def key(node: ir.Node) -> str:
    """Name of the node's operator in the tables."""
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"
