"""Everything known about operators, one file per family; :data:`TABLE` is all of it.

In: a node. Out: the record of its operator (:func:`lookup`), in which None means *not known*. Next:
:mod:`obs_onnx.passes.layers` and :mod:`obs_onnx.passes.channels` ask the records.
"""

from __future__ import annotations

import onnx_ir as ir

from obs_onnx.passes.ops import (
    attention,
    control,
    conv,
    elementwise,
    fourier,
    matmul,
    normalization,
    pool,
    recurrent,
    reduce,
    select,
    shape,
)
from obs_onnx.passes.traits.linear import Linear
from obs_onnx.passes.traits.op import Op, key

__all__ = ["TABLE", "Op", "key", "linear", "lookup"]

TABLE: dict[str, Op] = {
    **attention.TABLE,
    **control.TABLE,
    **conv.TABLE,
    **elementwise.TABLE,
    **fourier.TABLE,
    **matmul.TABLE,
    **normalization.TABLE,
    **pool.TABLE,
    **recurrent.TABLE,
    **reduce.TABLE,
    **select.TABLE,
    **shape.TABLE,
}


_UNKNOWN = Op()


def lookup(node: ir.Node) -> Op:
    """What is known about the operator of ``node``; of an operator without an entry, nothing."""
    return TABLE.get(key(node), _UNKNOWN)


def linear(node: ir.Node) -> Linear | None:
    """How ``node`` multiplies by a constant weight; None where it does not, or the weight is left alone."""
    op = lookup(node)
    found = op.linear(node) if op.linear is not None else None
    return found if isinstance(found, Linear) else None
