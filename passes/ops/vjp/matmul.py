"""Gradients of matrix products: for ``Y = A B``, ``dA = dY B^T`` and ``dB = A^T dY``.

Matrices are transposed by Gemm where they have two axes: no copy is made. Leading axes over which a weight
of two axes is broadcast are folded into its rows, so that dB is one product.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence

import onnx_ir as ir

from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.traits.composite import composite
from obs_onnx.passes.traits.vjp import Vjp

__all__ = ["RULES"]

_DFT_AXIS_INPUT = 20  # opset in which the axis of DFT became an input


def _swap(v: Vjp, value: ir.Value) -> ir.Value:
    """The last two axes exchanged."""
    rank = v.rank(value)
    return v.transpose(value, [*range(rank - 2), rank - 1, rank - 2])


def _product(v: Vjp, a: ir.Value, b: ir.Value, swap_a: bool = False, swap_b: bool = False) -> ir.Value:
    """``a b``, each with its last two axes exchanged where asked."""
    if v.rank(a) == v.rank(b) == 2 and (swap_a or swap_b):
        return v.op("Gemm", a, b, transA=int(swap_a), transB=int(swap_b))
    return v.op("MatMul", _swap(v, a) if swap_a else a, _swap(v, b) if swap_b else b)


def _rows(v: Vjp, value: ir.Value) -> ir.Value:
    """All axes but the last as one."""
    if v.rank(value) == 2:
        return value
    last = v.dims(value)[-1]
    if last:
        return v.reshape(value, [-1, last])
    return v.reshape(value, v.op("Concat", v.ints([-1]), v.size_of(value, -1), axis=0))


def _matmul(v: Vjp) -> None:
    """A vector on the left is one row, a vector on the right one column."""
    (a, b), gy = v.two(), v.gy()
    row, column = v.rank(a) == 1, v.rank(b) == 1
    if row and column:
        if v.wants(0):
            v.give(0, v.mul(gy, b))
        if v.wants(1):
            v.give(1, v.mul(gy, a))
        return
    if row:
        a_MK, gy = v.unsqueeze(a, [0]), v.unsqueeze(gy, [v.rank(b) - 2])
    else:
        a_MK = a
    if column:
        b_KN, gy = v.unsqueeze(b, [1]), v.unsqueeze(gy, [v.rank(a) - 1])
    else:
        b_KN = b
    if v.wants(0):
        da = _product(v, gy, b_KN, swap_b=True)
        v.give(0, v.sum_to(v.squeeze(da, [v.rank(da) - 2]), a) if row else v.sum_to(da, a))
    if v.wants(1):
        if v.rank(b_KN) == 2:
            db = _product(v, _rows(v, a_MK), _rows(v, gy), swap_a=True)
        else:
            db = _product(v, a_MK, gy, swap_a=True)
        v.give(1, v.squeeze(db, [1]) if column else v.sum_to(db, b))


def _scaled(v: Vjp, value: ir.Value, name: str) -> ir.Value:
    factor = node_facts.float_attribute(v.node, name, 1.0)
    return value if factor == 1.0 else v.mul(value, factor)


def _fused(v: Vjp) -> None:
    """``alpha A' B'`` with axes exchanged as the attributes say."""
    if node_facts.int_attribute(v.node, "transBatchA") or node_facts.int_attribute(v.node, "transBatchB"):
        v.refuse("its batch axes are transposed")
    (a, b), gy = v.two(), _scaled(v, v.gy(), "alpha")
    if v.rank(a) < 2 or v.rank(b) < 2:
        v.refuse("an operand is a vector")
    swap_a, swap_b = (bool(node_facts.int_attribute(v.node, name)) for name in ("transA", "transB"))
    if v.wants(0):
        left = _product(v, b, gy, swap_b, True) if swap_a else _product(v, gy, b, False, not swap_b)
        v.give(0, v.sum_to(left, a))
    if v.wants(1):
        right = _product(v, gy, a, True, swap_a) if swap_b else _product(v, a, gy, not swap_a, False)
        v.give(1, v.sum_to(right, b))


def _gemm(v: Vjp) -> None:
    """``alpha A' B' + beta C``, where C is broadcast to the product."""
    _fused(v)
    if v.has(2) and v.wants(2):
        v.give(2, v.sum_to(_scaled(v, v.gy(), "beta"), v.x(2)))


def _einsum(v: Vjp) -> None:
    """The gradient of one operand is the Einsum of the others and of dY, with its own letters on the right.

    Letters that only this operand has were summed over: its gradient is the same all along them.
    """
    terms, right = _terms(v)
    for index, term in enumerate(terms):
        if not v.wants(index):
            continue
        others = [k for k in range(len(terms)) if k != index]
        seen = set(right).union(*(terms[k] for k in others))
        kept = "".join(letter for letter in term if letter in seen)
        equation = ",".join([right, *(terms[k] for k in others)]) + "->" + kept
        grad = v.op("Einsum", v.gy(), *(v.x(k) for k in others), equation=equation)
        grad = v.unsqueeze(grad, [axis for axis, letter in enumerate(term) if letter not in seen])
        full = v.expand_like(grad, v.x(index)) if len(kept) < len(term) else v.sum_to(grad, v.x(index))
        v.give(index, full)


def _terms(v: Vjp) -> tuple[list[str], str]:
    """One letter for each axis of the operands and of the result."""
    equation = node_facts.text_attribute(v.node, "equation", "").replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if not arrow:
        right = "".join(sorted(c for c in set(left) - set(",.") if left.count(c) == 1))
        right = f"...{right}" if "." in left else right
    unused = [letter for letter in string.ascii_letters if letter not in equation]
    ranks = [v.rank(v.x(k)) - len(term.replace("...", "")) for k, term in enumerate(terms)]
    spare = "".join(unused[: max([n for n, t in zip(ranks, terms, strict=True) if "." in t] or [0])])
    terms = [t.replace("...", spare[len(spare) - n :]) for n, t in zip(ranks, terms, strict=True)]
    if any(len(set(term)) != len(term) for term in terms):
        v.refuse("it takes a diagonal")
    return terms, right.replace("...", spare)


def _activated_gemm(v: Vjp, inputs: Sequence[ir.Value | None]) -> list[ir.Value | None]:
    """com.microsoft FusedGemm: an activation of Gemm."""
    activation = node_facts.text_attribute(v.node, "activation", "")
    if activation not in ("Relu", "Tanh", "Sigmoid"):
        v.refuse(f"its activation is {activation!r}")
    product = v.op(
        "Gemm",
        *inputs,
        alpha=node_facts.float_attribute(v.node, "alpha", 1.0),
        beta=node_facts.float_attribute(v.node, "beta", 1.0),
        transA=node_facts.int_attribute(v.node, "transA"),
        transB=node_facts.int_attribute(v.node, "transB"),
    )
    return [v.op(activation, product)]


def _dft(v: Vjp) -> None:
    """The matrix of the transform is symmetric: conj(F) is its adjoint, and conj(F) / n its inverse."""
    v.stop(1, 2)
    x, inverse = v.x(), node_facts.int_attribute(v.node, "inverse")
    if v.has(1) or node_facts.int_attribute(v.node, "onesided"):
        v.refuse("it pads, cuts or returns half of the spectrum")
    axis, operands, attributes = _dft_axis(v)
    back = v.op("DFT", v.gy(), *operands, inverse=1 - inverse, **attributes)
    length = v.dims(x)[axis]
    n = float(length) if length is not None else v.cast(v.size_of(x, axis), x)
    grad = v.div(back, n) if inverse else v.mul(back, n)
    if v.dims(x)[-1] == 1:
        grad = v.slice(grad, [0], [1], [v.rank(x) - 1])
    v.give(0, grad)


def _dft_axis(v: Vjp) -> tuple[int, list[ir.Value | None], dict[str, int]]:
    """The axis, and the operands and attributes that say it."""
    if v.opset < _DFT_AXIS_INPUT:
        axis = node_facts.int_attribute(v.node, "axis", 1)
        return axis, [], {"axis": axis}
    given = v.ints_of(2) if v.has(2) else (-2,)
    if given is None:
        v.refuse("its axis is computed at run time")
    return given[0], [None, v.x(2)] if v.has(2) else [], {}


RULES: dict[Callable[[Vjp], None], str] = {
    composite(_activated_gemm): "com.microsoft::FusedGemm",
    _matmul: "MatMul",
    _gemm: "Gemm",
    _fused: "com.microsoft::FusedMatMul",
    _einsum: "Einsum",
    _dft: "DFT",
}
