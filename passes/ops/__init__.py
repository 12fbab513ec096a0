"""Everything known about operators, one file per family; :data:`TABLE` is all of it."""

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
from obs_onnx.passes.traits.op import Op, key

__all__ = ["TABLE", "Op", "key", "lookup"]

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


def lookup(node: ir.Node) -> Op | None:
    """What is known about the operator of ``node``; None for an unknown operator."""
    return TABLE.get(key(node))
