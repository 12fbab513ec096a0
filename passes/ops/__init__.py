"""Everything known about operators, one file per family; :data:`TABLE` is all of it."""

from __future__ import annotations

import onnx_ir as ir

from obs_onnx.passes.ops import conv, matmul
from obs_onnx.passes.ops.registry import Op, key

__all__ = ["TABLE", "Op", "key", "lookup"]

TABLE: dict[str, Op] = {**conv.TABLE, **matmul.TABLE}


def lookup(node: ir.Node) -> Op | None:
    """What is known about the operator of ``node``; None for an unknown operator."""
    return TABLE.get(key(node))
