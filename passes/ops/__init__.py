"""Everything known about operators, one file per family; :data:`TABLE` is all of it.

In: a node. Out: the record of its operator (:func:`lookup`), in which None means *not known*. Next:
:mod:`obs_onnx.passes.layers` and :mod:`obs_onnx.passes.channels` ask the records.
"""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir

from obs_onnx.passes.ops import (
    attention,
    control,
    conv,
    elementwise,
    extend,
    matmul,
    normalization,
    pool,
    recurrent,
    reduce,
    select,
    shape,
)
from obs_onnx.passes.ops.fused import experts, forms, gated, shared, states
from obs_onnx.passes.ops.quantized import blocks
from obs_onnx.passes.traits.known_versions import known
from obs_onnx.passes.traits.linear import Linear
from obs_onnx.passes.traits.op import Op, key, without_rules

__all__ = ["TABLE", "Op", "key", "linear", "lookup"]

_RECORDS: dict[str, Op] = {
    **attention.TABLE,
    **blocks.TABLE,
    **control.TABLE,
    **conv.TABLE,
    **elementwise.TABLE,
    **experts.TABLE,
    **extend.TABLE,
    **forms.TABLE,
    **gated.TABLE,
    **matmul.TABLE,
    **normalization.TABLE,
    **pool.TABLE,
    **recurrent.TABLE,
    **reduce.TABLE,
    **select.TABLE,
    **shape.TABLE,
    **shared.TABLE,
    **states.TABLE,
}

TABLE: dict[str, Op] = {name: replace(op, known=known(name)) for name, op in _RECORDS.items()}

_UNKNOWN = Op()


def lookup(node: ir.Node) -> Op:
    """What is known about the operator of ``node``.

    Of an operator without an entry that is nothing. Of a node with a version, an attribute or an input that
    its rules were not written for, the rules only say so.
    """
    op = TABLE.get(key(node), _UNKNOWN)
    reason = None if op.known is None else op.known.exceeded(node)
    return op if reason is None else without_rules(op, reason)


def linear(node: ir.Node) -> Linear | None:
    """How ``node`` multiplies by a constant weight; None where it does not, or the weight is left alone."""
    op = lookup(node)
    found = op.linear(node) if op.linear is not None else None
    return found if isinstance(found, Linear) else None
