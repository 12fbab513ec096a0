"""Operators that are linear and work on each axis by itself: average pooling, resizing, padding by copies.

Along one axis such an operator is a matrix A of shape (length before, length after), ``y = x A``, and the
rows of A are what the operator makes of the rows of the identity. Its vector-Jacobian product is ``gy A^T``,
axis by axis. The operator itself makes the matrix while the graph runs, so that every rounding mode and
padding rule is that of the forward pass; runtimes fold it where the shapes are static.
"""

from __future__ import annotations

import onnx_ir as ir

from obs_onnx.passes.traits.vjp import Vjp

__all__ = ["identity", "pull_back"]


def identity(v: Vjp, value: ir.Value, axis: int) -> ir.Value:
    """The identity as an image: (1, 1, L, L) in the type of ``value``, whose axis ``axis`` has length L."""
    length = v.dims(value)[axis]
    if length is not None:
        shape = v.ints([length, length])
    else:
        shape = v.op("Concat", *[v.size_of(value, axis)] * 2, axis=0)
    eye = v.op("EyeLike", v.op("ConstantOfShape", shape))
    return v.unsqueeze(v.cast(eye, value), [0, 1])


def pull_back(v: Vjp, grad: ir.Value, image: ir.Value, axis: int) -> ir.Value:
    """``grad A^T`` along ``axis``, for A of shape (1, 1, before, after)."""
    rank = v.rank(grad)
    axis %= rank
    matrix = v.squeeze(image, [0, 1])
    if rank > 1 and axis == rank - 2:
        return v.op("MatMul", matrix, grad)
    perm = list(range(rank))
    perm[axis], perm[-1] = perm[-1], perm[axis]
    product = v.op("MatMul", v.transpose(grad, perm), v.transpose(matrix, [1, 0]))
    return v.transpose(product, perm)
